import Essentials
import Replication

/// The controllers as one always consistent decider of one partition, with a log that brokers follow.
struct SimulatedController {
    struct Broker {
        var epoch: BrokerEpoch
        var isFenced: Bool
    }

    /// What a broker knows once it has applied the metadata log up to some point.
    struct Image {
        var assignment: PartitionAssignment
        var brokers: [NodeID: BrokerStatus]
    }

    private(set) var assignment: PartitionAssignment
    private(set) var brokers: [NodeID: Broker] = [:]
    /// The state after each decision.
    private(set) var log: [Image] = []
    private let minISR: Int
    private var lastBrokerEpoch: Int64 = 0

    init(replicas: [NodeID], minISR: Int) {
        self.minISR = min(minISR, replicas.count)
        assignment = PartitionAssignment(
            replicas: replicas, isr: replicas, leader: nil, leaderEpoch: 0, partitionEpoch: 0)
        for replica in replicas { _ = register(replica, isFirst: true) }
    }

    /// A new incarnation, without proof of a clean stop: what it held may be shorter now.
    mutating func register(_ id: NodeID, isFirst: Bool = false) -> BrokerEpoch {
        lastBrokerEpoch += 1
        let epoch = BrokerEpoch(lastBrokerEpoch)
        brokers[id] = Broker(epoch: epoch, isFenced: true)
        var next = assignment
        if !isFirst {
            let others = (next.isr + next.eligibleLeaderReplicas).filter { $0 != id }
            if others.isEmpty {
                // The last that is known to hold everything committed, all of which is durable.
                if next.isr.contains(id) { next.eligibleLeaderReplicas = [id] }
                next.isr = []
            } else {
                removeFromISR(id, in: &next)
                next.eligibleLeaderReplicas.removeAll { $0 == id }
            }
        }
        commit(next)
        return epoch
    }

    mutating func fence(_ id: NodeID) {
        guard brokers[id]?.isFenced == false else { return }
        brokers[id]?.isFenced = true
        var next = assignment
        removeFromISR(id, in: &next)
        commit(next)
    }

    mutating func unfence(_ id: NodeID, epoch: BrokerEpoch) {
        guard brokers[id]?.epoch == epoch else { return }
        brokers[id]?.isFenced = false
        commit(assignment)
    }

    mutating func alter(_ proposal: ISRProposal, from broker: NodeID) -> ISRProposalOutcome {
        guard assignment.leader == broker, assignment.leaderEpoch == proposal.leaderEpoch,
            assignment.partitionEpoch == proposal.partitionEpoch
        else { return .outdated }
        for member in proposal.isr {
            guard let registered = brokers[member.id], !registered.isFenced,
                registered.epoch == member.brokerEpoch
            else { return .refused }
        }
        var next = assignment
        next.isr = proposal.isr.map(\.id)
        next.partitionEpoch = next.partitionEpoch.next
        for left in assignment.isr where !next.isr.contains(left) {
            next.eligibleLeaderReplicas.append(left)
        }
        next.eligibleLeaderReplicas.removeAll(where: next.isr.contains)
        commit(next)
        return .accepted(
            isr: assignment.isr, leaderEpoch: assignment.leaderEpoch,
            partitionEpoch: assignment.partitionEpoch)
    }

    private func removeFromISR(_ id: NodeID, in next: inout PartitionAssignment) {
        guard let index = next.isr.firstIndex(of: id) else { return }
        next.isr.remove(at: index)
        if next.isr.count < minISR { next.eligibleLeaderReplicas.append(id) }
    }

    private mutating func commit(_ changed: PartitionAssignment) {
        var next = changed
        if next.isr.count >= minISR { next.eligibleLeaderReplicas = [] }
        next.eligibleLeaderReplicas.sort()
        let isLed = next.leader.map { isLive($0) && next.isr.contains($0) } ?? false
        if !isLed {
            let oldLeader = next.leader
            if let leader = next.replicas.first(where: { next.isr.contains($0) && isLive($0) }) {
                next.leader = leader
            } else if next.isr.isEmpty,
                let leader = next.eligibleLeaderReplicas.first(where: isLive)
            {
                next.leader = leader
                next.isr = [leader]
                next.eligibleLeaderReplicas.removeAll { $0 == leader }
                if next.isr.count >= minISR { next.eligibleLeaderReplicas = [] }
            } else {
                next.leader = nil
            }
            if next.leader != oldLeader { next.leaderEpoch = next.leaderEpoch.next }
        }
        if next != assignment, next.partitionEpoch == assignment.partitionEpoch {
            next.partitionEpoch = next.partitionEpoch.next
        }
        assignment = next
        log.append(
            Image(
                assignment: assignment,
                brokers: brokers.mapValues {
                    BrokerStatus(epoch: $0.epoch, isActive: !$0.isFenced)
                }))
    }

    private func isLive(_ id: NodeID) -> Bool { brokers[id]?.isFenced == false }
}
