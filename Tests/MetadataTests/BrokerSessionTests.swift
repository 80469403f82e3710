import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct BrokerSessionTests {
    @Test func brokerEpochIsTheOffsetOfTheRegistrationAndRises() throws {
        var cluster = TestCluster()
        let first = try cluster.register(cluster.request(1))
        let second = try cluster.register(cluster.request(2))
        #expect(first == 0 && second == 1)
        cluster.kill(1)
        try cluster.pass(.seconds(4))
        #expect(try cluster.register(cluster.request(1)) > second)
        #expect(try cluster.replayed().brokers[1]?.epoch == cluster.epoch(1))
    }

    @Test func sameIncarnationAskingAgainKeepsItsEpoch() throws {
        var cluster = TestCluster()
        let request = cluster.request(1)
        let epoch = try cluster.register(request)
        try cluster.start(2)
        #expect(try cluster.register(request) == epoch)
        #expect(cluster.log.count == 3)
    }

    @Test("C2, B1") func anotherIncarnationIsRefusedWhileTheSessionLasts() throws {
        var cluster = try TestCluster(brokers: 1)
        let epoch = cluster.epoch(1)
        let intruder = cluster.request(1)
        #expect(refusal { try cluster.register(intruder) } == .duplicateBrokerRegistration)
        #expect(cluster.epoch(1) == epoch)
        #expect(cluster.isFenced(1) == false)
        try cluster.pass(.milliseconds(3100))
        #expect(cluster.isFenced(1) == true)
        try cluster.register(intruder)
        #expect(cluster.epoch(1) > epoch)
    }

    @Test func proofOfACleanStopEndsTheOldSessionAtOnce() throws {
        var cluster = try TestCluster(brokers: 1)
        try cluster.register(cluster.request(1, previous: cluster.epoch(1)))
        #expect(cluster.isFenced(1) == true)
    }

    @Test("C1, B3") func staleEpochsChangeNothing() throws {
        var cluster = try TestCluster(brokers: 2)
        try cluster.create("t", replicas: 2)
        let stale = cluster.epoch(1)
        cluster.kill(1)
        try cluster.register(cluster.request(1))
        let records = cluster.log.count
        let code = refusal {
            _ = try cluster.state.heartbeat(
                HeartbeatRequest(broker: 1, epoch: stale, appliedOffset: 99), now: cluster.now)
        }
        #expect(code == .staleBrokerEpoch)
        #expect(
            refusal {
                _ = try cluster.state.alterPartition(
                    AlterPartitionRequest(broker: 1, epoch: stale, changes: []))
            } == .staleBrokerEpoch)
        #expect(cluster.state.brokerGone(1, epoch: stale) == nil)
        #expect(cluster.log.count == records)
        #expect(cluster.isFenced(1) == true)
    }

    @Test("C4") func brokerIsUnfencedOnceItHasAppliedItsOwnRegistration() throws {
        var cluster = try TestCluster(brokers: 1)
        let epoch = try cluster.register(cluster.request(2))
        #expect(try cluster.heartbeat(2, applied: Offset(epoch.rawValue)).isCaughtUp == false)
        #expect(cluster.isFenced(2) == true)
        let reply = try cluster.heartbeat(2, applied: Offset(epoch.rawValue + 1))
        #expect(reply == HeartbeatReply(isFenced: false, isCaughtUp: true))
        #expect(cluster.isFenced(2) == false)
    }

    @Test func silentBrokerIsFencedWhenItsSessionEnds() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.pass(.milliseconds(2900), alive: [2, 3])
        #expect(cluster.isFenced(1) == false)
        try cluster.pass(.milliseconds(200), alive: [2, 3])
        #expect(cluster.isFenced(1) == true)
        #expect(cluster.isFenced(2) == false)
    }

    @Test("B8") func brokerThatWasThoughtDeadServesAgainWithItsNextHeartbeat() throws {
        var cluster = try TestCluster(brokers: 2)
        cluster.kill(1)
        #expect(cluster.isFenced(1) == true)
        try cluster.heartbeat(1)
        #expect(cluster.isFenced(1) == false)
    }

    @Test func brokerMayAskToBeFenced() throws {
        var cluster = try TestCluster(brokers: 2)
        #expect(try cluster.heartbeat(1, wantsFence: true).isFenced)
        #expect(try cluster.heartbeat(1, wantsFence: true).isFenced)
        #expect(cluster.isFenced(1) == true)
    }

    @Test("Q25") func controllerThatStoodStillFencesNobodyForIt() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.pass(.seconds(1), alive: [1, 2, 3])
        cluster.now = cluster.now + .seconds(10)
        cluster.expireSessions()
        #expect((1...3).allSatisfy { cluster.isFenced(NodeID($0)) == false })
        try cluster.pass(.milliseconds(3100), alive: [1])
        #expect(cluster.isFenced(1) == false)
        #expect(cluster.isFenced(2) == true)
    }

    @Test func newControllerGivesEveryServingBrokerAFullSession() throws {
        var cluster = try TestCluster(brokers: 2)
        try cluster.pass(.milliseconds(2900))
        try cluster.failOver()
        try cluster.pass(.milliseconds(2900))
        #expect(cluster.isFenced(1) == false)
        #expect(
            refusal { try cluster.register(cluster.request(1)) } == .duplicateBrokerRegistration)
        try cluster.pass(.milliseconds(200), alive: [2])
        #expect(cluster.isFenced(1) == true)
        #expect(cluster.isFenced(2) == false)
    }

    @Test func registrationOfAnotherClusterOrOfAControllersIdIsRefused() throws {
        var cluster = TestCluster()
        var foreign = cluster.request(1)
        foreign.clusterID = "elsewhere"
        #expect(refusal { try cluster.register(foreign) } == .inconsistentClusterID)
        #expect(refusal { try cluster.register(cluster.request(100)) } == .invalidRequest)
        #expect(refusal { try cluster.register(cluster.request(-1)) } == .invalidRequest)
        var nowhere = cluster.request(1)
        nowhere.port = 70_000
        #expect(refusal { try cluster.register(nowhere) } == .invalidRequest)
        #expect(refusal { try cluster.heartbeat(1) } == .brokerIDNotRegistered)
    }
}
