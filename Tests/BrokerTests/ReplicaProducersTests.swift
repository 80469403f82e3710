import Essentials
import Metadata
import NIOCore
import Protocol
import RPC
import Records
import Replication
import Storage
import Testing

@testable import Broker

@Suite("Idempotent producers at replicas")
struct ReplicaProducersTests {
    private func batch(
        _ id: Int64 = 7, _ epoch: Int16 = 0, sequence: Int32, _ values: [String],
        transactional: Bool = false
    ) -> ByteBuffer {
        var builder = RecordBatchBuilder(isTransactional: transactional)
        builder.producerID = id
        builder.producerEpoch = epoch
        builder.baseSequence = sequence
        for value in values {
            builder.append(key: nil, value: ByteBuffer(string: value), timestamp: 1_700_000_000_000)
        }
        return builder.finish()
    }

    private func refusal(_ body: () async throws -> ProduceOutcome) async -> ErrorCode? {
        do {
            _ = try await body()
            return nil
        } catch {
            return (error as? RPCError)?.code
        }
    }

    /// E1, E2, T1, T3.
    @Test func repeatedBatchesAreAnsweredWithTheirFirstOffsetByEveryLeader() async throws {
        try await ReplicaCluster.run { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["before"], to: "t", at: 1)
            for (sequence, values) in [(0, ["a", "b"]), (2, ["c"]), (3, ["d"])]
                as [(Int32, [String])]
            {
                let outcome = try await cluster.produce(
                    batch(sequence: sequence, values), to: "t", at: 1)
                #expect(outcome.baseOffset == Offset(Int64(sequence) + 1))
                #expect(outcome.count == values.count)
            }
            func check(at leader: NodeID) async throws {
                let again = try await cluster.produce(
                    batch(sequence: 0, ["a", "b"]), to: "t", at: leader)
                #expect(again == ProduceOutcome(baseOffset: 1, count: 2))
                let gap = await refusal {
                    try await cluster.produce(batch(sequence: 9, ["z"]), to: "t", at: leader)
                }
                #expect(gap == .outOfOrderSequenceNumber)
                let unknown = await refusal {
                    try await cluster.produce(batch(8, sequence: 1, ["z"]), to: "t", at: leader)
                }
                #expect(unknown == .unknownProducerID)
                let values = try await cluster.consume("t", at: leader)
                #expect(values == ["before", "a", "b", "c", "d"])
            }
            try await check(at: 1)
            cluster.elect(2, isr: [1, 2, 3], of: id)
            try await check(at: 2)
            // From what it has on disk.
            await cluster.stop(3)
            try await cluster.start(3)
            cluster.elect(3, isr: [1, 2, 3], of: id)
            try await check(at: 3)
            let next = try await cluster.produce(
                batch(7, 1, sequence: 0, ["e"]), to: "t", at: 3)
            #expect(next.baseOffset == 5)
            let stale = await refusal {
                try await cluster.produce(batch(sequence: 4, ["z"]), to: "t", at: 3)
            }
            #expect(stale == .invalidProducerEpoch)
        }
    }

    @Test func aRepeatedBatchIsAnsweredOnlyOnceItIsCommitted() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(300)) { cluster in
            _ = try cluster.createTopic("t")
            _ = try await cluster.produce(["before"], to: "t", at: 1)
            try await cluster.cut(2, 1)
            try await cluster.cut(3, 1)
            let first = await refusal {
                try await cluster.produce(
                    batch(sequence: 0, ["a"]), to: "t", at: 1, timeout: .milliseconds(50))
            }
            #expect(first == .requestTimedOut)
            let second = await refusal {
                try await cluster.produce(
                    batch(sequence: 0, ["a"]), to: "t", at: 1, timeout: .milliseconds(50))
            }
            #expect(second == .requestTimedOut)
            // It waits below a later one.
            async let later = cluster.produce(batch(sequence: 1, ["b"]), to: "t", at: 1)
            try await cluster.eventually("that is appended") {
                try await cluster.status("t", at: 1).end == 3
            }
            async let repeated = cluster.produce(batch(sequence: 0, ["a"]), to: "t", at: 1)
            try await cluster.cut(2, 1, false)
            try await cluster.cut(3, 1, false)
            #expect(try await repeated.baseOffset == 1)
            #expect(try await later.baseOffset == 2)
            #expect(try await cluster.consume("t", at: 1) == ["before", "a", "b"])
        }
    }

    @Test func onlyWhoHasBeenIdleAllAlongIsForgotten() {
        let start = MonotonicTime.zero + .seconds(1_000_000)
        var expiry = ProducerExpiry(expiration: .seconds(800), end: 50, now: start)
        #expect(expiry.nextPass == start + .seconds(100))
        // What was there when the log was opened may have been idle for long.
        #expect(expiry.pass(now: start + .seconds(100), end: 60) == 50)
        #expect(expiry.pass(now: start + .seconds(200), end: 70) == 50)
        #expect(expiry.pass(now: start + .seconds(899), end: 80) == 50)
        #expect(expiry.pass(now: start + .seconds(900), end: 80) == 60)
        #expect(expiry.pass(now: start + .seconds(1_698), end: 90) == 70)
        // Not above where the log ends.
        #expect(expiry.pass(now: start + .seconds(1_900), end: 75) == 75)
    }

    /// Nobody could end it, and nothing after it would ever be stable.
    @Test func noTransactionBeginsWithoutACoordinator() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            let code = await refusal {
                try await cluster.produce(
                    batch(sequence: 0, ["a"], transactional: true), to: "t", at: 1)
            }
            #expect(code == .invalidTransactionState)
            #expect(try await cluster.status("t", at: 1).end == 0)
            _ = try await cluster.produce(batch(sequence: 0, ["a"]), to: "t", at: 1)
        }
    }

    /// T10.
    @Test func readersOfCommittedTransactionsSeeNothingElse() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["before"], to: "t", at: 1)
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            func write(_ id: Int64, _ sequence: Int32, _ value: String) async throws {
                let batch = batch(id, sequence: sequence, [value], transactional: true)
                let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 20)
                try await replica.eventLoop.submit {
                    let log = try #require(replica.log)
                    _ = try log.appendAsLeader(
                        batch, headers: headers,
                        leaderEpoch: try #require(replica.leader?.leaderEpoch))
                    let (end, now) = (log.logEndOffset, replica.shard.now)
                    replica.withLeader { $0.appended(to: end, now: now) }
                    replica.flushSoon()
                }.get()
                try await committed()
            }
            func committed() async throws {
                try await cluster.eventually("all is committed") {
                    let status = try await cluster.status("t", at: 1)
                    return status.highWatermark == status.end
                }
            }
            func end(_ id: Int64, _ outcome: TransactionMarker.Outcome) async throws {
                try await replica.eventLoop.submit {
                    let log = try #require(replica.log)
                    _ = try log.appendMarker(
                        TransactionMarker(outcome, coordinatorEpoch: 0), producerID: id,
                        producerEpoch: 1, timestamp: 1,
                        leaderEpoch: try #require(replica.leader?.leaderEpoch))
                    let (end, now) = (log.logEndOffset, replica.shard.now)
                    replica.withLeader { $0.appended(to: end, now: now) }
                    replica.flushSoon()
                }.get()
                try await committed()
            }
            func read(_ isolation: ReadIsolation) async throws -> (FetchOutcome, [String]) {
                let outcome = try await withCheckedThrowingContinuation {
                    (continuation: CheckedContinuation<FetchOutcome, any Error>) in
                    replica.eventLoop.execute {
                        ReplicaRead(
                            of: replica, from: 0, maxBytes: 1 << 20, currentLeaderEpoch: nil,
                            isolation: isolation, owner: ObjectIdentifier(cluster)
                        ) { continuation.resume(with: $0) }.start()
                    }
                }
                let (records, next) = try ReadableRecords.page(
                    in: outcome.batches, from: 0, leavingOut: outcome.abortedRecords)
                #expect(next == outcome.end)
                return (outcome, records.map(\.value.text))
            }
            func latest(_ isolation: ReadIsolation) async throws -> Offset? {
                try await withCheckedThrowingContinuation {
                    (continuation: CheckedContinuation<OffsetOutcome, any Error>) in
                    replica.eventLoop.execute {
                        ReplicaOffsets(
                            of: replica, .latest, currentLeaderEpoch: nil, isolation: isolation
                        ) { continuation.resume(with: $0) }.start()
                    }
                }.offset
            }
            try await write(1, 0, "a1")
            try await write(2, 0, "b1")
            try await write(1, 1, "a2")
            #expect(try await read(.uncommitted).1 == ["before", "a1", "b1", "a2"])
            #expect(try await read(.committed).1 == ["before"])
            #expect(try await read(.committed).0.lastStableOffset == 1)
            #expect(try await latest(.committed) == 1)
            #expect(try await latest(.uncommitted) == 4)
            try await end(1, .commit)
            #expect(try await read(.committed).1 == ["before", "a1"])
            try await end(2, .abort)
            _ = try await cluster.produce(["after"], to: "t", at: 1)
            let (outcome, values) = try await read(.committed)
            #expect(values == ["before", "a1", "a2", "after"])
            #expect(outcome.lastStableOffset == 7)
            #expect(outcome.aborted.map(\.producerID) == [2])
            #expect(try await read(.uncommitted).0.aborted.isEmpty)
            #expect(try await latest(.committed) == 7)

            // What goes over the wire is what comes out.
            let answer = FetchService.pieces(of: outcome).reduce(into: ByteBuffer()) {
                $0.writeImmutableBuffer($1)
            }
            let response = try PayloadEncoding.protobuf.decode(WireFetchResponse.self, from: answer)
            #expect(response.lastStableOffset == 7)
            #expect(response.abortedTransactions.map(\.firstOffset) == [2])
            #expect(response.abortedTransactions.map(\.lastOffset) == [5])
            #expect(response.recordBatches.count == outcome.batches.readableBytes)
        }
    }
}
