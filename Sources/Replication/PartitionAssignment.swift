package import Essentials

/// One partition as the controller has decided it: who replicates it, who is in sync, who leads.
package struct PartitionAssignment: Equatable, Sendable {
    package var replicas: [NodeID]
    package var isr: [NodeID]
    /// Replicas outside the ISR that hold everything committed all the same (KIP-966).
    package var eligibleLeaderReplicas: [NodeID]
    /// Replicas whose logs can't be used: none may be in the ISR.
    package var offlineReplicas: [NodeID]
    package var leader: NodeID?
    package var leaderEpoch: LeaderEpoch
    package var partitionEpoch: PartitionEpoch

    package init(
        replicas: [NodeID], isr: [NodeID], eligibleLeaderReplicas: [NodeID] = [],
        offlineReplicas: [NodeID] = [], leader: NodeID?, leaderEpoch: LeaderEpoch,
        partitionEpoch: PartitionEpoch
    ) {
        self.replicas = replicas
        self.isr = isr
        self.eligibleLeaderReplicas = eligibleLeaderReplicas
        self.offlineReplicas = offlineReplicas
        self.leader = leader
        self.leaderEpoch = leaderEpoch
        self.partitionEpoch = partitionEpoch
    }
}

/// What a leader must know of another broker before it lets it into the ISR.
package struct BrokerStatus: Equatable, Sendable {
    /// The epoch of the broker's newest registration.
    package var epoch: BrokerEpoch
    /// Neither fenced nor in controlled shutdown.
    package var isActive: Bool

    package init(epoch: BrokerEpoch, isActive: Bool) {
        self.epoch = epoch
        self.isActive = isActive
    }
}

/// The ISR a leader asks the controller for (KIP-497).
package struct ISRProposal: Equatable, Sendable {
    package struct Member: Hashable, Sendable {
        package var id: NodeID
        package var brokerEpoch: BrokerEpoch

        package init(id: NodeID, brokerEpoch: BrokerEpoch) {
            self.id = id
            self.brokerEpoch = brokerEpoch
        }
    }

    /// Tells this attempt from every other of the same leader.
    package var attempt: UInt64
    package var leaderEpoch: LeaderEpoch
    /// The state the proposal builds on: the controller refuses it once it has moved on.
    package var partitionEpoch: PartitionEpoch
    /// The whole new ISR, by rising id, this leader included.
    package var isr: [Member]

    package init(
        attempt: UInt64, leaderEpoch: LeaderEpoch, partitionEpoch: PartitionEpoch, isr: [Member]
    ) {
        self.attempt = attempt
        self.leaderEpoch = leaderEpoch
        self.partitionEpoch = partitionEpoch
        self.isr = isr
    }
}

/// What became of an `ISRProposal`.
package enum ISRProposalOutcome: Equatable, Sendable {
    /// Committed; the partition now has this ISR and partition epoch.
    case accepted(isr: [NodeID], leaderEpoch: LeaderEpoch, partitionEpoch: PartitionEpoch)
    /// Certainly without effect, now and later: refused for its members, or never delivered.
    case refused
    /// Refused because the partition has changed in between; the metadata log will tell how.
    case outdated
    /// No answer, or one that proves nothing: it may have been, or may yet be, accepted.
    case unknown
}
