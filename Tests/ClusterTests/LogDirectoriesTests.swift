import Foundation
import Testing

extension ClusterTests {
    /// Brokers with two log directories each.
    @Suite struct LogDirectoriesTests {
        private struct Sizes: Decodable {
            struct Replica: Decodable {
                var partition: Int
                var broker: Int
                var directory: String
            }
            var replicas: [Replica]
        }

        private struct Description: Decodable {
            struct Partition: Decodable {
                var partition: Int
                var leader: Int?
                var isr: [Int]
                var offlineReplicas: [Int]
            }
            var partitions: [Partition]
        }

        private func directories(
            of broker: Int, in cluster: Cluster
        ) async throws -> [Int: String] {
            let sizes = try await cluster.millrace(
                "topic", "describe", "t", "--size", as: Sizes.self)
            return Dictionary(
                uniqueKeysWithValues: sizes.replicas.filter { $0.broker == broker }
                    .map { ($0.partition, $0.directory) })
        }

        private func partitions(_ cluster: Cluster) async throws -> [Description.Partition] {
            try await cluster.millrace("topic", "describe", "t", as: Description.self).partitions
        }

        private func produce(_ lines: Range<Int>, in cluster: Cluster) async throws {
            let producer = try cluster.begin("produce", "t")
            try producer.write(Data(lines.map { "line \($0)\n" }.joined().utf8))
            try producer.closeInput()
            #expect(try await producer.wait(within: .seconds(60)).exitCode == 0)
        }

        private func consume(_ cluster: Cluster) async throws -> Set<Substring> {
            let output = try await cluster.millrace(
                "consume", "t", "--from-beginning", "--exit-at-end")
            return Set(output.split(separator: "\n"))
        }

        private func lines(_ lines: Range<Int>) -> Set<Substring> {
            Set(lines.map { "line \($0)" })
        }

        @Test func aDirectoryFailsIsMissingAndComesBack() async throws {
            try await Cluster.with(brokers: 3, logDirs: 2) { cluster in
                try await cluster.millrace(
                    "topic", "create", "t", "--partitions", "4", "--replication-factor", "3")
                try await produce(0..<200, in: cluster)
                let first = try cluster.node(1).dataDir
                let second = first + "-2"
                let before = try await directories(of: 1, in: cluster)
                #expect(Set(before.values) == [first, second])
                let lost = Set(before.filter { $0.value == second }.keys)

                // One replica more goes there, and another comes back from there.
                let goes = try #require(before.first { $0.value == first }?.key)
                try await cluster.millrace(
                    "topic", "move-log", "t", "--partition", "\(goes)", "--broker", "1",
                    "--to", second)
                #expect(try await directories(of: 1, in: cluster)[goes] == second)
                try await cluster.millrace(
                    "topic", "move-log", "t", "--partition", "\(goes)", "--broker", "1",
                    "--to", first)
                let refusal = try await cluster.failure(
                    "topic", "move-log", "t", "--partition", "0", "--broker", "1", "--to", "/none")
                #expect(refusal.contains("LOG_DIR_NOT_FOUND"), "\(refusal)")
                try await produce(200..<300, in: cluster)

                // It fails while it is in use: nothing can be made in it any more.
                try FileManager.default.moveItem(atPath: second, toPath: second + ".away")
                try Data().write(to: URL(fileURLWithPath: second))
                try await produce(300..<400, in: cluster)
                try await eventually(within: .seconds(60), "its replicas are offline") {
                    try await partitions(cluster).allSatisfy { partition in
                        partition.offlineReplicas == (lost.contains(partition.partition) ? [1] : [])
                            && partition.leader != nil
                    }
                }
                for partition in try await partitions(cluster)
                where lost.contains(partition.partition) {
                    #expect(partition.leader != 1 && !partition.isr.contains(1))
                }
                #expect(try await consume(cluster) == lines(0..<400))

                // It is missing when the broker starts.
                try await cluster.terminate(1)
                try cluster.restart(1)
                try await cluster.awaitRestarted(1)
                for partition in try await partitions(cluster) {
                    #expect(
                        partition.offlineReplicas == (lost.contains(partition.partition) ? [1] : [])
                    )
                }
                try await produce(400..<500, in: cluster)
                #expect(try await consume(cluster) == lines(0..<500))
                #expect(
                    try FileManager.default.attributesOfItem(atPath: second)[.size] as? Int == 0)

                // It is back.
                try await cluster.terminate(1)
                try FileManager.default.removeItem(atPath: second)
                try FileManager.default.moveItem(atPath: second + ".away", toPath: second)
                try cluster.restart(1)
                try await cluster.awaitRestarted(1)
                try await eventually(within: .seconds(60), "all replicas are in sync") {
                    try await partitions(cluster).allSatisfy {
                        Set($0.isr) == [1, 2, 3] && $0.offlineReplicas.isEmpty
                    }
                }
                #expect(try await directories(of: 1, in: cluster) == before)
                #expect(try await consume(cluster) == lines(0..<500))
            }
        }
    }
}
