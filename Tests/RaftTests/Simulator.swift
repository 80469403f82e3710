import Essentials
import Raft

/// A whole quorum on one thread, with faults, all of it following from one seed.
///
/// First comes a time of faults with work going on, then everything is healed and must make
/// progress. The checker looks at every step.
final class Simulator {
    /// What the seed decides before anything runs.
    struct Plan {
        var voterCount: Int
        var observerCount: Int
        var knowsDirectories: Bool
        var dropRate: Double
        var repeatRate: Double
        var longDelayRate: Double
        /// Faults of the heavier kinds come this often, on average.
        var meanTimeBetweenFaults: Duration
        var meanTimeBetweenProposals: Duration
        var slowDiskRate: Double
        var faultTime: Duration

        init(using generator: inout SeededGenerator) {
            voterCount = [1, 2, 3, 3, 3, 4, 5, 5].randomElement(using: &generator) ?? 3
            observerCount = Int.random(in: 0...2, using: &generator)
            knowsDirectories = Bool.random(using: &generator)
            dropRate = [0, 0.01, 0.1, 0.3].randomElement(using: &generator) ?? 0
            repeatRate = [0, 0.05, 0.5].randomElement(using: &generator) ?? 0
            longDelayRate = [0, 0.01, 0.1].randomElement(using: &generator) ?? 0
            meanTimeBetweenFaults =
                .milliseconds([300, 1_000, 3_000].randomElement(using: &generator) ?? 1_000)
            meanTimeBetweenProposals =
                .milliseconds([40, 150, 500].randomElement(using: &generator) ?? 150)
            slowDiskRate = [0, 0.05, 0.3].randomElement(using: &generator) ?? 0
            faultTime = .seconds(Int.random(in: 8...20, using: &generator))
        }
    }

    enum Event {
        case arrive(Packet)
        case electionWrites(NodeID, run: Int)
        case flush(NodeID, end: Offset, truncations: Int, run: Int)
        case propose
        case fault
        case start(NodeID)
        case endCut(Int)
    }

    private struct Scheduled {
        var time: MonotonicTime
        var order: Int
        var event: Event
    }

    let plan: Plan
    let config: RaftConfig
    private(set) var checker: SafetyChecker
    private(set) var now = MonotonicTime(nanoseconds: 1)
    private(set) var steps = 0
    private(set) var trace = TraceHash()
    var generator: SeededGenerator
    private var queue = EventQueue<Scheduled> { ($0.time, $0.order) < ($1.time, $1.order) }
    var order = 0
    var replicas: [NodeID: SimulatedReplica] = [:]
    let ids: [NodeID]
    private let voters: VoterSet
    /// Pairs that can't talk, one way, by the cut that separates them.
    var cuts: [Int: Set<Link>] = [:]
    var lastCut = 0
    var pausedUntil: [NodeID: MonotonicTime] = [:]
    private var flushesUnderWay: Set<NodeID> = []
    private var voteRequests: [VoteAsked: VoteRequest] = [:]
    var isFaulty = true
    var log: ((String) -> Void)?

    struct Link: Hashable {
        var from: NodeID
        var to: NodeID
    }

    private struct VoteAsked: Hashable {
        var candidate: NodeID
        var run: Int
        var id: RequestID
    }

    init(seed: UInt64, brokenRule: BrokenRule? = nil) {
        var generator = SeededGenerator(seed: seed)
        let plan = Plan(using: &generator)
        self.plan = plan
        var config = RaftConfig()
        #if DEBUG
            config.brokenRule = brokenRule
        #endif
        self.config = config
        let voterIDs = (1...plan.voterCount).map { NodeID(Int32($0)) }
        let observerIDs = (0..<plan.observerCount).map { NodeID(Int32(101 + $0)) }
        ids = voterIDs + observerIDs
        let keys = ids.map { ReplicaKey(id: $0, directory: .random(using: &generator)) }
        let known = keys.prefix(plan.voterCount).map {
            ReplicaKey(id: $0.id, directory: plan.knowsDirectories ? $0.directory : nil)
        }
        guard let voters = VoterSet(keys: known) else {
            preconditionFailure("no voters")
        }
        self.voters = voters
        checker = SafetyChecker(voters: voters, config: config)
        self.generator = generator
        var lastPayload: UInt64 = 0
        for key in keys {
            let replica = SimulatedReplica(key: key, voters: voters, config: config) {
                lastPayload += 1
                return lastPayload
            }
            replica.onAppend = { [unowned self, unowned replica] offset, entry in
                let previous = offset > 0 ? replica.disk.entries[Int(offset.rawValue) - 1] : nil
                checker.appended(entry, at: offset, after: previous)
            }
            replicas[key.id] = replica
        }
    }

