import Essentials
import NIOCore
import NIOPosix
import Protocol
import RPC
import Records
import Storage
import Synchronization
import Testing

@testable import Broker

/// Reads that have to wait for the disk, while everything else goes on.
@Suite struct DiskReadTests {
    private final class Box<Value: Sendable>: Sendable {
        private let state = Mutex<[Value]>([])
        func take(_ value: Value) { state.withLock { $0.append(value) } }
        var values: [Value] { state.withLock { $0 } }
    }

    private let connection = ObjectIdentifier(DiskReadTests.self)

    /// Too large to be kept in memory.
    private static let large = String(repeating: "x", count: 1_200_000)

    private func withBroker(
        _ body: (ReplicaCluster, SlowDisk, Replica) async throws -> Void
    ) async throws {
        let disk = SlowDisk()
        try await ReplicaCluster.run(
            brokers: [1], fileSystem: disk, configure: { $0.maxMessageBytes = 4 << 20 }
        ) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            for number in 0..<4 {
                _ = try await cluster.produce(["\(number)" + Self.large], to: "t", at: 1)
            }
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            let result: Result<Void, any Error>
            do {
                try await body(cluster, disk, replica)
                result = .success(())
            } catch {
                result = .failure(error)
            }
            disk.hold(false)
            try result.get()
        }
    }

    private func fetch(
        _ replica: Replica, from offset: Int64 = 0
    ) -> (fetch: PendingFetch, answers: Box<Result<FetchOutcome, RPCError>>) {
        var request = WireFetchRequest()
        request.offset = offset
        let answers = Box<Result<FetchOutcome, RPCError>>()
        let fetch = PendingFetch(request, from: replica, maxBytes: 1 << 20, owner: connection) {
            answers.take($0)
        }
        replica.eventLoop.execute { fetch.start() }
        return (fetch, answers)
    }

    private func settle(_ replica: Replica) async throws {
        try await replica.eventLoop.submit {}.get()
    }

    @Test func aLoopDoesNotWaitForTheDisk() async throws {
        try await withBroker { cluster, disk, replica in
            disk.hold()
            let (_, answers) = fetch(replica, from: 1)
            try await cluster.eventually("the disk is read") { disk.heldReads == 1 }
            _ = try await cluster.produce(["meanwhile"], to: "t", at: 1)
            let (_, tail) = fetch(replica, from: 4)
            try await cluster.eventually("the tail is read") { tail.values.count == 1 }
            #expect(answers.values.isEmpty)
            disk.hold(false)
            try await cluster.eventually("it is answered") { answers.values.count == 1 }
            let outcome = try #require(answers.values.first).get()
            #expect(outcome.end == 2)
            let headers = try RecordBatches.validateForAppend(
                outcome.batches, maxBatchBytes: 4 << 20)
            #expect(headers.map(\.baseOffset) == [1])
        }
    }

    @Test func aFetchThatIsGivenUpIsNotReadForAndHoldsNothing() async throws {
        try await withBroker { cluster, disk, replica in
            let memory = replica.environment.fetchMemory
            disk.hold()
            // As many as are read at a time, and one more.
            let fetches = (0..<5).map { _ in fetch(replica) }
            try await cluster.eventually("the disk is read") { disk.heldReads == 4 }
            #expect(memory.usedBytes > 0)
            for (fetch, _) in fetches {
                try await replica.eventLoop.submit { fetch.cancel() }.get()
            }
            #expect(memory.usedBytes == 0)
            let reads = disk.reads
            disk.hold(false)
            let (_, last) = fetch(replica)
            try await cluster.eventually("another is answered") { last.values.count == 1 }
            try await settle(replica)
            #expect(fetches.allSatisfy { $0.answers.values.isEmpty })
            // The four find that the batch is larger than they thought; the fifth reads nothing.
            #expect(disk.reads <= reads + 4 + 2)
        }
    }

    @Test func aLeaderThatIsReplacedMeanwhileSaysSo() async throws {
        let disk = SlowDisk()
        try await ReplicaCluster.run(
            fileSystem: disk, configure: { $0.maxMessageBytes = 4 << 20 }
        ) { cluster in
            defer { disk.hold(false) }
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            for _ in 0..<2 { _ = try await cluster.produce([Self.large], to: "t", at: 1) }
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            disk.hold()
            let (_, answers) = fetch(replica)
            try await cluster.eventually("the disk is read") { disk.heldReads == 1 }
            cluster.elect(2, isr: [1, 2, 3], of: id)
            try await cluster.eventually("it leads no longer") {
                try await replica.eventLoop.submit { replica.leader == nil }.get()
            }
            disk.hold(false)
            try await cluster.eventually("it is answered") { answers.values.count == 1 }
            guard case .failure(let error)? = answers.values.first else {
                Issue.record("it was not refused")
                return
            }
            #expect(error.code == .notLeaderOrFollower)
        }
    }

    @Test func aFollowerFarBehindCatchesUpFromTheDisk() async throws {
        let disk = SlowDisk()
        try await ReplicaCluster.run(
            brokers: [1], maxReplicaLag: .seconds(300), fileSystem: disk,
            configure: { $0.maxMessageBytes = 4 << 20 }
        ) { cluster in
            // Several on each loop, so that they have to take turns.
            for topic in 0..<6 {
                _ = try cluster.createTopic("t\(topic)", replicas: [1, 2])
                for number in 0..<3 {
                    _ = try await cluster.produce(
                        ["\(topic) \(number)" + Self.large], to: "t\(topic)", at: 1, acks: .leader)
                }
            }
            try await cluster.start(2)
            for topic in 0..<6 {
                try await cluster.eventually("t\(topic) is replicated") {
                    try await cluster.status("t\(topic)", at: 1).highWatermark == 3
                }
                #expect(
                    try cluster.segments("t\(topic)", at: 1)
                        == cluster.segments("t\(topic)", at: 2))
            }
        }
    }

    @Test func aSearchByTimeDoesNotWaitForTheDiskEither() async throws {
        try await withBroker { cluster, disk, replica in
            disk.hold()
            let found = Box<Result<OffsetOutcome, RPCError>>()
            let search = ReplicaOffsets(
                of: replica, .timestamp(1_600_000_000_000), currentLeaderEpoch: nil
            ) { found.take($0) }
            let given = ReplicaOffsets(of: replica, .timestamp(0), currentLeaderEpoch: nil) {
                found.take($0)
            }
            try await replica.eventLoop.submit {
                search.start()
                given.start()
                given.cancel()
            }.get()
            try await settle(replica)
            #expect(found.values.isEmpty)
            disk.hold(false)
            try await cluster.eventually("it is found") { !found.values.isEmpty }
            #expect(try found.values.map { try $0.get().offset } == [0])
        }
    }

    @Test func partitionsTakeTurns() async throws {
        let disk = SlowDisk()
        try await ReplicaCluster.run(
            brokers: [1], fileSystem: disk, configure: { $0.maxMessageBytes = 4 << 20 }
        ) { cluster in
            defer { disk.hold(false) }
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce([Self.large], to: "t", at: 1)
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            let reads = DiskReads(threads: 1)
            let order = Box<String>()
            final class Partition {}
            let partitions = [Partition(), Partition()]
            disk.hold()
            func read(_ name: String, of partition: Partition) async throws {
                let partition = ObjectIdentifier(partition)
                try await replica.eventLoop.submit {
                    let log = try #require(replica.log)
                    guard
                        case .needsDisk(let cold) = try log.readCached(
                            from: 0, below: 1, maxBytes: 2 << 20)
                    else {
                        Issue.record("it is in memory")
                        return
                    }
                    _ = reads.perform(cold, of: partition, on: replica.eventLoop) { _ in
                        order.take(name)
                    }
                }.get()
            }
            for number in 0..<3 { try await read("a\(number)", of: partitions[0]) }
            for number in 0..<2 { try await read("b\(number)", of: partitions[1]) }
            disk.hold(false)
            try await cluster.eventually("all are read") { order.values.count == 5 }
            // The first may have been begun before the others came.
            #expect(
                order.values == ["a0", "a1", "b0", "a2", "b1"]
                    || order.values == ["a0", "b0", "a1", "b1", "a2"])
            await reads.stop()
        }
    }
}
