import Essentials
import Metadata
import Testing

@Suite struct ProducerIDTests {
    @Test("C14") func blocksFollowEachOtherAcrossControllers() throws {
        var cluster = try TestCluster(brokers: 2)
        try cluster.raiseLevel(to: 2)
        func next(_ id: NodeID) throws -> ProducerIDBlock {
            cluster.commit(
                try cluster.state.allocateProducerIDs(broker: id, epoch: cluster.epoch(id)))
        }
        #expect(try next(1) == ProducerIDBlock(first: 0, count: 1000))
        #expect(try next(2) == ProducerIDBlock(first: 1000, count: 1000))
        try cluster.failOver()
        #expect(try next(1) == ProducerIDBlock(first: 2000, count: 1000))
        #expect(try cluster.replayed().nextProducerID == 3000)
    }

    @Test func otherBrokerEpochsGetNone() throws {
        var cluster = try TestCluster(brokers: 1)
        try cluster.raiseLevel(to: 2)
        for epoch in [cluster.epoch(1).rawValue - 1, cluster.epoch(1).rawValue + 1] {
            let code = refusal {
                _ = try cluster.state.allocateProducerIDs(broker: 1, epoch: BrokerEpoch(epoch))
            }
            #expect(code == .staleBrokerEpoch)
        }
        #expect(
            refusal {
                _ = try cluster.state.allocateProducerIDs(broker: 9, epoch: 0)
            } == .staleBrokerEpoch)
    }

    @Test func levelOneKnowsNoProducerIDs() throws {
        var cluster = try TestCluster(brokers: 1)
        try cluster.raiseLevel(to: 1)
        #expect(
            refusal {
                _ = try cluster.state.allocateProducerIDs(broker: 1, epoch: cluster.epoch(1))
            } == .unsupportedVersion)
    }
}
