import Essentials
import HashTreeCollections
import Metadata
import Testing

/// C11: a topic of one partition on brokers 1, 2, 3; broker 3 is back and out of sync.
@Suite struct AlterPartitionTests {
    private var cluster: TestCluster

    init() throws {
        cluster = try TestCluster(brokers: 3)
        try cluster.create("t", assignments: [[1, 2, 3]])
        cluster.kill(3)
        try cluster.heartbeat(3)
    }

    @Test mutating func leaderGrowsAndShrinksTheIsr() throws {
        #expect(cluster.alterError(try cluster.alter("t", isr: [3, 1, 2])) == nil)
        #expect(try cluster.partition("t").isr == [1, 2, 3])
        #expect(try cluster.partition("t").partitionEpoch == 2)
        #expect(cluster.alterError(try cluster.alter("t", isr: [1])) == nil)
        let state = try cluster.partition("t")
        #expect(state.isr == [1] && state.partitionEpoch == 3 && state.leaderEpoch == 0)
        #expect(state.eligibleLeaderReplicas == [2, 3])
    }

    @Test mutating func answerTellsTheNewState() throws {
        let outcome = try #require(cluster.commit(try cluster.alter("t", isr: [1, 2, 3])).first)
        #expect(outcome.error == nil)
        #expect(try outcome.state == cluster.partition("t"))
    }

    @Test mutating func otherEpochsAreRefused() throws {
        let alter = { [cluster] in try cluster.alter("t", isr: [1, 2, 3], partitionEpoch: $0) }
        #expect(cluster.alterError(try alter(0)) == .invalidUpdateVersion)
        #expect(cluster.alterError(try alter(2)) == .notController)
        #expect(
            cluster.alterError(try cluster.alter("t", isr: [1], leaderEpoch: -1))
                == .fencedLeaderEpoch)
        #expect(
            cluster.alterError(try cluster.alter("t", isr: [1], leaderEpoch: 1)) == .notController)
    }

    @Test mutating func onlyTheLeaderMayAskAndStaysInTheIsr() throws {
        #expect(
            cluster.alterError(try cluster.alter("t", isr: [1, 2], by: 2)) == .notLeaderOrFollower)
        #expect(cluster.alterError(try cluster.alter("t", isr: [2])) == .invalidRequest)
        #expect(cluster.alterError(try cluster.alter("t", isr: [])) == .invalidRequest)
    }

    @Test mutating func membersMustBeDistinctReplicas() throws {
        try cluster.start(4)
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 4])) == .invalidRequest)
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 2, 2])) == .invalidRequest)
    }

    @Test("B11") mutating func fencedStoppingAndFormerMembersAreIneligible() throws {
        let former = try cluster.alter(
            "t", isr: [1, 2, 3], memberEpochs: [3: BrokerEpoch(0)])
        #expect(cluster.alterError(former) == .ineligibleReplica)
        try cluster.heartbeat(3, wantsShutdown: true)
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 2, 3])) == .ineligibleReplica)
        cluster.kill(3)
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 2, 3])) == .ineligibleReplica)
    }

    @Test("B12") mutating func changeThatWasAppliedIsNotAppliedTwice() throws {
        let first = try cluster.partition("t").partitionEpoch
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 2, 3])) == nil)
        let again = try cluster.alter("t", isr: [1, 2, 3], partitionEpoch: first)
        let outcome = try #require(cluster.commit(again).first)
        #expect(outcome.error == .invalidUpdateVersion)
        #expect(outcome.state?.isr == [1, 2, 3])
        #expect(again.records.isEmpty)
    }

    @Test func unknownTopicsAndPartitionsAreNamed() throws {
        let topic = try #require(cluster.image.topicIDs["t"])
        func error(_ id: TopicPartition) throws -> ErrorCode? {
            try cluster.state.alterPartition(
                AlterPartitionRequest(
                    broker: 1, epoch: cluster.epoch(1),
                    changes: [.init(id: id, leaderEpoch: 0, partitionEpoch: 0, isr: [])])
            ).reply.first?.error
        }
        #expect(
            try error(TopicPartition(topic: TopicID(high: 0, low: 1), partition: 0))
                == .unknownTopicID)
        #expect(
            try error(TopicPartition(topic: topic, partition: 1)) == .unknownTopicOrPartition)
        #expect(
            try error(TopicPartition(topic: topic, partition: -1)) == .unknownTopicOrPartition)
    }
}
