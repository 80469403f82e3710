import Essentials
import HashTreeCollections
import Metadata
import Testing

/// A topic of one partition on brokers 1, 2, 3, in this order, with min ISR 2: what becomes of it
/// when brokers can't use their replicas.
@Suite struct OfflineReplicaTests {
    private var cluster: TestCluster

    init() throws {
        cluster = try TestCluster(brokers: 3)
        try cluster.raiseLevel(to: 3)
        try cluster.create("t", assignments: [[1, 2, 3]])
    }

    private var state: PartitionState {
        get throws { try cluster.partition("t") }
    }

    @Test("C9, D7") mutating func anotherReplicaLeadsWhatItsLeaderCannotUse() throws {
        let reply = try cluster.report(1, .offline, "t")
        #expect(reply.errors == [nil] && reply.newlyOffline == 1 && reply.leaderless == 0)
        #expect(try state.leader == 2 && state.isr == [2, 3])
        #expect(try state.offlineReplicas == [1])
        // The two that are left are enough: it need not be waited for.
        #expect(try state.eligibleLeaderReplicas == [])
        #expect(try state.leaderEpoch == 1 && state.partitionEpoch == 1)
        #expect(cluster.image.isActive(1) && cluster.image.offlineCount(of: 1) == 1)
    }

    @Test mutating func followerThatIsOfflineLeavesTheIsrAndTheLeaderStays() throws {
        try cluster.report(3, .offline, "t")
        #expect(try state.leader == 1 && state.isr == [1, 2] && state.offlineReplicas == [3])
        #expect(try state.leaderEpoch == 0 && state.partitionEpoch == 1)
    }

    @Test mutating func reportsMayBeRepeated() throws {
        for state in [.offline, .damaged, .online] as [ReplicaReport.State] {
            try cluster.report(1, state, "t")
            let records = cluster.log.count
            let reply = try cluster.report(1, state, "t")
            #expect(reply.newlyOffline == 0 && reply.newlyOnline == 0)
            #expect(cluster.log.count == records)
        }
    }

    @Test("P2, C9") mutating func lastCandidateStaysOneAndDoesNotLead() throws {
        cluster.kill(1)
        cluster.kill(2)
        #expect(try cluster.report(3, .offline, "t").leaderless == 1)
        #expect(try state.leader == nil && state.isr == [])
        #expect(try state.eligibleLeaderReplicas == [2, 3])
        // It is no better when the broker was away for a while, or another controller leads.
        cluster.kill(3)
        try cluster.heartbeat(3)
        try cluster.failOver()
        #expect(try state.leader == nil && state.offlineReplicas == [3])

        let reply = try cluster.report(3, .online, "t")
        #expect(reply.newlyOnline == 1)
        #expect(try state.leader == 3 && state.isr == [3] && state.offlineReplicas == [])
    }

    @Test("P3") mutating func damagedReplicaIsNoCandidateNextToALiveOne() throws {
        cluster.kill(1)
        #expect(try cluster.report(2, .damaged, "t").damaged == 1)
        #expect(try state.leader == 3 && state.isr == [3] && state.offlineReplicas == [2])
        #expect(try state.eligibleLeaderReplicas == [])
    }

    @Test("P3") mutating func replicaThatWasOfflineAndIsFoundDamagedLeavesTheElr() throws {
        cluster.kill(1)
        try cluster.report(2, .offline, "t")
        #expect(try state.eligibleLeaderReplicas == [2])
        try cluster.report(2, .damaged, "t")
        #expect(try state.leader == 3 && state.eligibleLeaderReplicas == [])
        #expect(try state.offlineReplicas == [2])
    }

