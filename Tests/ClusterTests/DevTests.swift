import Foundation
import Testing

extension ClusterTests {
    @Suite struct DevTests {
        @Test func aTakenPortIsReportedByNameAndNothingIsLeftBehind() async throws {
            let directory = try Cluster.temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let port = try Cluster.freePorts(3)
            let taken = try ListeningSocket(port: port + 1)
            let data = directory.appendingPathComponent("data").path
            let result = try await RunningProcess.run(
                Cluster.binary, ["dev", "--port", "\(port)", "--data", data], in: directory)
            taken.release()
            #expect(result.exitCode == 1)
            #expect(result.errors.contains("port \(port + 1), meant for broker 2, is taken"))
            #expect(!FileManager.default.fileExists(atPath: data + "/cluster.json"))
        }

        @Test func aDeadChildIsReportedWithItsSignalAndLog() async throws {
            try await Cluster.with(controllers: 1, brokers: 2) { cluster in
                let broker = try cluster.node(2)
                let pid = try #require(broker.pid)
                kill(pid, SIGKILL)
                try await eventually("the death is reported") {
                    cluster.dev.output.contains(
                        "broker 2 (pid \(pid)) was ended by signal 9 (SIGKILL); its log: "
                            + broker.log)
                }
                #expect(try cluster.node(2).pid == nil)
                #expect(cluster.dev.isRunning)
            }
        }

        @Test func killingDevLeavesNoChildBehind() async throws {
            try await Cluster.with(controllers: 3, brokers: 2) { cluster in
                let pids = try cluster.nodes().compactMap(\.pid)
                #expect(pids.count == 5)
                #expect(pids.allSatisfy(isAlive))
                cluster.dev.send(SIGKILL)
                try await cluster.dev.wait()
                try await eventually("the children end") { !pids.contains(where: isAlive) }
            }
        }

        @Test func stoppingDevEndsEveryChildAndKeepsTheData() async throws {
            try await Cluster.with(controllers: 3, brokers: 3) { cluster in
                try await cluster.millrace("topic", "create", "kept", "--partitions", "2")
                let pids = try cluster.nodes().compactMap(\.pid)
                try await cluster.stop()
                #expect(!pids.contains(where: isAlive))
                let stillListed = try cluster.nodes().compactMap(\.pid)
                #expect(stillListed.isEmpty)
                try await cluster.start()
                let topic = try await cluster.describe("kept")
                #expect(topic.partitions.count == 2)
            }
        }

        @Test func aSettingThatIsWrongStopsTheStartWithOneLine() async throws {
            let directory = try Cluster.temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let result = try await RunningProcess.run(
                Cluster.binary,
                [
                    "dev", "--port", "\(try Cluster.freePorts(3))", "--data",
                    directory.appendingPathComponent("data").path, "--set", "flush.m=1",
                ], in: directory)
            #expect(result.exitCode == 1)
            #expect(
                result.errors == "millrace: --set flush.m=1: unknown key 'flush.m'; "
                    + "did you mean 'flush.ms'?\n")
        }
    }
}
