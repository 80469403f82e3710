import Foundation
import Testing

extension ClusterTests {
    @Suite struct MetadataCommandTests {
        /// What `metadata dump --output json` prints a line of.
        private struct Record: Decodable, Equatable {
            var offset: Int
            var epoch: Int
            var timestamp: Int
            var type: String
        }

        private func records(_ text: String) throws -> [Record] {
            try text.split(separator: "\n").map {
                try JSONDecoder().decode(Record.self, from: Data($0.utf8))
            }
        }

        @Test func theMetadataIsATreeAndItsLogIsDecodedLiveAndFromFiles() async throws {
            try await Cluster.with { cluster in
                try await cluster.millrace("topic", "create", "shown", "--partitions", "2")
                let root = try await cluster.millrace("metadata", "show")
                #expect(root.split(separator: "\n").contains("topics"), "\(root)")
                #expect(
                    try await cluster.millrace("metadata", "show", "/topics/shown/partitions")
                        == "0\n1\n")
                let partition = try await cluster.millrace(
                    "metadata", "show", "/topics/shown/partitions/1")
                #expect(partition.contains("\"leader\": 1"), "\(partition)")
                let stray = try await cluster.failure("metadata", "show", "/topics/other")
                #expect(stray.contains("shown"), "\(stray)")

                let live = try records(
                    try await cluster.millrace("metadata", "dump", "--output", "json"))
                #expect(live.map(\.offset) == Array(0..<live.count))
                #expect(live.contains { $0.type == "leaderChange" })
                #expect(live.contains { $0.type == "topic" })
                #expect(live.contains { $0.type == "voters" })
                let tail = try records(
                    try await cluster.millrace(
                        "metadata", "dump", "--output", "json", "--from-offset", "3"))
                #expect(tail.first?.offset == 3)
                let text = try await cluster.millrace("metadata", "dump")
                #expect(text.contains("\"shown\""))
                #expect(text.split(separator: "\n").count >= live.count)

                try await checkFiles(cluster, live)
            }
        }

        private func checkFiles(_ cluster: Cluster, _ live: [Record]) async throws {
            let controller = try #require(try cluster.nodes().first { $0.role == "controller" })
            let folder = URL(fileURLWithPath: controller.dataDir + "/__cluster_metadata-0")
            let names = try FileManager.default.contentsOfDirectory(atPath: folder.path)
            let segment = try #require(names.first { $0.hasSuffix(".log") })
            let snapshot = try #require(names.first { $0.hasSuffix(".checkpoint") })
            // A copy, as the original grows.
            let copy = cluster.directory.appendingPathComponent(segment)
            try FileManager.default.copyItem(
                at: folder.appendingPathComponent(segment), to: copy)
            let offline = try records(
                try await Cluster.run(
                    "metadata", "dump", copy.path, "--output", "json", in: cluster.directory))
            #expect(Array(offline.prefix(live.count)) == live)

            let level = try await Cluster.run(
                "metadata", "show", "/features/metadata.version", "--snapshot",
                folder.appendingPathComponent(snapshot).path, in: cluster.directory)
            #expect(level == "3")

            var damaged = try Data(contentsOf: copy)
            let position = try #require(damaged.lastIndex { $0 != 0 }) - 2
            damaged[position] ^= 0xff
            try damaged.write(to: copy)
            let result = try await RunningProcess.run(
                Cluster.binary, ["metadata", "dump", copy.path, "--output", "json"],
                in: cluster.directory)
            #expect(result.exitCode == 1)
            #expect(result.errors.contains(copy.path) && result.errors.contains("byte"))
            let before = try records(result.output)
            #expect(!before.isEmpty && before.count < offline.count)
            #expect(before == Array(offline.prefix(before.count)))
        }

        @Test func configsChangeWhileTheClusterRuns() async throws {
            try await Cluster.with { cluster in
                try await cluster.millrace("topic", "create", "t", "--replication-factor", "1")
                try await cluster.millrace(
                    "topic", "alter", "t", "--config", "max.message.bytes=1024")
                let described = try await cluster.millrace(
                    "config", "describe", "--topic", "t", "max.message.bytes")
                #expect(
                    described.split(separator: "\n").last?.split(separator: " ").prefix(4)
                        == ["max.message.bytes", "1024", "topic", "1048588"], "\(described)")
                let value = String(repeating: "x", count: 4_000)
                let produce = #"{"topic": "t", "records": [{"value": {"text": "\#(value)"}}]}"#
                try await eventually("the record is too large") {
                    try await cluster.curl("Broker/Produce", produce).error == "MESSAGE_TOO_LARGE"
                }
                try await cluster.millrace(
                    "topic", "alter", "t", "--delete-config", "max.message.bytes")
                try await eventually("the record is small enough") {
                    try await cluster.curl("Broker/Produce", produce).status == 200
                }
                try await cluster.millrace(
                    "config", "alter", "--cluster", "--set", "num.partitions=4")
                try await cluster.millrace("topic", "create", "wide")
                #expect(try await cluster.describe("wide").partitions.count == 4)
                try await cluster.millrace(
                    "config", "alter", "--broker", "1", "--set", "fetch.max.bytes=1048576",
                    "--validate-only")

                let unknown = try await cluster.failure(
                    "topic", "alter", "t", "--config", "min.insync.replica=2")
                #expect(unknown.contains("INVALID_CONFIG"), "\(unknown)")
                #expect(unknown.contains("min.insync.replicas"), "\(unknown)")
                let absent = try await cluster.failure(
                    "topic", "alter", "absent", "--config", "min.insync.replicas=1")
                #expect(absent.contains("UNKNOWN_TOPIC_OR_PARTITION"), "\(absent)")
            }
        }

        @Test func aBrokerThatIsGoneIsForgottenAndFeaturesAreShown() async throws {
            try await Cluster.with(brokers: 2) { cluster in
                let serving = try await cluster.failure("cluster", "unregister", "2")
                #expect(serving.contains("INVALID_REQUEST"), "\(serving)")
                try await cluster.terminate(2)
                try await eventually("broker 2 is forgotten") {
                    let result = try await RunningProcess.run(
                        Cluster.binary,
                        ["cluster", "unregister", "2", "--bootstrap", cluster.bootstrap],
                        in: cluster.directory)
                    return result.exitCode == 0
                }
                #expect(
                    try await cluster.failure("cluster", "unregister", "2")
                        .contains("BROKER_ID_NOT_REGISTERED"))
                let features = try await cluster.millrace("cluster", "features")
                #expect(
                    features.split(separator: "\n").last?.split(separator: " ").prefix(2)
                        == ["metadata.version", "3"], "\(features)")
                #expect(
                    try await cluster.millrace("cluster", "upgrade").contains("3 already"))
                let tooHigh = try await cluster.failure("cluster", "upgrade", "--level", "9")
                #expect(tooHigh.contains("9"), "\(tooHigh)")
            }
        }
    }
}
