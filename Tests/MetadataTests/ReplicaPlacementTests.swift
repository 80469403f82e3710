import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct ReplicaPlacementTests {
    /// How far apart the most and the least loaded broker are.
    private func spread(_ counts: [Int]) -> Int { (counts.max() ?? 0) - (counts.min() ?? 0) }

    private func leaders(_ cluster: TestCluster) -> [Int] {
        cluster.image.activeBrokers.map { cluster.image.leaderCount(of: $0.id) }
    }

    private func replicas(_ cluster: TestCluster) -> [Int] {
        cluster.image.activeBrokers.map { cluster.image.replicaCount(of: $0.id) }
    }

    @Test(arguments: [(3, 6, 3), (5, 7, 3), (4, 100, 2), (6, 1, 3), (3, 10, 1)])
    func oneTopicIsSpreadEvenly(_ brokers: Int, _ partitions: Int, _ factor: Int) throws {
        var cluster = try TestCluster(brokers: brokers)
        try cluster.create("t", partitions: partitions, replicas: factor)
        #expect(spread(leaders(cluster)) <= 1)
        #expect(spread(replicas(cluster)) <= 1)
    }

    @Test func manySmallTopicsAreSpreadEvenly() throws {
        var cluster = try TestCluster(brokers: 5)
        for number in 0..<50 { try cluster.create("t\(number)", partitions: 1 + number % 3) }
        #expect(spread(leaders(cluster)) <= 1)
        #expect(spread(replicas(cluster)) <= 2)
    }

    @Test func aTopicIsSpreadOverAllBrokersEvenWhenOneIsNewAndEmpty() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.create("old", partitions: 30)
        try cluster.start(4)
        try cluster.create("new", partitions: 8)
        let topic = try #require(cluster.image.topic(named: "new"))
        let leaders = [1, 2, 3, 4].map { id in topic.partitions.count { $0.leader == id } }
        #expect(leaders == [2, 2, 2, 2])
    }

    @Test func everyPartitionReachesAsManyRacksAsItCan() throws {
        var cluster = TestCluster()
        for id in 1...6 { try cluster.start(NodeID(Int32(id)), rack: "r\(id % 3)") }
        try cluster.create("t", partitions: 24, replicas: 3)
        let topic = try #require(cluster.image.topic(named: "t"))
        for state in topic.partitions {
            #expect(Set(state.replicas.map { cluster.image.brokers[$0]?.rack }).count == 3)
            #expect(Set(state.replicas).count == 3)
        }
        #expect(spread(leaders(cluster)) <= 1)
        #expect(spread(replicas(cluster)) <= 2)
    }

    @Test func leadershipsOfADeadBrokerSpreadOverAllOthers() throws {
        var cluster = try TestCluster(brokers: 4)
        try cluster.create("t", partitions: 12)
        cluster.kill(1)
        #expect(leaders(cluster) == [4, 4, 4])
    }

    @Test func largestTopicIsPlacedOnManyBrokers() throws {
        var cluster = try TestCluster(brokers: 20)
        try cluster.create("t", partitions: 2_000)
        #expect(spread(leaders(cluster)) <= 1)
        #expect(spread(replicas(cluster)) <= 2)
    }
}
