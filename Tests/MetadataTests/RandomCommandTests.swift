import Essentials
import HashTreeCollections
import Metadata
import Testing

/// Commands at random, sane and insane.
///
/// Every commit checks C3 and C7 to C9; see `TestCluster`.
@Suite struct RandomCommandTests {
    @Test(arguments: 1...30)
    func rulesHoldAndReplayGivesTheSameImage(_ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var cluster = TestCluster(seed: UInt64(seed))
        for _ in 0..<300 { try cluster.step(&random) }
        #expect(try cluster.replayed() == cluster.image, "seed \(seed)")
    }

    /// Batches of a few records each; some of them never get into the log.
    @Test(arguments: 1...30)
    func rulesHoldBetweenTheBatchesOfADecisionAndAfterLosingSome(_ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var cluster = TestCluster(seed: UInt64(seed)) { $0.maxBatchBytes = 640 }
        cluster.cuts = SeededGenerator(seed: UInt64(seed))
        for id in 1...5 as ClosedRange<Int32> { try cluster.start(NodeID(id)) }
        for _ in 0..<300 { try cluster.step(&random) }
        #expect(try cluster.replayed() == cluster.image, "seed \(seed)")
    }

    @Test func sameSeedGivesTheSameRecords() throws {
        func records() throws -> [MetadataRecord] {
            var random = SeededGenerator(seed: 77)
            var cluster = TestCluster(seed: 77)
            for _ in 0..<300 { try cluster.step(&random) }
            return cluster.log
        }
        #expect(try records() == records())
    }
}

extension TestCluster {
    /// One command at random.
    mutating func step(_ random: inout SeededGenerator) throws {
        let broker = NodeID(Int32.random(in: 1...5, using: &random))
        let topic = "t\(Int.random(in: 0..<4, using: &random))"
        do {
            switch Int.random(in: 0..<12, using: &random) {
            case 0:
                try start(broker)
            case 1:
                try register(request(broker, previous: epoch(broker)))
            case 2:
                let directory = DirectoryID(high: 3, low: random.next() % 3 + 1)
                try register(request(broker, directories: [directory]))
            case 3, 4:
                try heartbeat(broker)
            case 5:
                let wantsShutdown = Bool.random(using: &random)
                try heartbeat(
                    broker, wantsFence: !wantsShutdown, wantsShutdown: wantsShutdown)
            case 6:
                kill(broker)
            case 7:
                now =
                    now + .milliseconds(Int64.random(in: 1...2000, using: &random))
                expireSessions()
            case 8:
                let unclean = Int.random(in: 0..<4, using: &random) == 0
                try create(
                    topic, partitions: Int.random(in: 1...4, using: &random),
                    configs: unclean ? ["unclean.leader.election.enable": "true"] : [:])
            case 9:
                guard Int.random(in: 0..<4, using: &random) == 0 else { return }
                commit(try state.deleteTopic(named: topic))
            case 10:
                guard let state = image.topic(named: topic)?.partitions.first,
                    state.leader != nil
                else { return }
                let isr = state.replicas.filter { _ in Bool.random(using: &random) }
                commit(try alter(topic, isr: isr))
            default:
                switch Int.random(in: 0..<3, using: &random) {
                case 0: try failOver()
                case 1: commit(state.electPreferred(limit: 2))
                default:
                    commit(try state.unregisterBroker(broker, now: now))
                }
            }
        } catch is ControllerError {
            // A refusal is as good an outcome as any.
        }
    }
}