    @Test mutating func damagedReplicaIsKeptWhileNoBetterOneIsLive() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        #expect(try state.eligibleLeaderReplicas == [2, 3])
        try cluster.report(3, .damaged, "t")
        #expect(try state.eligibleLeaderReplicas == [2, 3])
        // The other candidate comes back and leads; the report, repeated, is now heeded.
        try cluster.heartbeat(3)
        #expect(try state.leader == nil)
        try cluster.heartbeat(2)
        #expect(try state.leader == 2 && state.eligibleLeaderReplicas == [3])
        try cluster.report(3, .damaged, "t")
        #expect(try state.eligibleLeaderReplicas == [] && state.offlineReplicas == [3])
    }

    @Test mutating func candidatesThatAreOfflineDoNotMakeADamagedOneLeave() throws {
        cluster.kill(1)
        try cluster.report(2, .offline, "t")
        try cluster.report(3, .damaged, "t")
        #expect(try state.leader == nil && state.eligibleLeaderReplicas == [2, 3])
        #expect(try state.offlineReplicas == [2, 3])
    }

    @Test("C10") mutating func offlineReplicaIsNotEvenElectedUncleanly() throws {
        try cluster.create(
            "u", configs: ["unclean.leader.election.enable": "true"], assignments: [[1, 2]])
        try cluster.report(1, .damaged, "u")
        try cluster.report(2, .damaged, "u")
        let both = try cluster.partition("u")
        #expect(both.leader == nil && both.offlineReplicas == [1, 2])
        #expect(both.eligibleLeaderReplicas == [2])
        // It lacks what the last candidate had: possible, because the topic allows it.
        try cluster.report(1, .online, "u")
        let state = try cluster.partition("u")
        #expect(state.leader == 1 && state.isr == [1] && state.eligibleLeaderReplicas == [])
    }

    @Test("C11") mutating func offlineReplicaDoesNotJoinTheIsr() throws {
        try cluster.report(3, .offline, "t")
        let refused = try cluster.alter("t", isr: [1, 2, 3])
        #expect(cluster.alterError(refused) == .ineligibleReplica)
        try cluster.report(3, .online, "t")
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 2, 3])) == nil)
    }

    @Test("C1, C11") mutating func whatAReportNamesWrongIsRefusedByItself() throws {
        let known = TopicPartition(
            topic: try #require(cluster.image.topicIDs["t"]), partition: 0)
        let single = TopicPartition(
            topic: try cluster.create("one", assignments: [[2]]), partition: 0)
        var beyond = known
        beyond.partition = 1
        let unknown = TopicPartition(topic: TopicID(high: 9, low: 9), partition: 0)
        let reply = try cluster.report(1, .offline, [unknown, beyond, single, known])
        #expect(
            reply.errors == [
                .unknownTopicID, .unknownTopicOrPartition, .notLeaderOrFollower, nil,
            ])
        #expect(try state.offlineReplicas == [1])
        #expect(try cluster.report(1, nil, "t").errors == [.invalidRequest])

        let stale = ReplicaReport(broker: 1, epoch: cluster.epoch(2), replicas: [])
        #expect(refusal { _ = try cluster.state.reportReplicas(stale) } == .staleBrokerEpoch)
        let many = Array(
            repeating: ReplicaReport.Replica(id: known, state: .online), count: 10_001)
        let long = ReplicaReport(broker: 1, epoch: cluster.epoch(1), replicas: many)
        #expect(refusal { _ = try cluster.state.reportReplicas(long) } == .invalidRequest)
    }

    @Test mutating func manyReplicasAreReportedInSeveralBatches() throws {
        let topic = try cluster.create(
            "many", assignments: Array(repeating: [1, 2, 3], count: 40))
        cluster.limitBatches(to: 500)
        let all = (0..<40).map { TopicPartition(topic: topic, partition: $0) }
        let result = try cluster.state.reportReplicas(
            ReplicaReport(
                broker: 1, epoch: cluster.epoch(1),
                replicas: all.map { .init(id: $0, state: .offline) }))
        #expect(result.batches.count > 3 && result.batches.allSatisfy { !$0.isEmpty })
        cluster.commit(result)
        #expect(cluster.largestBatch <= 1500)
        #expect(cluster.image.offlineCount(of: 1) == 40)
        #expect(cluster.image.leaderCount(of: 1) == 1 && cluster.image.leaderCount(of: 2) == 40)
        cluster.commit(try cluster.state.deleteTopic(named: "many"))
        #expect(cluster.image.offlineCount(of: 1) == 0)
    }

    @Test mutating func belowItsLevelAReportHasItsEffectAndIsNotWrittenDown() throws {
        cluster = try TestCluster(brokers: 2)
        try cluster.raiseLevel(to: 2)
        try cluster.create("old", assignments: [[1, 2]])
        try cluster.report(1, .offline, "old")
        #expect(try cluster.partition("old").leader == 2)
        #expect(try cluster.partition("old").isr == [2])
        #expect(try cluster.partition("old").offlineReplicas == [])
        try cluster.report(2, .offline, "old")
        #expect(try cluster.partition("old").leader == nil)
        #expect(try cluster.replayed() == cluster.image)
    }

    @Test func marksAreOfReplicasThatNeitherLeadNorAreInSync() {
        func rule(_ offline: [NodeID], isr: [NodeID] = [1], leader: NodeID? = 1) -> String? {
            PartitionState(replicas: [1, 2], isr: isr, offlineReplicas: offline, leader: leader)
                .brokenRule
        }
        #expect(rule([2]) == nil)
        #expect(rule([1, 2], isr: [], leader: nil) == nil)
        #expect(rule([3]) != nil)
        #expect(rule([2, 2]) != nil)
        #expect(rule([1]) != nil)
    }
}
