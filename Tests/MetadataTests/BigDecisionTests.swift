import Essentials
import HashTreeCollections
import Metadata
import Testing

/// Decisions that take several batches; here a batch holds but a few records.
@Suite struct BigDecisionTests {
    private static let partitions = 30

    /// Brokers 1 to 3; broker 1 leads all of `t` and is the only replica of all of `single`.
    private func cluster() throws -> TestCluster {
        var cluster = try TestCluster(brokers: 3)
        let all = Array(repeating: [1, 2, 3] as [NodeID], count: Self.partitions)
        try cluster.create("t", assignments: all)
        try cluster.create("single", assignments: all.map { Array($0.prefix(1)) })
        cluster.limitBatches(to: 500)
        return cluster
    }

    @Test func fencingComesLast() throws {
        var cluster = try cluster()
        let decision = cluster.state.brokerGone(1, epoch: cluster.epoch(1))
        let result = try #require(decision)
        #expect(result.batches.count > 5)
        #expect(
            result.records.last
                == .brokerChange(BrokerChange(id: 1, epoch: cluster.epoch(1), fenced: true)))
        cluster.commit(result)
        #expect(cluster.image.leaderCount(of: 1) == 0)
        #expect(cluster.image.leaderCount(of: 2) == Self.partitions)
    }

    @Test func eachBatchKeepsItsSize() throws {
        var cluster = try cluster()
        let decision = cluster.state.brokerGone(1, epoch: cluster.epoch(1))
        let result = try #require(decision)
        for batch in result.batches {
            #expect(batch.reduce(0) { $0 + $1.encoded().count } <= 500)
        }
    }

    @Test(arguments: ["fence", "register", "shutdown"])
    func controllerRecoversFromTheLossOfTheLastBatches(_ command: String) throws {
        let cluster = try cluster()
        let id: NodeID = 1
        func result(_ cluster: inout TestCluster) throws -> [[MetadataRecord]] {
            switch command {
            case "fence":
                return cluster.state.brokerGone(id, epoch: cluster.epoch(id))?.batches ?? []
            case "register":
                cluster.now = cluster.now + .seconds(4)
                let request = cluster.request(id)
                return try cluster.state.registerBroker(request, now: cluster.now).batches
            default:
                let request = HeartbeatRequest(
                    broker: id, epoch: cluster.epoch(id), appliedOffset: 0, wantsShutdown: true)
                return try cluster.state.heartbeat(request, now: cluster.now).batches
            }
        }
        var full = cluster
        let batches = try result(&full)
        #expect(batches.count > 3)
        for kept in 0...batches.count {
            var cut = cluster
            try cut.commitAndFailOver(Array(batches.prefix(kept)))
            // Broker 1 is alive after all, or never comes back.
            var dead = cut
            if cut.isFenced(id) == false, cut.image.isActive(id) { try cut.heartbeat(id) }
            if kept < batches.count { #expect(try cut.partition("single", 29).leader == id) }
            for number in 0..<Self.partitions {
                #expect(try cut.partition("t", Int32(number)).leader != nil)
            }
            try dead.pass(.seconds(4), alive: [2, 3])
            #expect(dead.isFenced(id) == true)
            #expect(dead.image.leaderCount(of: 2) == Self.partitions)
            try dead.start(id)
            #expect(dead.image.leaderCount(of: id) == Self.partitions)
        }
    }

    @Test func unfencingComesFirst() throws {
        var cluster = try cluster()
        cluster.kill(1)
        let result = try cluster.state.heartbeat(
            HeartbeatRequest(broker: 1, epoch: cluster.epoch(1), appliedOffset: 10_000),
            now: cluster.now)
        #expect(result.batches.count > 3)
        var cut = cluster
        try cut.commitAndFailOver([result.batches[0]])
        #expect(cut.isFenced(1) == false)
        #expect(cut.image.leaderCount(of: 1) == Self.partitions)
    }

    @Test func decisionThatMayNotBeSplitIsRefusedWhenItIsTooLarge() throws {
        var cluster = try cluster()
        #expect(refusal { try cluster.create("u", partitions: 30) } == .recordListTooLarge)
        try cluster.create("u", partitions: 2)
    }

    @Test func boundOnTheSizeHoldsForEveryRecord() throws {
        // A batch that just fits by the bound must fit in truth: bounds are never too small.
        var random = SeededGenerator(seed: 3)
        var cluster = TestCluster(seed: 3) { $0.maxBatchBytes = 700 }
        for _ in 0..<300 { try cluster.step(&random) }
        #expect(cluster.largestBatch > 0 && cluster.largestBatch <= 700)
    }
}
