import Essentials
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import RPC
import Replication
import Synchronization
import Testing

@testable import Broker

/// What followers are answered, and when, over a connection.
@Suite struct ReplicaParkedFetchTests {
    private final class Answer: Sendable {
        private let state = Mutex<Result<[ReplicaFetchCoding.Answer], RPCError>?>(nil)

        func take(_ result: Result<ByteBuffer, RPCError>) {
            state.withLock { state in
                do throws(RPCError) {
                    state = .success(try ReplicaFetchCoding.decodeAnswers(try result.get()))
                } catch {
                    state = .failure(error)
                }
            }
        }

        var result: Result<[ReplicaFetchCoding.Answer], RPCError>? { state.withLock { $0 } }
        var isThere: Bool { result != nil }
        var answers: [ReplicaFetchCoding.Answer] {
            get throws { try #require(result).get() }
        }
    }

    /// A follower by hand: broker 2, which is registered and runs nothing.
    private struct Follower {
        let cluster: ReplicaCluster
        let client: RPCClient
        let id: TopicPartition
        let leaderEpoch: LeaderEpoch

        func fetch(
            _ position: Offset, highWatermark: Offset = 0, of partition: TopicPartition? = nil,
            clusterID: String = "test", brokerEpoch: BrokerEpoch = 2000,
            maxWait: Duration = .seconds(300)
        ) -> Answer {
            let request = ReplicaFetchCoding.encode(
                clusterID: clusterID, follower: 2, brokerEpoch: brokerEpoch, maxBytes: 1 << 20,
                maxWait: maxWait,
                positions: [
                    (
                        partition ?? id,
                        PartitionFollower.Position(
                            leaderEpoch: leaderEpoch, offset: position,
                            lastFetchedEpoch: position == 0 ? .none : leaderEpoch,
                            durableEnd: position, logStartOffset: 0, highWatermark: highWatermark)
                    )
                ], count: 1)
            let answer = Answer()
            client.unary(ReplicaFetchService.path, [request], timeout: .seconds(600)) {
                answer.take($0)
            }
            return answer
        }
    }

    private func withFollower(
        _ body: (ReplicaCluster, Follower) async throws -> Void
    ) async throws {
        try await ReplicaCluster.run(brokers: [1], maxReplicaLag: .seconds(300)) { cluster in
            cluster.commit([
                .registerBroker(
                    BrokerRegistration(
                        id: 2, incarnation: .random(), epoch: 2000, host: "127.0.0.1", port: 1,
                        fenced: false))
            ])
            let id = TopicPartition(
                topic: try cluster.createTopic("t", replicas: [1, 2]), partition: 0)
            _ = try await cluster.produce(["first"], to: "t", at: 1, acks: .leader)
            let client = RPCClient(
                host: "127.0.0.1", port: try cluster.port(1),
                eventLoop: MultiThreadedEventLoopGroup.singleton.next(),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            defer { client.close() }
            let epoch = try cluster.partition(id).leaderEpoch
            try await body(
                cluster, Follower(cluster: cluster, client: client, id: id, leaderEpoch: epoch))
        }
    }

    private func parked(_ cluster: ReplicaCluster) async throws -> Int {
        let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
        return try await replica.eventLoop.submit { replica.parkedFetches.count }.get()
    }

    private func bytes(_ answer: Answer) throws -> Int {
        guard case .batches(let bytes)? = try answer.answers.first?.content else { return -1 }
        return bytes.readableBytes
    }

    @Test func followerThatIsBehindIsAnsweredAtOnce() async throws {
        try await withFollower { cluster, follower in
            let answer = follower.fetch(0)
            try await cluster.eventually("it is answered") { answer.isThere }
            #expect(try bytes(answer) > 0)
            #expect(try await parked(cluster) == 0)
        }
    }

    @Test func recordsThatComeWakeTheParkedFetch() async throws {
        try await withFollower { cluster, follower in
            // Its fetch from 1 says that it has the first record, which is committed then.
            let first = follower.fetch(1)
            try await cluster.eventually("it hears of the high watermark") { first.isThere }
            #expect(try first.answers.first?.highWatermark == 1)
            #expect(try bytes(first) == 0)
            let second = follower.fetch(1, highWatermark: 1)
            try await cluster.eventually("it is parked") { try await parked(cluster) == 1 }
            #expect(!second.isThere)
            _ = try await cluster.produce(["second"], to: "t", at: 1, acks: .leader)
            try await cluster.eventually("it is answered") { second.isThere }
            #expect(try bytes(second) > 0)
        }
    }

    @Test func newerFetchSendsTheOlderOneHome() async throws {
        try await withFollower { cluster, follower in
            let first = follower.fetch(1)
            try await cluster.eventually("it hears of the high watermark") { first.isThere }
            let old = follower.fetch(1, highWatermark: 1)
            try await cluster.eventually("it is parked") { try await parked(cluster) == 1 }
            let new = follower.fetch(1, highWatermark: 1)
            try await cluster.eventually("the old one goes home empty") { old.isThere }
            #expect(try old.answers.isEmpty)
            #expect(!new.isThere)
            // A late fetch of an earlier incarnation is no news, and disturbs nobody.
            let late = follower.fetch(1, highWatermark: 1, brokerEpoch: 1)
            try await cluster.eventually("it is refused") { late.isThere }
            #expect(!new.isThere)
            _ = try await cluster.produce(["second"], to: "t", at: 1, acks: .leader)
            try await cluster.eventually("the new one is answered") { new.isThere }
            #expect(try bytes(new) > 0)
        }
    }

    @Test func timeThatIsUpIsAnsweredEmpty() async throws {
        try await withFollower { cluster, follower in
            let first = follower.fetch(1)
            try await cluster.eventually("it hears of the high watermark") { first.isThere }
            let answer = follower.fetch(1, highWatermark: 1, maxWait: .milliseconds(5))
            try await cluster.eventually("it is answered") { answer.isThere }
            #expect(try answer.answers.isEmpty)
        }
    }

    @Test func leaderThatIsReplacedSaysSo() async throws {
        try await withFollower { cluster, follower in
            let first = follower.fetch(1)
            try await cluster.eventually("it hears of the high watermark") { first.isThere }
            let answer = follower.fetch(1, highWatermark: 1)
            try await cluster.eventually("it is parked") { try await parked(cluster) == 1 }
            cluster.elect(2, isr: [1, 2], of: follower.id)
            try await cluster.eventually("it is answered") { answer.isThere }
            guard case .failed(let code)? = try answer.answers.first?.content else {
                Issue.record("it was not refused")
                return
            }
            #expect(code == .notLeaderOrFollower)
        }
    }

    @Test func followersOfOtherClustersAndOfNothingAreRefused() async throws {
        try await withFollower { cluster, follower in
            let other = follower.fetch(0, clusterID: "other")
            try await cluster.eventually("it is refused") { other.isThere }
            guard case .failure(let error)? = other.result else {
                Issue.record("it was not refused")
                return
            }
            #expect(error.code == .inconsistentClusterID)
            let unknown = follower.fetch(
                0, of: TopicPartition(topic: .random(), partition: 0))
            try await cluster.eventually("it is refused") { unknown.isThere }
            guard case .failed(let code)? = try unknown.answers.first?.content else {
                Issue.record("it was not refused")
                return
            }
            #expect(code == .unknownTopicOrPartition)
        }
    }
}