    /// Runs to the end, or to the first violation, and returns what was violated.
    func run() -> [String] {
        for id in ids { start(id) }
        schedule(.propose, after: .milliseconds(500))
        schedule(.fault, after: .seconds(2))
        run(until: now + plan.faultTime)
        guard checker.violations.isEmpty else { return checker.violations }
        heal()
        run(until: now + .seconds(10))
        guard checker.violations.isEmpty else { return checker.violations }
        checkProgress()
        return checker.violations
    }

    private func run(until end: MonotonicTime) {
        while checker.violations.isEmpty {
            let deadline = nextDeadline()
            let event = queue.first?.time ?? .distantFuture
            guard min(deadline?.time ?? .distantFuture, event) <= end else { break }
            steps += 1
            if steps > 500_000 { checker.fail("R24: too many steps") }
            if let deadline, deadline.time < event {
                now = max(now, deadline.time)
                note("timer \(deadline.id)")
                replicas[deadline.id]?.step(.timePassed, now: now)
                settle(deadline.id)
            } else if let next = queue.popFirst() {
                now = max(now, next.time)
                perform(next)
            }
        }
        now = max(now, end)
    }

    private func nextDeadline() -> (time: MonotonicTime, id: NodeID)? {
        var earliest: (time: MonotonicTime, id: NodeID)?
        for id in ids {
            guard let node = replicas[id]?.node else { continue }
            let time = max(node.nextDeadline, pausedUntil[id] ?? .zero)
            if time < earliest?.time ?? .distantFuture { earliest = (time, id) }
        }
        return earliest
    }

    func schedule(_ event: Event, after delay: Duration) {
        order += 1
        queue.insert(Scheduled(time: now + delay, order: order, event: event))
    }

    private func perform(_ scheduled: Scheduled) {
        switch scheduled.event {
        case .arrive(let packet):
            if postponed(packet.to, scheduled) { return }
            arrive(packet)
        case .electionWrites(let id, let run):
            if postponed(id, scheduled) { return }
            guard replicas[id]?.run == run else { return }
            note("persisted \(id)")
            replicas[id]?.completeElectionWrites(now: now)
            settle(id)
        case .flush(let id, let end, let truncations, let run):
            if postponed(id, scheduled) { return }
            guard replicas[id]?.run == run else { return }
            flushesUnderWay.remove(id)
            note("flushed \(id) \(end)")
            replicas[id]?.completeFlush(end: end, truncations: truncations, run: run, now: now)
            settle(id)
        case .propose:
            propose()
            schedule(.propose, after: exponential(plan.meanTimeBetweenProposals))
        case .fault:
            guard isFaulty else { return }
            injectFault()
            schedule(.fault, after: exponential(plan.meanTimeBetweenFaults))
        case .start(let id):
            if replicas[id]?.isUp == false { start(id) }
        case .endCut(let cut):
            cuts[cut] = nil
        }
    }

    /// A paused process finds what happened meanwhile when it wakes up.
    private func postponed(_ id: NodeID, _ scheduled: Scheduled) -> Bool {
        guard let end = pausedUntil[id], end > now else { return false }
        queue.insert(Scheduled(time: end, order: scheduled.order, event: scheduled.event))
        return true
    }

    func start(_ id: NodeID) {
        note("start \(id)")
        replicas[id]?.start(seed: generator.next(), now: now)
        flushesUnderWay.remove(id)
        settle(id)
    }

    private func arrive(_ packet: Packet) {
        guard let replica = replicas[packet.to], replica.isUp else {
            // Refused, as by a machine whose process is gone.
            if case .request(_, let id) = packet.content, chance(0.7) {
                var refusal = packet
                (refusal.from, refusal.to) = (packet.to, packet.from)
                refusal.content = .failure(id)
                schedule(.arrive(refusal), after: .microseconds(300))
                refusal.content = .connectionLost
                schedule(.arrive(refusal), after: .microseconds(300))
            }
            return
        }
        note("\(packet.from)>\(packet.to) \(packet.content)")
        if case .request(let request, let id) = packet.content {
            if case .vote(let vote) = request {
                voteRequests[VoteAsked(candidate: packet.from, run: packet.run, id: id)] = vote
            }
            if case .fetch(let fetch) = request,
                fetch.epoch == replica.node?.election.epoch
            {
                checker.fetched(from: replica.id, by: packet.from, now: now)
            }
        }
        replica.receive(packet, now: now)
        settle(packet.to)
    }

