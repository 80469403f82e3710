import Essentials
import HashTreeCollections
import Metadata
import Testing

/// A topic of one partition on brokers 1, 2, 3, in this order, with min ISR 2.
@Suite struct LeaderElectionTests {
    private var cluster: TestCluster

    init() throws {
        cluster = try TestCluster(brokers: 3)
        try cluster.create("t", assignments: [[1, 2, 3]])
    }

    @Test mutating func fencedLeaderIsReplacedByTheNextInSyncReplica() throws {
        cluster.kill(1)
        let state = try cluster.partition("t")
        #expect(state.leader == 2)
        #expect(state.isr == [2, 3])
        #expect(state.eligibleLeaderReplicas == [])
        #expect(state.leaderEpoch == 1 && state.partitionEpoch == 1)
    }

    @Test mutating func fencedFollowerLeavesTheIsrAndTheLeaderKeepsItsEpoch() throws {
        cluster.kill(3)
        let state = try cluster.partition("t")
        #expect(state.leader == 1 && state.isr == [1, 2])
        #expect(state.leaderEpoch == 0 && state.partitionEpoch == 1)
    }

    @Test("B7") mutating func replicasLostBelowMinIsrStayEligible() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        let state = try cluster.partition("t")
        #expect(state.leader == nil && state.isr == [])
        #expect(state.eligibleLeaderReplicas == [2, 3])
    }

    @Test mutating func replicaThatWasOutOfSyncIsNotElected() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        try cluster.heartbeat(1)
        #expect(try cluster.partition("t").leader == nil)
        try cluster.heartbeat(3)
        let state = try cluster.partition("t")
        #expect(state.leader == 3 && state.isr == [3])
        #expect(state.eligibleLeaderReplicas == [2])
    }

    @Test mutating func elrIsClearedWhenTheIsrReachesItsMinimum() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        try cluster.heartbeat(3)
        try cluster.heartbeat(1)
        #expect(cluster.alterError(try cluster.alter("t", isr: [3, 1])) == nil)
        let state = try cluster.partition("t")
        #expect(state.isr == [1, 3])
        #expect(state.eligibleLeaderReplicas == [])
    }

    @Test("C5, B2") mutating func restartAfterACrashLeavesIsrAndElr() throws {
        try cluster.pass(.milliseconds(3100), alive: [1, 3])
        #expect(try cluster.partition("t").isr == [1, 3])
        cluster.kill(1)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [1])
        try cluster.start(1)
        let state = try cluster.partition("t")
        #expect(state.leader == 3 && state.isr == [3])
        #expect(state.eligibleLeaderReplicas == [])
    }

    @Test("C5") mutating func registrationAndItsConsequencesAreOneBatch() throws {
        cluster.now = cluster.now + .seconds(5)
        let request = cluster.request(1)
        let result = try cluster.state.registerBroker(request, now: cluster.now)
        #expect(result.records.count == 2)
        cluster.commit(result)
        #expect(try cluster.partition("t").leader == 2)
        #expect(try cluster.partition("t").isr == [2, 3])
    }

    @Test("C5") mutating func cleanStopKeepsAReplicaEligible() throws {
        for id in [1, 2, 3] as [NodeID] { try cluster.stop(id) }
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [2, 3])
        try cluster.start(2, previous: cluster.epoch(2))
        #expect(try cluster.partition("t").leader == 2)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [3])
    }

    @Test("C5") mutating func cleanStopWithANewLogDirectoryIsNoProof() throws {
        for id in [1, 2, 3] as [NodeID] { try cluster.stop(id) }
        try cluster.start(
            2, previous: cluster.epoch(2), directories: [DirectoryID(high: 1, low: 1)])
        #expect(try cluster.partition("t").leader == nil)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [3])
    }

    @Test("L16") mutating func elrMemberLeadsWhenTheLastInSyncReplicaCrashed() throws {
        cluster.kill(1)
        cluster.kill(2)
        cluster.kill(3)
        try cluster.start(3)
        #expect(try cluster.partition("t").leader == nil)
        try cluster.heartbeat(2)
        #expect(try cluster.partition("t").leader == 2)
    }

    @Test("L15") mutating func afterAPowerLossOfAllTheLastCandidateLeads() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        try cluster.start(1)
        try cluster.start(2)
        #expect(try cluster.partition("t").leader == nil)
        let result = try cluster.state.registerBroker(cluster.request(3), now: cluster.now)
        #expect(cluster.commit(result).lastCandidateOf == 1)
        try cluster.heartbeat(3)
        #expect(try cluster.partition("t").leader == 3)
    }

    @Test("L17") mutating func withoutAnyCandidateThePartitionStaysOffline() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        for id in [1, 2, 3] as [NodeID] {
            try cluster.start(id, directories: [DirectoryID(high: 2, low: 2)])
        }
        let state = try cluster.partition("t")
        #expect(state.leader == nil && state.isr == [] && state.eligibleLeaderReplicas == [])
    }

    @Test("C10, L18") mutating func uncleanElectionHappensWhereTheTopicAllowsIt() throws {
        try cluster.create(
            "u", configs: ["unclean.leader.election.enable": "true"], assignments: [[1, 2, 3]])
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        let result = try cluster.state.heartbeat(
            HeartbeatRequest(
                broker: 1, epoch: cluster.epoch(1), appliedOffset: cluster.image.nextOffset),
            now: cluster.now)
        #expect(result.elections.map(\.kind) == [.unclean])
        cluster.commit(result)
        let state = try cluster.partition("u")
        #expect(state.leader == 1 && state.isr == [1] && state.eligibleLeaderReplicas == [])
        #expect(try cluster.partition("t").leader == nil)
    }

    @Test mutating func onlyReplicaLeadsAgainAfterACrash() throws {
        try cluster.create("single", assignments: [[1]])
        cluster.kill(1)
        #expect(try cluster.partition("single").eligibleLeaderReplicas == [1])
        try cluster.start(1)
        #expect(try cluster.partition("single").leader == 1)
        #expect(try cluster.partition("single").isr == [1])
    }

    @Test mutating func preferredLeaderLeadsAgainOnceItIsInSync() throws {
        cluster.kill(1)
        try cluster.heartbeat(1)
        #expect(cluster.commit(cluster.state.electPreferred(limit: 10)) == 0)
        #expect(cluster.alterError(try cluster.alter("t", isr: [1, 2, 3])) == nil)
        let result = cluster.state.electPreferred(limit: 10)
        #expect(result.elections.map(\.kind) == [.preferred])
        #expect(cluster.commit(result) == 1)
        #expect(try cluster.partition("t").leader == 1)
        #expect(try cluster.partition("t").leaderEpoch == 2)
        #expect(cluster.commit(cluster.state.electPreferred(limit: 10)) == 0)
    }

    @Test mutating func preferredElectionsAreLimited() throws {
        for number in 0..<5 { try cluster.create("p\(number)", assignments: [[1, 2, 3]]) }
        cluster.kill(1)
        try cluster.heartbeat(1)
        for number in 0..<5 {
            #expect(cluster.alterError(try cluster.alter("p\(number)", isr: [1, 2, 3])) == nil)
        }
        #expect(cluster.commit(cluster.state.electPreferred(limit: 2)) == 2)
        #expect(cluster.commit(cluster.state.electPreferred(limit: 9)) == 3)
    }
}
