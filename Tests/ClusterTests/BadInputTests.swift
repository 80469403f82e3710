import Foundation
import Testing

extension ClusterTests {
    @Suite struct BadInputTests {
        /// A call that succeeds, made after each bad one.
        private func checkServing(_ cluster: Cluster) async throws {
            let answer = try await cluster.curl(
                "Broker/Produce", #"{"topic": "good", "records": [{"value": {"text": "v"}}]}"#)
            #expect(answer.status == 200, "\(answer)")
        }

        @Test func otherProtocolsAndNoiseAreTurnedAwayWhileTheBrokerServes() async throws {
            try await Cluster.with { cluster in
                try await cluster.millrace("topic", "create", "good")
                let http = try exchange(
                    Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8), port: cluster.port)
                let text = String(decoding: http.answer, as: UTF8.self)
                #expect(text.hasPrefix("HTTP/1.1 "))
                #expect(text.contains("HTTP/2"))
                try await checkServing(cluster)

                let hello: [UInt8] = [0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x03]
                let tls = try exchange(hello, port: cluster.port)
                #expect(tls.closed)
                // A TLS alert is type 21.
                #expect(tls.answer.first == 21)
                try await checkServing(cluster)

                var generator = SystemRandomNumberGenerator()
                for _ in 0..<20 {
                    let noise = (0..<200).map { _ in UInt8.random(in: 0...255, using: &generator) }
                    #expect(try exchange(noise, port: cluster.port).closed, "\(noise)")
                }
                let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
                let afterPreface = preface + [UInt8](repeating: 0xff, count: 300)
                #expect(try exchange(afterPreface, port: cluster.port).closed)
                try await checkServing(cluster)
            }
        }

