import Essentials
import Metadata
import NIOCore
import Protocol
import RPC
import Synchronization
import Testing

@testable import Broker

/// Fetches that wait, on the loop of a real replica.
@Suite struct PendingFetchTests {
    /// Stands for the connection.
    private let owner = ObjectIdentifier(PendingFetchTests.self)

    /// The answer of one fetch, once there is one.
    private final class Answer: Sendable {
        private struct State {
            var outcome: Result<FetchOutcome, RPCError>?
            var count = 0
        }
        private let state = Mutex(State())

        func take(_ outcome: Result<FetchOutcome, RPCError>) {
            state.withLock { state in
                state.outcome = outcome
                state.count += 1
            }
        }

        var outcome: Result<FetchOutcome, RPCError>? { state.withLock { $0.outcome } }
        var count: Int { state.withLock { $0.count } }
    }

    private func withReplica(
        _ body: (ReplicaCluster, Replica) async throws -> Void
    ) async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            try await body(
                cluster, try #require(try cluster.manager(1).replica(topic: "t", partition: 0)))
        }
    }

    private func start(
        _ replica: Replica, from offset: Int64, minBytes: Int32 = 1, maxBytes: Int = 1 << 20,
        maxWait: Int32 = 300_000, epoch: Int32? = nil
    ) async throws -> (fetch: PendingFetch, answer: Answer) {
        var request = WireFetchRequest()
        request.offset = offset
        request.minBytes = minBytes
        request.maxWaitMs = maxWait
        if let epoch { request.currentLeaderEpoch = epoch }
        let answer = Answer()
        let fetch = PendingFetch(request, from: replica, maxBytes: maxBytes, owner: owner) {
            answer.take($0)
        }
        try await replica.eventLoop.submit { fetch.start() }.get()
        return (fetch, answer)
    }

    private func readers(_ replica: Replica) async throws -> Int {
        try await replica.eventLoop.submit { replica.readers.count { !$0.isCancelled } }.get()
    }

    @Test func whatIsThereIsAnsweredAtOnce() async throws {
        try await withReplica { _, replica in
            let (_, answer) = try await start(replica, from: 0)
            let outcome = try #require(answer.outcome).get()
            #expect(outcome.highWatermark == 1 && outcome.batches.readableBytes > 0)
            #expect(outcome.end == 1)
        }
    }

    @Test func recordsThatComeWakeTheFetch() async throws {
        try await withReplica { cluster, replica in
            let (_, answer) = try await start(replica, from: 1)
            #expect(answer.outcome == nil)
            #expect(try await readers(replica) == 1)
            _ = try await cluster.produce(["second"], to: "t", at: 1)
            try await cluster.eventually("it is answered") { answer.count == 1 }
            #expect(try answer.outcome?.get().end == 2)
            #expect(try await readers(replica) == 0)
        }
    }

    @Test func fetchWaitsUntilEnoughBytesAreThere() async throws {
        try await withReplica { cluster, replica in
            let (_, answer) = try await start(replica, from: 0, minBytes: 200)
            #expect(answer.outcome == nil)
            // Each batch is some 70 bytes.
            _ = try await cluster.produce(["second"], to: "t", at: 1)
            #expect(answer.outcome == nil)
            for number in 0..<5 { _ = try await cluster.produce(["\(number)"], to: "t", at: 1) }
            try await cluster.eventually("it is answered") { answer.count == 1 }
            #expect(try #require(try answer.outcome?.get()).batches.readableBytes >= 200)
        }
    }

    @Test("A fetch whose records fill its limit does not wait for bytes that can't be added")
    func moreThanFits() async throws {
        try await withReplica { cluster, replica in
            for number in 0..<5 { _ = try await cluster.produce(["\(number)"], to: "t", at: 1) }
            let (_, answer) = try await start(replica, from: 0, minBytes: 150, maxBytes: 150)
            let outcome = try #require(answer.outcome).get()
            #expect(outcome.batches.readableBytes < 150)
            #expect(try #require(outcome.end) < outcome.highWatermark)
        }
    }

    @Test func timeThatIsUpIsAnsweredWithWhatThereIs() async throws {
        try await withReplica { cluster, replica in
            let (_, now) = try await start(replica, from: 1, maxWait: 0)
            #expect(try #require(now.outcome).get().batches.readableBytes == 0)
            let (_, soon) = try await start(replica, from: 0, minBytes: 10_000, maxWait: 5)
            try await cluster.eventually("it is answered") { soon.count == 1 }
            #expect(try #require(soon.outcome).get().end == 1)
            #expect(try await readers(replica) == 0)
        }
    }

    @Test func fetchThatIsGivenUpIsNeverAnswered() async throws {
        try await withReplica { cluster, replica in
            let (fetch, answer) = try await start(replica, from: 1)
            try await replica.eventLoop.submit { fetch.cancel() }.get()
            #expect(try await readers(replica) == 0)
            _ = try await cluster.produce(["second"], to: "t", at: 1)
            #expect(answer.count == 0)
            // Given up before it began.
            var request = WireFetchRequest()
            request.maxWaitMs = 1
            let early = Answer()
            let never = PendingFetch(request, from: replica, maxBytes: 100, owner: owner) {
                early.take($0)
            }
            try await replica.eventLoop.submit {
                never.cancel()
                never.start()
            }.get()
            #expect(early.count == 0)
        }
    }

    @Test func leaderThatIsReplacedSaysSo() async throws {
        try await ReplicaCluster.run { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            let (_, answer) = try await start(replica, from: 1)
            #expect(answer.outcome == nil)
            cluster.elect(2, isr: [1, 2, 3], of: id)
            try await cluster.eventually("it is answered") { answer.count == 1 }
            #expect(throws: RPCError.self) { try answer.outcome?.get() }
            guard case .failure(let error)? = answer.outcome else { return }
            #expect(error.code == .notLeaderOrFollower)
        }
    }

    @Test(
        arguments: [(5, 0, ErrorCode.offsetOutOfRange), (0, 7, .unknownLeaderEpoch)]
            as [(Int64, Int32, ErrorCode)])
    func refusals(_ offset: Int64, _ epoch: Int32, _ code: ErrorCode) async throws {
        try await withReplica { _, replica in
            let (_, answer) = try await start(replica, from: offset, epoch: epoch)
            guard case .failure(let error)? = answer.outcome else {
                Issue.record("it was not refused")
                return
            }
            #expect(error.code == code)
        }
    }
}
