import Essentials
import Foundation
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import RPC
import Storage
import Synchronization
import Testing

@testable import Broker

/// Brokers with several log directories, some of which fail.
@Suite(.timeLimit(.minutes(2))) struct LogDirectoriesTests {
    /// Two brokers with two log directories each, `a` and `b`.
    private func withCluster(
        _ disk: BrokenDisk, _ body: (ReplicaCluster) async throws -> Void
    ) async throws {
        try await ReplicaCluster.run(
            brokers: [1, 2], fileSystem: disk,
            configure: { options in
                options.logDirectories = options.logDirectories.flatMap { ["\($0)/a", "\($0)/b"] }
            }, body)
    }

    /// The directory that has the log of a partition at broker 1.
    private func directory(
        _ partition: Int32, in cluster: ReplicaCluster
    ) async throws -> String {
        let manager = try cluster.manager(1)
        let replica = try #require(manager.replica(topic: "t", partition: partition))
        let opened = try await replica.eventLoop.submit { replica.opened }.get()
        return try #require(opened).disk.directory.path
    }

    private func untilReady(_ broker: NodeID, _ cluster: ReplicaCluster) async throws {
        let manager = try cluster.manager(broker)
        try await cluster.eventually("broker \(broker) is ready") {
            try await manager.controlLoop.submit { manager.isReady }.get()
        }
    }

    private func id(_ topic: TopicID, _ partition: Int32) -> TopicPartition {
        TopicPartition(topic: topic, partition: partition)
    }

    @Test("D7, S6, S12: a directory whose sync fails takes only its own replicas offline, for good")
    func failedSync() async throws {
        let disk = BrokenDisk()
        try await withCluster(disk) { cluster in
            let topic = try cluster.createTopic("t", replicas: [1, 2], partitions: 4)
            // Broker 1 leads the even ones.
            for partition in 0..<4 as Range<Int32> {
                _ = try await cluster.produce(
                    ["x"], to: "t", partition: partition, at: partition % 2 == 0 ? 1 : 2)
            }
            let failed = try await directory(0, in: cluster)
            var inFailed: [Int32] = []
            for partition in 0..<4 as Range<Int32>
            where try await directory(partition, in: cluster) == failed {
                inFailed.append(partition)
            }
            #expect(inFailed.count == 2, "placed by number")
            disk.failNextSync(below: failed)
            await #expect(throws: RPCError.self) {
                try await cluster.produce(["lost"], to: "t", partition: 0, at: 1)
            }
            for partition in 0..<4 as Range<Int32> {
                let id = id(topic, partition)
                guard inFailed.contains(partition) else {
                    #expect(cluster.reports(of: id, by: 1) == [])
                    continue
                }
                try await cluster.eventually("\(id) is reported, and led elsewhere") {
                    try Set(cluster.reports(of: id, by: 1)) == [.offline]
                        && cluster.partition(id).leader == 2
                }
                // It stays so, though every later sync would succeed.
                await #expect(throws: RPCError.self) {
                    _ = try await cluster.batches("t", partition: partition, at: 1)
                }
            }
            for partition in 0..<4 as Range<Int32> {
                let leader = try #require(try cluster.partition(id(topic, partition)).leader)
                _ = try await cluster.produce(["y"], to: "t", partition: partition, at: leader)
                let values = try await cluster.consume("t", partition: partition, at: leader)
                #expect(values.first == "x" && values.last == "y")
            }
            // New partitions go elsewhere.
            _ = try cluster.createTopic("new", replicas: [1], partitions: 2)
            for partition in 0..<2 as Range<Int32> {
                _ = try await cluster.produce(["z"], to: "new", partition: partition, at: 1)
                #expect(
                    FileManager.default.fileExists(atPath: failed + "/new-\(partition)") == false)
            }
        }
    }

    @Test(
        "B9: a directory that is missing at the start is reported, and nothing in it is made anew")
    func missingAtStart() async throws {
        let disk = BrokenDisk()
        try await withCluster(disk) { cluster in
            let topic = try cluster.createTopic("t", replicas: [1, 2], partitions: 2)
            for partition in 0..<2 as Range<Int32> {
                _ = try await cluster.produce(
                    ["x"], to: "t", partition: partition, at: NodeID(1 + partition))
            }
            let missing = try await directory(0, in: cluster)
            let other = try await directory(1, in: cluster)
            #expect(missing != other)
            await cluster.stop(1)
            disk.kill(missing)
            try await cluster.start(1)
            try await untilReady(1, cluster)
            let reports = cluster.reports(of: id(topic, 0), by: 1)
            #expect(Set(reports) == [.offline])
            #expect(cluster.reports(of: id(topic, 1), by: 1) == [])
            #expect(try cluster.partition(id(topic, 0)).leader == 2)
            #expect(!FileManager.default.fileExists(atPath: other + "/t-0"))
            // What is assigned from now on is made where it can be.
            _ = try cluster.createTopic("new", replicas: [1])
            _ = try await cluster.produce(["z"], to: "new", at: 1)
            #expect(FileManager.default.fileExists(atPath: other + "/new-0"))
            _ = try await cluster.produce(["y"], to: "t", partition: 0, at: 2)
            // What the good directories agree on proves the clean stop.
            let epoch = try cluster.manager(1).brokerEpoch
            await cluster.stop(1)
            disk.kill(missing, false)
            try await cluster.start(1)
            try await untilReady(1, cluster)
            #expect(try cluster.manager(1).disks.previousBrokerEpoch == epoch)
            #expect(cluster.reports(of: id(topic, 0), by: 1) == reports)
            try await cluster.eventually("the replica catches up") {
                try await cluster.status("t", partition: 0, at: 1).end == 2
            }
        }
    }

    @Test("A report is kept until a controller answers; the broker is not ready before")
    func reportsAreKept() async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let loop = group.next()
        let requests = Mutex<[WireReportReplicasRequest]>([])
        let isDown = Mutex(true)
        let reports = ReplicaReports(
            nodeID: 1, eventLoop: loop, brokerEpoch: { 7 },
            send: { request in
                requests.withLock { $0.append(request) }
                if isDown.withLock({ $0 }) { throw RPCError(.notController, "not me") }
                return .accepting(request)
            }, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let (first, second) = (id(.random(), 0), id(.random(), 1))
        reports.report(first, .offline)
        reports.report(second, .offline)
        while requests.withLock({ $0.count }) < 2 { try await Task.sleep(for: .milliseconds(5)) }
        #expect(try await !loop.submit { reports.isSettled }.get())
        // The last word counts.
        reports.report(first, .online)
        isDown.withLock { $0 = false }
        while try await !loop.submit({ reports.isSettled }).get() {
            try await Task.sleep(for: .milliseconds(5))
        }
        let last = try #require(requests.withLock { $0.last })
        #expect(last.brokerEpoch == 7 && last.brokerID == 1)
        #expect(Set(last.replicas.map(\.state)) == [.offline, .online])
        try await loop.submit { reports.close() }.get()
    }
}
