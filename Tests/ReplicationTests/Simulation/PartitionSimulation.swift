import Essentials
import Replication

/// A safety rule that a run can be made to break, to see that the checks notice.
enum BrokenRule: CaseIterable {
    /// Followers report what they have appended as durable.
    case unsyncedCountsAsDurable
    /// A proposal without an answer is taken to be without effect.
    case unknownMeansRefused
    /// The leader forgets who it waits for as soon as it proposes to drop them.
    case shrinkCountsAtOnce
    /// Followers cut their logs to their high watermark when a new leader is elected.
    case truncationByHighWatermark
    /// Followers append whatever an answer brings, whenever it comes, from whomever.
    case lateAnswersCount
}

/// One partition, its replicas on brokers that crash, a lossy network, and a controller.
///
/// All of it follows from one seed, and stops at the first broken invariant.
final class PartitionSimulation {
    struct Violation: Error, CustomStringConvertible {
        var seed: UInt64
        var time: MonotonicTime
        var message: String
        /// Nothing wrong was seen, but nothing moved either.
        var isStall = false
        var description: String { "seed \(seed) at \(time): \(message)" }
    }

    enum Event {
        case produce
        case crash(NodeID)
        case restart(NodeID)
        case fence(NodeID)
        case unfence(NodeID, BrokerEpoch)
        case metadata(NodeID, upTo: Int)
        case fetchTimer(NodeID, incarnation: Int)
        case tick(NodeID, incarnation: Int)
        case fetch(FollowerFetch, to: NodeID)
        case answer(PartitionFollower.Answer, [SimulatedLog.Entry], to: NodeID)
        case flush(NodeID, end: Offset, truncations: Int)
        case alter(ISRProposal, from: NodeID, incarnation: Int)
        case altered(attempt: UInt64, ISRProposalOutcome, NodeID, LeaderEpoch, incarnation: Int)
        case heal
    }

    struct Pending {
        var end: Offset
        var value: UInt64
        var ackedBefore: Offset
    }

    enum Role {
        case none
        case leader(PartitionLeader)
        case follower(PartitionFollower)
    }

    struct Replica {
        var log = SimulatedLog()
        var role = Role.none
        var isUp = true
        var incarnation = 0
        var brokerEpoch = BrokerEpoch.none
        var appliedMetadata = 0
        var knownAssignment: PartitionAssignment?
        var highWatermark: Offset = 0
        var checkpoint: Offset = 0
        var pending: [Pending] = []
        var flushing = false
    }

    let seed: UInt64
    let brokenRule: BrokenRule?
    var generator: SeededGenerator
    var controller: SimulatedController
    var replicas: [NodeID: Replica] = [:]
    let ids: [NodeID]
    var now = MonotonicTime(nanoseconds: 1_000_000_000)
    var queue = EventQueue<Event>()
    var configuration: PartitionLeader.Configuration
    var isHealed = false
    var lossPercent: Int
    var duplicatePercent: Int
    var maxDelay: Duration
    /// Everything any leader ever made readable.
    var committed: [SimulatedLog.Entry] = []
    var acknowledged: [UInt64: Offset] = [:]
    var highestAcknowledged: Offset = 0
    var lastValue: UInt64 = 0
    var elections = 0
    private var checkedElection = LeaderEpoch.none

    init(seed: UInt64, brokenRule: BrokenRule? = nil) {
        self.seed = seed
        self.brokenRule = brokenRule
        generator = SeededGenerator(seed: seed)
        let count = Int.random(in: 2...4, using: &generator)
        ids = (1...count).map { NodeID(Int32($0)) }
        let minISR = Int.random(in: 1...3, using: &generator)
        configuration = PartitionLeader.Configuration(
            minInSyncReplicas: minISR,
            maxReplicaLag: .milliseconds([30, 100, 400].randomElement(using: &generator) ?? 100),
            proposalRetryDelay: .milliseconds(20))
        lossPercent = [0, 2, 10, 30].randomElement(using: &generator) ?? 2
        duplicatePercent = [0, 5, 20].randomElement(using: &generator) ?? 5
        maxDelay = .milliseconds([2, 10, 60, 250].randomElement(using: &generator) ?? 10)
        controller = SimulatedController(replicas: ids, minISR: minISR)
        for id in ids {
            var replica = Replica()
            replica.brokerEpoch = controller.brokers[id]?.epoch ?? .none
            replicas[id] = replica
            controller.unfence(id, epoch: replica.brokerEpoch)
            startTimers(id)
        }
        announceMetadata()
        schedule(.produce, in: .milliseconds(5))
        for id in ids { scheduleNextFault(id) }
        schedule(.heal, in: .milliseconds(3_000))
    }

