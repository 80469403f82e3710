import Essentials
import HashTreeCollections
import Metadata
import Testing

/// Commands at random, sane and insane.
///
/// Every commit checks C3 and C7 to C9; see `TestCluster`.
@Suite struct RandomCommandTests {
    @Test(arguments: 1...20)
    func rulesHoldAndReplayGivesTheSameImage(_ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var cluster = TestCluster(seed: UInt64(seed))
        if seed % 4 > 0 { try cluster.raiseLevel(to: 3) }
        for _ in 0..<300 { try cluster.step(&random) }
        #expect(try cluster.replayed() == cluster.image, "seed \(seed)")
    }

    /// Batches of a few records each; some of them never get into the log.
    @Test(arguments: 1...20)
    func rulesHoldBetweenTheBatchesOfADecisionAndAfterLosingSome(_ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var cluster = TestCluster(seed: UInt64(seed))
        cluster.cuts = SeededGenerator(seed: UInt64(seed))
        if seed % 4 > 0 { try cluster.raiseLevel(to: 3) }
        for id in 1...5 as ClosedRange<Int32> { try cluster.start(NodeID(id)) }
        for number in 0..<4 { try cluster.create("t\(number)", partitions: 6) }
        cluster.limitBatches(to: 300)
        for _ in 0..<150 { try cluster.step(&random) }
        #expect(cluster.cutCount > 0, "seed \(seed)")
        #expect(try cluster.replayed() == cluster.image, "seed \(seed)")
    }

    @Test func sameSeedGivesTheSameRecords() throws {
        func records() throws -> [MetadataRecord] {
            var random = SeededGenerator(seed: 77)
            var cluster = TestCluster(seed: 77)
            try cluster.raiseLevel(to: 3)
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
            switch Int.random(in: 0..<16, using: &random) {
            case 0:
                try start(broker)
            case 1:
                try register(request(broker, previous: epoch(broker)))
            case 2:
                try registerAtRandom(broker, &random)
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
                guard let partitions = image.topic(named: topic)?.partitions,
                    let number = partitions.indices.randomElement(using: &random),
                    partitions[number].leader != nil
                else { return }
                let isr = partitions[number].replicas.filter { replica in
                    image.isActive(replica) && Int.random(in: 0..<8, using: &random) > 0
                }
                commit(try alter(topic, Int32(number), isr: isr))
            case 11:
                try alterConfigsAtRandom(&random)
            case 12:
                if Int.random(in: 0..<10, using: &random) == 0 { try raiseLevel(to: 2) }
                if Int.random(in: 0..<10, using: &random) == 0 { try raiseLevel(to: 3) }
                commit(
                    try state.allocateProducerIDs(broker: broker, epoch: epoch(broker)))
            case 13, 14:
                try reportAtRandom(broker, &random)
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

    /// With some of three directories open, some offline, and some gone.
    private mutating func registerAtRandom(
        _ broker: NodeID, _ random: inout SeededGenerator
    ) throws {
        var request = request(broker, previous: epoch(broker), directories: [])
        if Bool.random(using: &random) { request.previousEpoch = .none }
        for number in 1...3 as ClosedRange<UInt64> {
            let directory = DirectoryID(high: 3, low: number)
            switch Int.random(in: 0..<6, using: &random) {
            case 0: break
            case 1: request.offlineDirectories.append(directory)
            case 2: request.missingDirectories += 1
            default: request.directories.append(directory)
            }
        }
        try register(request)
    }

    /// Replicas of one broker, and now and then of another one.
    ///
    /// As long as it is only reported what is offline, no partition loses its last candidate.
    private mutating func reportAtRandom(
        _ broker: NodeID, _ random: inout SeededGenerator
    ) throws {
        let states: [ReplicaReport.State?] = [.offline, .damaged, .online, .online, nil]
        let state = states.randomElement(using: &random) ?? nil
        let some = image.partitions(on: broker).sorted().filter { _ in
            Int.random(in: 0..<3, using: &random) == 0
        }
        let before = image
        let reply = try report(
            Int.random(in: 0..<20, using: &random) == 0 ? 1 : broker, state, some)
        #expect(reply.errors.count == some.count)
        for id in some {
            let old = try #require(before.partition(id))
            let new = try #require(image.partition(id))
            if !old.isr.isEmpty || !old.eligibleLeaderReplicas.isEmpty {
                #expect(
                    !new.isr.isEmpty || !new.eligibleLeaderReplicas.isEmpty,
                    "no candidate is left: \(old) to \(new)")
            }
        }
    }

    private mutating func alterConfigsAtRandom(_ random: inout SeededGenerator) throws {
        let resources: [ConfigResource] = [
            .clusterDefault, .topic("t0"), .topic("t1"), .topic("t2"), .broker(1), .broker(2),
        ]
        let alterations: [ConfigAlteration] = [
            .init(name: "min.insync.replicas", operation: .set("1")),
            .init(name: "min.insync.replicas", operation: .set("2")),
            .init(name: "min.insync.replicas", operation: .set("3")),
            .init(name: "min.insync.replicas", operation: .delete),
            .init(name: "unclean.leader.election.enable", operation: .set("true")),
            .init(name: "unclean.leader.election.enable", operation: .set("false")),
            .init(name: "unclean.leader.election.enable", operation: .delete),
            .init(name: "cleanup.policy", operation: .append("compact")),
            .init(name: "cleanup.policy", operation: .subtract("delete")),
            .init(name: "replica.lag.time.max.ms", operation: .set("1000")),
            .init(name: "replica.lag.time.max.ms", operation: .delete),
        ]
        guard let resource = resources.randomElement(using: &random) else { return }
        let some = alterations.filter { _ in Int.random(in: 0..<4, using: &random) == 0 }
        commit(try state.alterConfigs(of: resource, some))
    }
}
