import Essentials
import Raft

/// A whole quorum on one thread, with faults, all of it following from one seed.
///
/// First comes a time of faults with work going on, then everything is healed and must make
/// progress. The checker looks at every step.
final class Simulator {
    enum Event {
        case arrive(Packet)
        case electionWrites(NodeID, run: Int)
        case flush(NodeID, end: Offset, truncations: Int, run: Int)
        case snapshotWrite(NodeID, run: Int)
        case propose
        case changeVoters
        case takeSnapshot
        case callLeader
        case fault
        case start(NodeID)
        case endCut(Int)
    }

    private struct Scheduled {
        var time: MonotonicTime
        var order: Int
        var event: Event
    }

    struct Link: Hashable {
        var from: NodeID
        var to: NodeID
    }

    private struct Asked: Hashable {
        var asking: NodeID
        var run: Int
        var id: RequestID
    }

    let plan: Plan
    var checker: SafetyChecker
    private(set) var now = MonotonicTime(nanoseconds: 1)
    private(set) var steps = 0
    private(set) var trace = TraceHash()
    var generator: SeededGenerator
    private var queue = EventQueue<Scheduled> { ($0.time, $0.order) < ($1.time, $1.order) }
    private var order = 0
    private(set) var replicas: [NodeID: SimulatedReplica] = [:]
    /// Voters, those that join later, and brokers, in this order.
    let ids: [NodeID]
    let controllers: [NodeID]
    /// Pairs that can't talk, one way, by the cut that separates them.
    var cuts: [Int: Set<Link>] = [:]
    var lastCut = 0
    var pausedUntil: [NodeID: MonotonicTime] = [:]
    /// Replicas that are down and will come back.
    var starting: Set<NodeID> = []
    private var flushesUnderWay: Set<NodeID> = []
    private var snapshotWritesUnderWay: Set<NodeID> = []
    private var requests: [Asked: RaftRequest] = [:]
    var isFaulty = true
    var log: ((String) -> Void)?

    init(seed: UInt64, brokenRule: BrokenRule? = nil) {
        var generator = SeededGenerator(seed: seed)
        let plan = Plan(using: &generator)
        self.plan = plan
        var config = RaftConfig()
        #if DEBUG
            config.brokenRule = brokenRule
        #endif
        let controllers = (1...(plan.voterCount + plan.joiningCount)).map { NodeID(Int32($0)) }
        self.controllers = controllers
        ids = controllers + (0..<plan.observerCount).map { NodeID(Int32(101 + $0)) }
        let directories = ids.map { _ in DirectoryID.random(using: &generator) }
        let founders = zip(ids, directories).prefix(plan.voterCount).map {
            Simulator.voter($0, $1)
        }
        guard let voters = VoterSet(founders) else { preconditionFailure("no voters") }
        checker = SafetyChecker(voters: voters, config: config)
        self.generator = generator
        var lastNumber: UInt64 = 0
        for (id, directory) in zip(ids, directories) {
            var config = config
            config.isDurable = controllers.contains(id)
            replicas[id] = SimulatedReplica(
                id: id,
                disk: SimulatedDisk(
                    directory: directory, bootstrapVoters: voters.contains(id) ? voters : nil),
                config: config, bootstrap: controllers.map { NodeID(-$0.rawValue - 1) }
            ) {
                lastNumber += 1
                return lastNumber
            }
            replicas[id]?.readFails = { [unowned self] in
                isFaulty && plan.badFileRate > 0 && chance(plan.badFileRate)
            }
        }
    }

    static func voter(_ id: NodeID, _ directory: DirectoryID, port: Int = 1) -> Voter {
        Voter(id: id, directory: directory, host: "controller-\(id)", port: port)
    }

    /// Runs to the end, or to the first violation, and returns what was violated.
    func run() -> [String] {
        for id in ids { start(id) }
        schedule(.propose, after: .milliseconds(500))
        schedule(.fault, after: .seconds(2))
        schedule(.callLeader, after: .seconds(1))
        if plan.meanTimeBetweenVoterChanges != nil { schedule(.changeVoters, after: .seconds(1)) }
        if plan.meanTimeBetweenSnapshots != nil { schedule(.takeSnapshot, after: .seconds(1)) }
        run(until: now + plan.faultTime)
        guard checker.violations.isEmpty else { return checker.violations }
        heal()
        demandProgress()
        return checker.violations
    }

