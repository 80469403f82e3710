import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct UnregisterBrokerTests {
    private func message(_ cluster: inout TestCluster, _ id: NodeID) -> String? {
        do throws(ControllerError) {
            cluster.commit(try cluster.state.unregisterBroker(id, now: cluster.now))
            return nil
        } catch {
            return error.message
        }
    }

    @Test func fencedBrokerWithoutReplicasIsForgotten() throws {
        var cluster = try TestCluster(brokers: 2)
        cluster.kill(2)
        #expect(message(&cluster, 2) == nil)
        #expect(cluster.image.brokers[2] == nil)
        #expect(message(&cluster, 2) == "broker 2 is not registered")
        try cluster.start(2)
        #expect(cluster.isFenced(2) == false)
    }

    @Test func servingBrokerIsNot() throws {
        var cluster = try TestCluster(brokers: 1)
        #expect(try #require(message(&cluster, 1)).contains("stop it before"))
        cluster.now = cluster.now + .seconds(4)
        #expect(try #require(message(&cluster, 1)).contains("not fenced yet"))
    }

    @Test func brokerThatHoldsReplicasIsNot() throws {
        var cluster = try TestCluster(brokers: 3)
        for name in ["a", "b", "c", "d"] { try cluster.create(name, assignments: [[1, 2, 3]]) }
        cluster.kill(3)
        let message = try #require(message(&cluster, 3))
        #expect(message.contains("broker 3 is a replica of 4 partitions"))
        #expect(message.contains("-0"))
        for name in ["a", "b", "c", "d"] {
            cluster.commit(try cluster.state.deleteTopic(named: name))
        }
        #expect(self.message(&cluster, 3) == nil)
    }
}
