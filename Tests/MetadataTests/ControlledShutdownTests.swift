import Essentials
import Metadata
import Testing

@Suite struct ControlledShutdownTests {
    @Test("C6") func brokerIsReleasedOnceAllOthersHaveAppliedTheMoves() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.create("t", assignments: [[1, 2, 3]])
        let before = cluster.image.nextOffset
        #expect(try cluster.heartbeat(1, wantsShutdown: true).shouldShutDown == false)
        #expect(try cluster.partition("t").leader == 2)
        #expect(try cluster.partition("t").isr == [2, 3])
        #expect(cluster.isFenced(1) == false)

        try cluster.heartbeat(2)
        try cluster.heartbeat(3, applied: before)
        #expect(try cluster.heartbeat(1, wantsShutdown: true).shouldShutDown == false)
        try cluster.heartbeat(3)
        let reply = try cluster.heartbeat(1, wantsShutdown: true)
        #expect(reply.shouldShutDown && reply.isFenced)
        #expect(cluster.isFenced(1) == true)
        // The answer may get lost: the next one is the same, once the fencing has spread too.
        try cluster.heartbeat(2)
        try cluster.heartbeat(3)
        #expect(try cluster.heartbeat(1, wantsShutdown: true).shouldShutDown)
    }

    @Test("B6") func shutdownGoesOnUnderANewController() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.create("t", assignments: [[1, 2, 3]])
        try cluster.heartbeat(1, wantsShutdown: true)
        try cluster.failOver()
        #expect(try cluster.heartbeat(1, wantsShutdown: true).shouldShutDown == false)
        try cluster.heartbeat(2)
        try cluster.heartbeat(3)
        #expect(try cluster.heartbeat(1, wantsShutdown: true).shouldShutDown)
    }

    @Test func lastBrokerIsReleasedAtOnceAndStaysEligible() throws {
        var cluster = try TestCluster(brokers: 1)
        try cluster.create("t")
        #expect(try cluster.heartbeat(1, wantsShutdown: true).shouldShutDown)
        #expect(try cluster.partition("t").leader == nil)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [1])
        try cluster.start(1, previous: cluster.epoch(1))
        #expect(try cluster.partition("t").leader == 1)
    }

    @Test func stoppingBrokerGetsNoNewReplicas() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.heartbeat(1, wantsShutdown: true)
        try cluster.create("t", partitions: 4)
        #expect(try cluster.partition("t").replicas.count == 2)
        #expect(cluster.image.replicaCount(of: 1) == 0)
    }

    @Test func registrationEndsTheShutdownOfTheFormerProcess() throws {
        var cluster = try TestCluster(brokers: 2)
        try cluster.stop(1)
        try cluster.start(1, previous: cluster.epoch(1))
        #expect(cluster.image.isActive(1))
    }
}
