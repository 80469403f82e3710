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

    @Test(
        "A replica moves to another directory under load, as leader or follower, and nothing is lost"
    )
    func movesUnderLoad() async throws {
        try await withCluster(BrokenDisk()) { cluster in
            let topic = try cluster.createTopic("t", replicas: [1, 2])
            let id = id(topic, 0)
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            let isDone = Mutex(false)
            async let writer: Int = {
                var count = 0
                while !isDone.withLock({ $0 }) {
                    _ = try await cluster.produce(["\(count)"], to: "t", at: 1)
                    count += 1
                }
                return count
            }()
            for broker in [1, 2, 1] as [NodeID] {
                let manager = try cluster.manager(broker)
                let replica = try #require(manager.replica(id))
                let opened = try await replica.eventLoop.submit { replica.opened }.get()
                let source = try #require(opened).disk
                let target = try #require(manager.disks.disks.first { $0 !== source })
                manager.move(replica, to: target, rate: 0)
                try await cluster.eventually("the replica of broker \(broker) is moved") {
                    let now = try await replica.eventLoop.submit { replica.opened?.disk }.get()
                    return now === target && manager.moves.all.isEmpty
                }
                #expect(
                    !FileManager.default.fileExists(atPath: source.directory.path + "/t-0"))
                #expect(try cluster.partition(id).leader == 1)
            }
            isDone.withLock { $0 = true }
            let count = try await writer
            #expect(count > 0)
            // Repeated when its answer was that the log is just being moved, never when it may be there.
            let expected = ["first"] + (0..<count).map { "\($0)" }
            #expect(try await cluster.consume("t", at: 1) == expected)
            try await cluster.eventually("the follower has it all") {
                try await cluster.status("t", at: 2).durable == Offset(Int64(count) + 1)
            }
            for broker in [1, 2] as [NodeID] { await cluster.stop(broker) }
            for broker in [1, 2] as [NodeID] {
                try await cluster.start(broker)
                #expect(try cluster.manager(broker).disks.previousBrokerEpoch != .none)
            }
            cluster.elect(2, isr: [1, 2], of: id)
            _ = try await cluster.produce(["last"], to: "t", at: 2)
            #expect(try await cluster.consume("t", at: 2) == expected + ["last"])
        }
    }

    @Test("A move to a directory that fails is given up, and the replica stays where it is")
    func failedMove() async throws {
        let disk = BrokenDisk()
        try await withCluster(disk) { cluster in
            let topic = try cluster.createTopic("t", replicas: [1, 2])
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            let source = try await directory(0, in: cluster)
            let manager = try cluster.manager(1)
            let replica = try #require(manager.replica(id(topic, 0)))
            let target = try #require(
                manager.disks.disks.first { $0.directory.path != source })
            disk.kill(target.directory.path)
            manager.move(replica, to: target, rate: 0)
            try await cluster.eventually("the move has failed") {
                manager.moves.all.first?.failure != nil
            }
            _ = try await cluster.produce(["y"], to: "t", at: 1)
            #expect(try await cluster.consume("t", at: 1) == ["x", "y"])
            #expect(try await directory(0, in: cluster) == source)
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
        let words = requests.withLock { $0 }.flatMap(\.replicas)
        #expect(
            words.last { $0.topicID == Data(first.topic.bytes) }?.state == .online
                && words.last { $0.topicID == Data(second.topic.bytes) }?.state == .offline)
        try await loop.submit { reports.close() }.get()
    }
}