    func run(until end: MonotonicTime) {
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
        case .snapshotWrite(let id, let run):
            if postponed(id, scheduled) { return }
            guard replicas[id]?.run == run else { return }
            snapshotWritesUnderWay.remove(id)
            note("snapshot \(id)")
            replicas[id]?.completeSnapshotWrite(
                fails: isFaulty && chance(plan.badFileRate),
                crashes: isFaulty && chance(plan.badFileRate / 2), now: now)
            settle(id)
        case .propose:
            propose()
            schedule(.propose, after: exponential(plan.meanTimeBetweenProposals))
        case .changeVoters, .takeSnapshot, .callLeader, .fault:
            guard isFaulty else { return }
            interfere(scheduled.event)
        case .start(let id):
            start(id)
        case .endCut(let cut):
            cuts[cut] = nil
        }
    }

    private func interfere(_ event: Event) {
        switch event {
        case .changeVoters:
            changeVoters()
            if let mean = plan.meanTimeBetweenVoterChanges {
                schedule(.changeVoters, after: exponential(mean))
            }
        case .takeSnapshot:
            takeSnapshot()
            if let mean = plan.meanTimeBetweenSnapshots {
                schedule(.takeSnapshot, after: exponential(mean))
            }
        case .callLeader:
            callLeader()
            schedule(.callLeader, after: exponential(plan.meanTimeBetweenReads))
        default:
            injectFault()
            schedule(.fault, after: exponential(plan.meanTimeBetweenFaults))
        }
    }

    /// A paused process finds what happened meanwhile when it wakes up.
    private func postponed(_ id: NodeID, _ scheduled: Scheduled) -> Bool {
        guard let end = pausedUntil[id], end > now else { return false }
        queue.insert(Scheduled(time: end, order: scheduled.order, event: scheduled.event))
        return true
    }

    func start(_ id: NodeID) {
        guard let replica = replicas[id], !replica.isUp else { return }
        note("start \(id)")
        starting.remove(id)
        replica.start(seed: generator.next(), now: now)
        flushesUnderWay.remove(id)
        snapshotWritesUnderWay.remove(id)
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
        note("\(Describe.packet(packet))")
        if case .request(let request, let id) = packet.content {
            requests[Asked(asking: packet.from, run: packet.run, id: id)] = request
            let epoch = replica.node?.election.epoch
            switch request {
            case .fetch(let fetch) where fetch.epoch == epoch:
                checker.fetched(from: replica.id, by: fetch.replica, now: now)
            case .fetchSnapshot(let fetch) where fetch.epoch == epoch:
                checker.fetched(from: replica.id, by: fetch.replica, now: now)
            default:
                break
            }
        }
        replica.receive(packet, now: now)
        settle(packet.to)
    }

    /// Sends what the replica wants sent, lets its disk work, and checks it.
    func settle(_ id: NodeID) {
        guard let replica = replicas[id] else { return }
        for event in replica.takeEvents() { checker.note(event, of: replica) }
        for packet in replica.takeOutbox() {
            checker.left(packet, by: replica)
            if case .response(let response, let id, _) = packet.content,
                let request = requests[Asked(asking: packet.to, run: packet.run, id: id)]
            {
                switch (request, response) {
                case (.vote(let request), .vote(let response)):
                    checker.answered(request, by: replica, response)
                case (.fetch(let request), .fetch(let response)):
                    checker.answered(request, by: replica.id, response)
                default:
                    break
                }
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
        if !replica.snapshotWrites.isEmpty, snapshotWritesUnderWay.insert(id).inserted {
            schedule(.snapshotWrite(id, run: replica.run), after: diskDelay())
        }
        if !replica.isUp { comeBack(replica) }
        trace(replica)
        checker.check(replica, all: ids.compactMap { replicas[$0] }, now: now)
    }

    private func transmit(_ packet: Packet) {
        var packet = packet
        // A bootstrap server is only an address.
        if packet.to.rawValue < 0 { packet.to = NodeID(-packet.to.rawValue - 1) }
        let isCut = cuts.values.contains {
            $0.contains(Link(from: packet.from, to: packet.to))
        }
        guard !isCut, !(isFaulty && chance(plan.dropRate)) else { return }
        schedule(.arrive(packet), after: networkDelay())
        if isFaulty, chance(plan.repeatRate) { schedule(.arrive(packet), after: networkDelay()) }
    }

    // MARK: - Chances

    func chance(_ probability: Double) -> Bool {
        Double.random(in: 0..<1, using: &generator) < probability
    }

    func exponential(_ mean: Duration) -> Duration {
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
        trace.add(replica.state)
        guard let node = replica.node else { return }
        if let log {
            for effect in replica.effectsOfLastStep {
                if let text = Describe.effect(effect) { log("    \(replica.id) \(text)") }
            }
        }
        trace.add(UInt64(UInt32(bitPattern: node.election.epoch.rawValue)))
        trace.add(UInt64(bitPattern: node.log.endOffset.rawValue))
        trace.add(UInt64(bitPattern: node.nextDeadline.nanoseconds))
    }
}