    // MARK: Driving

    /// Runs until all has healed and the last record is everywhere.
    func run() throws {
        let deadline = now + .seconds(30)
        while let (time, event) = queue.pop() {
            now = time
            handle(event)
            try check()
            if isHealed, isConverged { return }
            guard now < deadline else {
                var stall = violation("no progress after healing: \(status)")
                stall.isStall = true
                throw stall
            }
        }
    }

    func schedule(_ event: Event, in delay: Duration) {
        queue.push(event, at: now + delay)
    }

    func randomDelay(_ range: ClosedRange<Int>) -> Duration {
        .microseconds(Int.random(in: range, using: &generator))
    }

    func chance(_ percent: Int) -> Bool {
        Int.random(in: 0..<100, using: &generator) < percent
    }

    /// Sends over the network between brokers: late, lost, twice.
    func send(_ event: Event) {
        if chance(lossPercent) { return }
        let copies = chance(duplicatePercent) ? 2 : 1
        for _ in 0..<copies {
            schedule(event, in: randomDelay(50...Int(maxDelay.nanoseconds / 1000)))
        }
    }

    private func scheduleNextFault(_ id: NodeID) {
        schedule(.crash(id), in: randomDelay(100_000...2_500_000))
        // Now and then the controller loses sight of a broker that is well.
        if chance(60) { schedule(.fence(id), in: randomDelay(50_000...3_000_000)) }
    }

    func startTimers(_ id: NodeID) {
        guard let incarnation = replicas[id]?.incarnation else { return }
        schedule(.fetchTimer(id, incarnation: incarnation), in: randomDelay(100...5_000))
        schedule(.tick(id, incarnation: incarnation), in: randomDelay(100...20_000))
    }

    func announceMetadata() {
        let end = controller.log.count
        for id in ids where replicas[id]?.isUp == true {
            // A broker can be far behind in its metadata while its data plane works.
            let slowest = !isHealed && chance(10) ? 400_000 : 10_000
            schedule(.metadata(id, upTo: end), in: randomDelay(100...slowest))
        }
    }

    private func handle(_ event: Event) {
        switch event {
        case .produce: produce()
        case .crash(let id): crash(id)
        case .restart(let id): restart(id)
        case .fence(let id):
            guard !isHealed || replicas[id]?.isUp == false else { return }
            controller.fence(id)
            announceMetadata()
            if let replica = replicas[id], replica.isUp {
                schedule(.unfence(id, replica.brokerEpoch), in: randomDelay(10_000...300_000))
            }
        case .unfence(let id, let epoch):
            guard replicas[id]?.isUp == true else { return }
            controller.unfence(id, epoch: epoch)
            announceMetadata()
        case .metadata(let id, let end): applyMetadata(id, upTo: end)
        case .fetchTimer(let id, let incarnation):
            guard replicas[id]?.incarnation == incarnation else { return }
            sendFetch(from: id)
            schedule(event, in: randomDelay(500...8_000))
        case .tick(let id, let incarnation):
            guard replicas[id]?.incarnation == incarnation else { return }
            withLeader(id) { [now] leader, _ in leader.tick(now: now) }
            schedule(event, in: randomDelay(1_000...20_000))
        case .fetch(let fetch, let leader): serve(fetch, at: leader)
        case .answer(let answer, let entries, let id): receive(answer, entries, at: id)
        case .flush(let id, let end, let truncations): flushed(id, end, truncations)
        case .alter(let proposal, let id, let incarnation):
            let outcome = controller.alter(proposal, from: id)
            announceMetadata()
            guard !chance(lossPercent) else { return }
            schedule(
                .altered(
                    attempt: proposal.attempt, outcome, id, proposal.leaderEpoch,
                    incarnation: incarnation), in: randomDelay(50...5_000))
        case .altered(let attempt, let outcome, let id, let epoch, let incarnation):
            guard replicas[id]?.incarnation == incarnation else { return }
            withLeader(id) { [now, brokenRule] leader, _ in
                guard leader.leaderEpoch == epoch else { return [] }
                let believed =
                    brokenRule == .unknownMeansRefused && outcome == .unknown ? .refused : outcome
                return leader.proposalSettled(attempt: attempt, believed, now: now)
            }
        case .heal: heal()
        }
    }

