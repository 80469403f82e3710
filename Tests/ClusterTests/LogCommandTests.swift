import Foundation
import Testing

extension ClusterTests {
    @Suite struct LogCommandTests {
        private struct Sizes: Decodable {
            struct Replica: Decodable {
                var partition: Int
                var broker: Int
                var size: Int
                var segments: Int
                var logStartOffset: Int
                var logEndOffset: Int
                var directory: String
            }
            var size: Int
            var replicas: [Replica]
        }

        private struct Deleted: Decodable {
            var logStartOffset: Int
        }

        private func sizes(_ cluster: Cluster) async throws -> Sizes {
            try await cluster.millrace("topic", "describe", "t", "--size", as: Sizes.self)
        }

        private func log(_ arguments: String..., in directory: URL) async throws -> (
            exitCode: Int32, output: String
        ) {
            let result = try await RunningProcess.run(
                Cluster.binary, ["log"] + arguments, in: directory)
            return (result.exitCode, result.output)
        }

        @Test func recordsAreDeletedOnEveryReplicaAndTheFilesTellSo() async throws {
            try await Cluster.with(brokers: 3) { cluster in
                try await cluster.millrace("topic", "create", "t", "--replication-factor", "3")
                let producer = try cluster.begin("produce", "t")
                try producer.write(Data((0..<100).map { "line \($0)\n" }.joined().utf8))
                try producer.closeInput()
                #expect(try await producer.wait(within: .seconds(60)).exitCode == 0)

                let deleted = try await cluster.millrace(
                    "topic", "delete-records", "t", "--partition", "0", "--before-offset", "40",
                    as: Deleted.self)
                #expect(deleted.logStartOffset == 40)
                let before = try await sizes(cluster)
                #expect(before.replicas.map(\.broker).count == 3)
                #expect(before.replicas.allSatisfy { $0.logStartOffset == 40 && $0.size > 0 })
                #expect(before.size == before.replicas.reduce(0) { $0 + $1.size })
                let rest = try await cluster.millrace(
                    "consume", "t", "--from-beginning", "--exit-at-end")
                #expect(rest.split(separator: "\n").first == "line 40")
                let refusal = try await cluster.failure(
                    "topic", "delete-records", "t", "--partition", "0", "--before-offset", "101")
                #expect(refusal.contains("OFFSET_OUT_OF_RANGE"), "\(refusal)")

                try await cluster.millrace(
                    "topic", "delete-records", "t", "--partition", "0", "--before-offset", "-1")
                let after = try await sizes(cluster)
                #expect(after.replicas.allSatisfy { $0.logStartOffset == 100 && $0.size == 0 })

                let second = try cluster.begin("produce", "t")
                try second.write(Data("last\n".utf8))
                try second.closeInput()
                #expect(try await second.wait(within: .seconds(60)).exitCode == 0)
                try await cluster.stop()
                try await checkFiles(try #require(after.replicas.first).directory, cluster)
                try await cluster.start()
                #expect(
                    try await cluster.millrace("consume", "t", "--from-beginning", "--exit-at-end")
                        == "last\n")
                #expect(try await sizes(cluster).replicas.allSatisfy { $0.logStartOffset == 100 })
            }
        }

        /// What the tools say of a stopped broker's files, sound ones and damaged ones.
        private func checkFiles(_ directory: String, _ cluster: Cluster) async throws {
            let verified = try await log("verify", directory, in: cluster.directory)
            #expect(verified.exitCode == 0, "\(verified.output)")
            let segment = "\(directory)/t-0/00000000000000000100.log"
            let dumped = try await log("dump", segment, "--records", in: cluster.directory)
            #expect(dumped.exitCode == 0)
            #expect(dumped.output.contains("baseOffset: 100"), "\(dumped.output)")
            #expect(dumped.output.contains("value: \"last\""), "\(dumped.output)")

            let original = try Data(contentsOf: URL(fileURLWithPath: segment))
            var damaged = original
            damaged[damaged.count - 2] ^= 1
            try damaged.write(to: URL(fileURLWithPath: segment))
            for arguments in [["verify", directory], ["dump", segment, "--verify"]] {
                let result = try await RunningProcess.run(
                    Cluster.binary, ["log"] + arguments, in: cluster.directory)
                #expect(result.exitCode == 1 && result.output.contains("byte 0"), "\(result)")
            }
            try original.write(to: URL(fileURLWithPath: segment))
        }
    }
}