    private func propose() {
        for id in ids {
            guard let replica = replicas[id], let node = replica.node, case .leader = node.role,
                pausedUntil[id] ?? .zero <= now
            else { continue }
            if replica.propose(count: Int.random(in: 1...3, using: &generator), now: now) {
                note("proposed to \(id)")
                settle(id)
            }
        }
    }

    /// Sends what the replica wants sent, lets its disk work, and checks it.
    func settle(_ id: NodeID) {
        guard let replica = replicas[id] else { return }
        for packet in replica.takeOutbox() {
            checker.left(packet, disk: replica.disk, now: now)
            if case .response(.vote(let response), let request, _) = packet.content,
                let asked = voteRequests[
                    VoteAsked(candidate: packet.to, run: packet.run, id: request)]
            {
                checker.answered(asked, by: id, response, disk: replica.disk)
            }
            transmit(packet)
        }
        if !replica.electionWrites.isEmpty {
            schedule(.electionWrites(id, run: replica.run), after: diskDelay())
        }
        if let log = replica.node?.log, log.durableEnd < log.endOffset,
            flushesUnderWay.insert(id).inserted
        {
            schedule(
                .flush(
                    id, end: log.endOffset, truncations: log.truncations, run: replica.run),
                after: diskDelay())
        }
        trace(replica)
        checker.check(replica, all: ids.compactMap { replicas[$0] }, now: now)
    }

    private func transmit(_ packet: Packet) {
        let isCut = cuts.values.contains {
            $0.contains(Link(from: packet.from, to: packet.to))
        }
        guard !isCut, !(isFaulty && chance(plan.dropRate)) else { return }
        schedule(.arrive(packet), after: networkDelay())
        if isFaulty, chance(plan.repeatRate) { schedule(.arrive(packet), after: networkDelay()) }
    }

    /// After healing there is one leader, everyone follows it, and what it has is committed.
    private func checkProgress() {
        let leaders = ids.filter { id in
            if case .leader = replicas[id]?.node?.role { true } else { false }
        }
        guard leaders.count == 1, let leader = replicas[leaders[0]],
            let highWatermark = leader.node?.highWatermark
        else {
            checker.fail("R24: leaders after healing: \(leaders)")
            return
        }
        let before = Int(highWatermark.rawValue)
        propose()
        run(until: now + .seconds(2))
        for id in ids {
            guard let replica = replicas[id] else { continue }
            if replica.node?.election.epoch != leader.node?.election.epoch {
                checker.fail("R24: \(id) is not in the leader's epoch")
            } else if Int(replica.committed.rawValue) <= before {
                checker.fail("R24: \(id) has committed nothing new")
            }
        }
    }

    // MARK: - Chances

    func chance(_ probability: Double) -> Bool {
        Double.random(in: 0..<1, using: &generator) < probability
    }

    private func exponential(_ mean: Duration) -> Duration {
        // A geometric approximation keeps floating-point functions out of the trace.
        var periods = 1
        while chance(0.9), periods < 100 { periods += 1 }
        return mean / 10 * periods
    }

    func networkDelay() -> Duration {
        if isFaulty, chance(plan.longDelayRate) {
            return .milliseconds(Int.random(in: 10...2_000, using: &generator))
        }
        return .microseconds(Int.random(in: 100...3_000, using: &generator))
    }

    private func diskDelay() -> Duration {
        if isFaulty, chance(plan.slowDiskRate) {
            return .milliseconds(Int.random(in: 10...1_500, using: &generator))
        }
        return .microseconds(Int.random(in: 100...8_000, using: &generator))
    }

    func note(_ text: @autoclosure () -> String) {
        trace.add(UInt64(bitPattern: now.nanoseconds))
        guard let log else { return }
        log("\(now) \(text())")
    }

    /// What a replica has come to is part of the trace.
    private func trace(_ replica: SimulatedReplica) {
        trace.add(UInt64(UInt32(bitPattern: replica.id.rawValue)))
        trace.add(UInt64(replica.effectsOfLastStep.count))
        trace.add(UInt64(bitPattern: replica.committed.rawValue))
        guard let node = replica.node else { return }
        trace.add(UInt64(UInt32(bitPattern: node.election.epoch.rawValue)))
        trace.add(UInt64(bitPattern: node.log.endOffset.rawValue))
        trace.add(UInt64(bitPattern: node.nextDeadline.nanoseconds))
    }
}