    private func heal() {
        isHealed = true
        lossPercent = 0
        duplicatePercent = 0
        maxDelay = .milliseconds(5)
        for id in ids {
            guard let replica = replicas[id] else { continue }
            if replica.isUp {
                schedule(.unfence(id, replica.brokerEpoch), in: .milliseconds(1))
            } else {
                schedule(.restart(id), in: .milliseconds(1))
            }
        }
    }

    // MARK: Checking

    func violation(_ message: String) -> Violation {
        Violation(seed: seed, time: now, message: message)
    }

    private var status: String {
        let logs = ids.map { id in
            guard let replica = replicas[id] else { return "\(id)" }
            return "\(id): up \(replica.isUp) end \(replica.log.end) durable"
                + " \(replica.log.durableEnd) hw \(replica.highWatermark)"
        }
        return "\(controller.assignment), \(logs.joined(separator: "; "))"
    }

    private var isConverged: Bool {
        guard let leader = controller.assignment.leader, let log = replicas[leader]?.log else {
            return false
        }
        return controller.assignment.isr.count == ids.count && Int(log.end.rawValue) > 0
            && ids.allSatisfy {
                replicas[$0]?.log.entries == log.entries && replicas[$0]?.highWatermark == log.end
            }
    }

    private func check() throws {
        for id in ids {
            guard let replica = replicas[id] else { continue }
            switch replica.role {
            case .none: break
            case .leader(let leader): leader.checkInvariants()
            case .follower(let follower): follower.checkInvariants()
            }
            // P6, P13: whatever a replica lets read is what was committed.
            let readable = Int(replica.highWatermark.rawValue)
            guard readable <= committed.count else {
                throw violation("\(id) has HW \(readable), committed are \(committed.count)")
            }
            if readable > 0, replica.isUp,
                replica.log.entries.count < readable
                    || replica.log.entries[readable - 1] != committed[readable - 1]
            {
                throw violation("\(id) lets read other records than were committed")
            }
        }
        // P1, P3: the disks of the ISR and the ELR hold everything committed, running or not.
        for id in controller.assignment.isr + controller.assignment.eligibleLeaderReplicas {
            guard let log = replicas[id]?.log else { continue }
            guard Int(log.durableEnd.rawValue) >= committed.count,
                committed.isEmpty || log.entries[committed.count - 1] == committed.last
            else {
                throw violation(
                    "\(id) of \(controller.assignment) lacks committed records: durable"
                        + " \(log.durableEnd) of \(committed.count)")
            }
        }
        // P2: so does each new leader, in full.
        if controller.assignment.leaderEpoch != checkedElection {
            checkedElection = controller.assignment.leaderEpoch
            elections += 1
            if let leader = controller.assignment.leader,
                replicas[leader]?.log.holds(committed) == false
            {
                throw violation("elected leader \(leader) lacks committed records")
            }
        }
        if let found { throw violation(found) }
    }

    /// The first thing wrong that was seen while handling an event.
    var found: String?

    func report(_ message: @autoclosure () -> String) {
        if found == nil { found = message() }
    }
}
