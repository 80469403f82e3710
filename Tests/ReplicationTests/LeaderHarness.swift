import Essentials
import Replication

/// A leader with id 1 behind a reference, and short words for what happens to it.
final class LeaderHarness {
    private(set) var leader: PartitionLeader
    private(set) var assignment: PartitionAssignment
    /// Our log's epochs and where each starts.
    var epochs: [(epoch: LeaderEpoch, start: Offset)]
    var now = MonotonicTime(nanoseconds: 1_000_000_000_000)
    private var brokers: [NodeID: BrokerStatus]
    private var configuration: PartitionLeader.Configuration

    init(
        replicas: [NodeID] = [1, 2, 3], isr: [NodeID] = [1, 2, 3], elr: [NodeID] = [],
        minISR: Int = 2, epoch: LeaderEpoch = 5, logEnd: Offset = 0, durable: Offset? = nil,
        highWatermark: Offset = 0, logStart: Offset = 0, countsDurableOnly: Bool = true
    ) {
        assignment = PartitionAssignment(
            replicas: replicas, isr: isr, eligibleLeaderReplicas: elr, leader: 1,
            leaderEpoch: epoch, partitionEpoch: 10)
        epochs = [(epoch, logEnd)]
        if logEnd > 0 { epochs.insert((4, 0), at: 0) }
        brokers = [:]
        for replica in replicas {
            brokers[replica] = BrokerStatus(
                epoch: BrokerEpoch(Int64(replica.rawValue) * 100), isActive: true)
        }
        configuration = PartitionLeader.Configuration(
            minInSyncReplicas: minISR, maxReplicaLag: .seconds(10),
            countsDurableOnly: countsDurableOnly)
        leader = PartitionLeader(
            id: 1, assignment: assignment, configuration: configuration, brokers: brokers,
            logStartOffset: logStart, logEndOffset: logEnd, durableEnd: durable ?? logEnd,
            highWatermark: highWatermark, now: now)
    }

    func brokerEpoch(_ id: NodeID) -> BrokerEpoch { brokers[id]?.epoch ?? .none }

    private func epochEnd(_ epoch: LeaderEpoch, of leader: PartitionLeader) -> EpochEnd {
        guard let index = epochs.lastIndex(where: { $0.epoch <= epoch }) else {
            return EpochEnd(epoch: .none, endOffset: leader.logStartOffset)
        }
        let end = index + 1 < epochs.count ? epochs[index + 1].start : leader.logEndOffset
        return EpochEnd(epoch: epochs[index].epoch, endOffset: end)
    }

    /// Appends and flushes.
    func write(to end: Offset) -> [PartitionLeader.Effect] {
        append(to: end) + flush(to: end)
    }

    func append(to end: Offset) -> [PartitionLeader.Effect] {
        check(leader.appended(to: end, now: now))
    }

    func flush(to end: Offset) -> [PartitionLeader.Effect] {
        check(leader.madeDurable(to: end, now: now))
    }

    func fetch(
        by follower: NodeID, at position: Offset, durable: Offset? = nil,
        brokerEpoch: BrokerEpoch? = nil, leaderEpoch: LeaderEpoch? = nil,
        lastFetched: LeaderEpoch? = nil
    ) -> (verdict: FetchVerdict, effects: [PartitionLeader.Effect]) {
        let ownEpoch =
            epochs.last { $0.start < position }?.epoch ?? (position == 0 ? .none : 0)
        let fetch = FollowerFetch(
            follower: follower, brokerEpoch: brokerEpoch ?? self.brokerEpoch(follower),
            leaderEpoch: leaderEpoch ?? leader.leaderEpoch, position: position,
            lastFetchedEpoch: lastFetched ?? ownEpoch, durableEnd: durable ?? position,
            highWatermark: 0)
        let before = leader
        let (verdict, effects) = leader.fetched(
            fetch, epochEnd: { epochEnd($0, of: before) }, now: now)
        return (verdict, check(effects))
    }

    func metadata(
        isr: [NodeID], elr: [NodeID] = [], offline: [NodeID] = [],
        partitionEpoch: PartitionEpoch? = nil
    ) -> [PartitionLeader.Effect] {
        assignment.isr = isr
        assignment.eligibleLeaderReplicas = elr
        assignment.offlineReplicas = offline
        assignment.partitionEpoch = partitionEpoch ?? leader.assignment.partitionEpoch.next
        return check(leader.apply(assignment, now: now))
    }

    func broker(_ id: NodeID, epoch: BrokerEpoch? = nil, active: Bool = true)
        -> [PartitionLeader.Effect]
    {
        brokers[id] = BrokerStatus(epoch: epoch ?? brokerEpoch(id), isActive: active)
        return check(leader.update(brokers: brokers, configuration: configuration, now: now))
    }

    func minISR(_ minISR: Int) -> [PartitionLeader.Effect] {
        configuration.minInSyncReplicas = minISR
        return check(leader.update(brokers: brokers, configuration: configuration, now: now))
    }

    func settled(_ attempt: UInt64, _ outcome: ISRProposalOutcome) -> [PartitionLeader.Effect] {
        check(leader.proposalSettled(attempt: attempt, outcome, now: now))
    }

    func accepted(_ attempt: UInt64, isr: [NodeID], partitionEpoch: PartitionEpoch)
        -> [PartitionLeader.Effect]
    {
        settled(
            attempt,
            .accepted(isr: isr, leaderEpoch: leader.leaderEpoch, partitionEpoch: partitionEpoch))
    }

    func wait(_ duration: Duration) -> [PartitionLeader.Effect] {
        now = now + duration
        return check(leader.tick(now: now))
    }

    func start() -> [PartitionLeader.Effect] { check(leader.start(now: now)) }

    /// The proposal that asks for `isr`.
    func proposal(
        _ isr: [NodeID], attempt: UInt64 = 1, partitionEpoch: PartitionEpoch = 10
    ) -> PartitionLeader.Effect {
        .propose(
            ISRProposal(
                attempt: attempt, leaderEpoch: leader.leaderEpoch, partitionEpoch: partitionEpoch,
                isr: isr.map { ISRProposal.Member(id: $0, brokerEpoch: brokerEpoch($0)) }))
    }

    private func check(_ effects: [PartitionLeader.Effect]) -> [PartitionLeader.Effect] {
        leader.checkInvariants()
        return effects
    }
}