        @Test func badRequestsNameTheirErrorWhileTheBrokerServes() async throws {
            try await Cluster.with { cluster in
                try await cluster.millrace("topic", "create", "good")
                let calls: [(method: String, json: String, error: String)] = [
                    (
                        "Broker/Produce", #"{"topic": "nope", "records": [{}]}"#,
                        "UNKNOWN_TOPIC_OR_PARTITION"
                    ),
                    ("Broker/Fetch", #"{"topic": "nope"}"#, "UNKNOWN_TOPIC_OR_PARTITION"),
                    (
                        "Broker/Fetch", #"{"topic": "good", "offset": "99"}"#,
                        "OFFSET_OUT_OF_RANGE"
                    ),
                    (
                        "Broker/Produce",
                        #"{"topic": "good", "partition": 0, "recordBatches": "\#(corruptBatch)"}"#,
                        "CORRUPT_MESSAGE"
                    ),
                    (
                        "Broker/Produce",
                        #"{"topic": "good", "records": [{"value": {"text": "\#(huge)"}}]}"#,
                        "MESSAGE_TOO_LARGE"
                    ),
                    ("Admin/CreateTopic", #"{"name": "no/slash"}"#, "INVALID_TOPIC_EXCEPTION"),
                ]
                for call in calls {
                    let answer = try await cluster.curl(call.method, call.json)
                    #expect(answer.status >= 400, "\(call.error)")
                    #expect(answer.error == call.error, "\(answer)")
                    #expect(!answer.message.isEmpty)
                    try await checkServing(cluster)
                }
                let unreadable = try await cluster.curl("Broker/Produce", "{]")
                #expect(unreadable.status == 400, "\(unreadable)")
                let unknownField = try await cluster.curl("Broker/Fetch", #"{"topik": "good"}"#)
                #expect(unknownField.message.contains("topik"), "\(unknownField)")
                try await checkServing(cluster)
            }
        }

        /// A batch of magic 2 with one record, whose checksum is wrong.
        private var corruptBatch: String {
            var batch = [UInt8](repeating: 0, count: 68)
            batch[11] = 56  // batch length
            batch[16] = 2  // magic
            batch[17...20] = [1, 2, 3, 4]  // not its CRC
            batch[60] = 1  // record count
            batch[61] = 12  // record length 6
            return Data(batch).base64EncodedString()
        }

        private var huge: String { String(repeating: "x", count: 2_000_000) }

        @Test func aNodeThatCannotStartSaysWhyInOneLine() async throws {
            let directory = try Cluster.temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let data = directory.appendingPathComponent("data").path
            let settings = [
                "--set", "node.id=1", "--set", "controller.quorum.bootstrap.servers=127.0.0.1:1",
                "--set",
                "log.dirs=\(data)",
            ]
            func failure(_ more: [String]) async throws -> String {
                let result = try await RunningProcess.run(
                    Cluster.binary, ["broker"] + settings + more, in: directory)
                #expect(result.exitCode == 1)
                #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
                return result.errors
            }
            #expect(try await failure(["--set", "brokr.rack=a"]).contains("'broker.rack'?"))
            #expect(try await failure([]).contains("millrace storage format"))

            let format = try await RunningProcess.run(
                Cluster.binary,
                ["storage", "format", "--cluster-id", "c1", "--set", "process.roles=broker"]
                    + settings,
                in: directory)
            #expect(format.exitCode == 0, "\(format.errors)")
            #expect(try await failure(["--set", "node.id=2"]).contains("belongs to node 1"))

            let port = try Cluster.freePorts(1)
            let taken = try ListeningSocket(port: port)
            let listener = ["--set", "listeners=PLAINTEXT://127.0.0.1:\(port)"]
            let message = try await failure(listener)
            taken.release()
            #expect(message.contains("port \(port) is taken"))
        }

        @Test(.enabled(if: Cluster.canMount))
        func aFullOrReadOnlyDataDirectoryIsNamed() async throws {
            let directory = try Cluster.temporaryDirectory()
            let outputs = try Cluster.temporaryDirectory()
            defer {
                for each in [directory, outputs] { try? FileManager.default.removeItem(at: each) }
            }
            let broker = """
                broker --set node.id=1 --set controller.quorum.bootstrap.servers=127.0.0.1:1 \
                --set log.dirs="$1"
                """
            let format = broker.replacing("broker ", with: "storage format ", maxReplacements: 1)
            for (spoil, problem) in [
                ("mount -o remount,ro tmpfs \"$1\"", "Read-only file system"),
                ("cat /dev/zero >\"$1/fill\" 2>/dev/null", "No space left on device"),
            ] {
                // A file system of its own, which the kernel drops with the last process in it.
                let script = """
                    set -e
                    mount -t tmpfs -o size=1m tmpfs "$1"
                    "$0" \(format) --set process.roles=broker >/dev/null
                    \(spoil) || true
                    exec "$0" \(broker)
                    """
                let result = try await RunningProcess.run(
                    "/usr/bin/env",
                    [
                        "unshare", "--map-root-user", "--mount", "sh", "-c", script, Cluster.binary,
                        directory.path,
                    ], in: outputs)
                #expect(result.exitCode == 1)
                #expect(result.errors.contains(problem), "\(result.errors)")
                #expect(result.errors.contains(directory.path), "\(result.errors)")
                #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
            }
        }

        @Test func aBrokerOfAnotherClusterIsRefusedWithBothIDs() async throws {
            try await Cluster.with { cluster in
                let id = try await cluster.quorum().clusterId
                let data = cluster.directory.appendingPathComponent("stranger").path
                let controller = try #require(try cluster.nodes().first { $0.role == "controller" })
                let settings = [
                    "--set", "node.id=7", "--set",
                    "controller.quorum.bootstrap.servers=127.0.0.1:\(controller.port)",
                    "--set", "log.dirs=\(data)",
                    "--set", "listeners=PLAINTEXT://127.0.0.1:\(try Cluster.freePorts(1))",
                ]
                let format = try await RunningProcess.run(
                    Cluster.binary,
                    [
                        "storage", "format", "--cluster-id", "elsewhere", "--set",
                        "process.roles=broker",
                    ]
                        + settings, in: cluster.directory)
                #expect(format.exitCode == 0, "\(format.errors)")
                let result = try await RunningProcess.run(
                    Cluster.binary, ["broker"] + settings, in: cluster.directory,
                    within: .seconds(20))
                #expect(result.exitCode == 1)
                #expect(
                    result.errors.contains("elsewhere") && result.errors.contains(id),
                    "\(result.errors)")
            }
        }
    }
}
