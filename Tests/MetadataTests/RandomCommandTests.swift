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
        for _ in 0..<300 { try step(&cluster, &random) }
        #expect(try cluster.replayed() == cluster.image, "seed \(seed)")
    }

    @Test func sameSeedGivesTheSameRecords() throws {
        func records() throws -> [MetadataRecord] {
            var random = SeededGenerator(seed: 77)
            var cluster = TestCluster(seed: 77)
            for _ in 0..<300 { try step(&cluster, &random) }
            return cluster.log
        }
        #expect(try records() == records())
    }

    private func step(_ cluster: inout TestCluster, _ random: inout SeededGenerator) throws {
        let broker = NodeID(Int32.random(in: 1...5, using: &random))
        let topic = "t\(Int.random(in: 0..<4, using: &random))"
        do {
            switch Int.random(in: 0..<12, using: &random) {
            case 0:
                try cluster.start(broker)
            case 1:
                try cluster.register(cluster.request(broker, previous: cluster.epoch(broker)))
            case 2:
                let directory = DirectoryID(high: 3, low: random.next() % 3 + 1)
                try cluster.register(cluster.request(broker, directories: [directory]))
            case 3, 4:
                try cluster.heartbeat(broker)
            case 5:
                let wantsShutdown = Bool.random(using: &random)
                try cluster.heartbeat(
                    broker, wantsFence: !wantsShutdown, wantsShutdown: wantsShutdown)
            case 6:
                cluster.kill(broker)
            case 7:
                cluster.now =
                    cluster.now + .milliseconds(Int64.random(in: 1...2000, using: &random))
                cluster.expireSessions()
            case 8:
                let unclean = Int.random(in: 0..<4, using: &random) == 0
                try cluster.create(
                    topic, partitions: Int.random(in: 1...4, using: &random),
                    configs: unclean ? ["unclean.leader.election.enable": "true"] : [:])
            case 9:
                guard Int.random(in: 0..<4, using: &random) == 0 else { return }
                cluster.commit(try cluster.state.deleteTopic(named: topic))
            case 10:
                guard let state = cluster.image.topic(named: topic)?.partitions.first,
                    state.leader != nil
                else { return }
                let isr = state.replicas.filter { _ in Bool.random(using: &random) }
                cluster.commit(try cluster.alter(topic, isr: isr))
            default:
                switch Int.random(in: 0..<3, using: &random) {
                case 0: try cluster.failOver()
                case 1: cluster.commit(cluster.state.electPreferred(limit: 2))
                default:
                    cluster.commit(try cluster.state.unregisterBroker(broker, now: cluster.now))
                }
            }
        } catch is ControllerError {
            // A refusal is as good an outcome as any.
        }
    }
}
