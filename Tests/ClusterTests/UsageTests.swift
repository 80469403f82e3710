import Foundation
import Testing

extension ClusterTests {
    /// Commands that need no cluster.
    @Suite struct UsageTests {
        @Test(
            arguments: [
                ("quorum add-voter 5", "ID@HOST:PORT"),
                ("quorum add-voter x@h:1", "ID@HOST:PORT"),
                ("quorum add-voter 5@h:1/short", "storage info"),
                ("quorum add-voter 5@h:1 --timeout 0", "--timeout"),
                ("quorum remove-voter 5@h:1", "ID[/DIRECTORY-ID]"),
                ("quorum transfer --to -1", "--to"),
                ("metadata show topics", "/topics"),
                ("metadata dump --from-offset -1", "--from-offset"),
                ("metadata dump a.log --bootstrap h:1", "--bootstrap"),
                ("config describe", "--topic, --broker and --cluster"),
                ("config describe --topic t --cluster", "--topic, --broker and --cluster"),
                ("config alter --topic t", "--set"),
                ("config alter --topic t --set a", "key=value"),
                ("config alter --topic t --delete a=b", "key alone"),
                ("config alter --topic t --set a=1 --delete a", "twice"),
                ("topic alter t", "--config"),
                ("cluster upgrade --level 0", "--level"),
                ("cluster unregister -- -1", "node id"),
                ("bench failover --role controller", "--cluster-json"),
                ("bench failover --role broker --cluster-json x --pause", "--role controller"),
                ("bench metadata --brokers 2", "--brokers"),
                ("storage format --standalone --no-initial-controllers", "one of"),
                ("storage format --initial-controllers 1@h:1", "id@host:port:directory-id"),
                ("storage format --directory-id x", "random-id"),
                ("storage format --metadata-version 9", "1 to 3"),
            ])
        func wrongArgumentsAreExplainedWithExitCode2(command: String, hint: String) async throws {
            let directory = try Cluster.temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let result = try await RunningProcess.run(
                Cluster.binary, command.split(separator: " ").map(String.init), in: directory)
            #expect(result.exitCode == 2, "\(result.errors)")
            #expect(result.errors.contains(hint), "\(result.errors)")
            #expect(result.output.isEmpty)
        }

        /// Runs `storage format` for a node whose data lies in `name` of `directory`.
        private func format(
            _ name: String, role: String = "controller", in directory: URL, _ arguments: String...
        ) async throws -> RunningProcess.Result {
            let settings = [
                "process.roles=\(role)", "node.id=1", "listeners=127.0.0.1:9093",
                "controller.quorum.bootstrap.servers=127.0.0.1:9093",
                "log.dirs=\(directory.appendingPathComponent(name).path)",
            ]
            return try await RunningProcess.run(
                Cluster.binary,
                ["storage", "format"] + settings.flatMap { ["--set", $0] } + arguments,
                in: directory)
        }

        @Test func aControllerSaysHowItsQuorumBeginsAndABrokerDoesNot() async throws {
            let directory = try Cluster.temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let silent = try await format("a", in: directory)
            #expect(silent.exitCode == 2 && silent.errors.contains("--standalone"))
            let broker = try await format("b", role: "broker", in: directory, "--standalone")
            #expect(broker.exitCode == 2 && broker.errors.contains("broker"))
            let joining = try await format("c", in: directory, "--no-initial-controllers")
            #expect(joining.exitCode == 2 && joining.errors.contains("--cluster-id"))
            for name in ["a", "b", "c"] {
                let path = directory.appendingPathComponent(name).path
                #expect(!FileManager.default.fileExists(atPath: path))
            }

            let first = try await format(
                "d", in: directory, "--standalone", "--metadata-version", "1")
            #expect(first.exitCode == 0, "\(first.errors)")
            let again = try await format("d", in: directory, "--standalone")
            #expect(again.exitCode == 1 && again.errors.contains("nothing was changed"))
            let snapshot =
                directory.path
                + "/d/__cluster_metadata-0/00000000000000000000-0000000000.checkpoint"
            let dump = try await Cluster.run("metadata", "dump", snapshot, in: directory)
            #expect(dump.contains("127.0.0.1") && dump.contains("metadata.version"), "\(dump)")
            #expect(
                try await Cluster.run(
                    "metadata", "show", "/features/metadata.version", "--snapshot", snapshot,
                    in: directory) == "1")
        }

        @Test func severalControllersAreFormattedFromOneList() async throws {
            let directory = try Cluster.temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let (own, other) = (
                try await Cluster.run("storage", "random-id", in: directory),
                try await Cluster.run("storage", "random-id", in: directory)
            )
            #expect(own.count == 22 && own != other)
            let strangers = try await format(
                "a", in: directory, "--initial-controllers", "2@127.0.0.1:9094:\(other)")
            #expect(strangers.exitCode == 2 && strangers.errors.contains("node 1"))
            let list = "1@127.0.0.1:9093:\(own),2@127.0.0.1:9094:\(other)"
            let elsewhere = try await format(
                "a", in: directory, "--initial-controllers", list, "--directory-id", other)
            #expect(elsewhere.exitCode == 2)
            let result = try await format("a", in: directory, "--initial-controllers", list)
            #expect(result.exitCode == 0, "\(result.errors)")
            #expect(result.output.contains("directory \(own)"))
        }
    }
}
