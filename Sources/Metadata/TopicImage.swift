package import Essentials

/// One topic: its id for life, its name, and its partitions by number.
package struct TopicImage: Equatable, Sendable {
    package var id: TopicID
    package var name: String
    /// The request that created it, if it said which it was.
    package var request: UniqueID?
    /// Index is the partition's number.
    package var partitions: PartitionList

    package init(
        id: TopicID, name: String, request: UniqueID? = nil, partitions: PartitionList = []
    ) {
        self.id = id
        self.name = name
        self.request = request
        self.partitions = partitions
    }
}

/// What the metadata log says about one partition.
package struct PartitionState: Equatable, Sendable {
    /// The brokers that hold it, the preferred leader first.
    package var replicas: [NodeID]
    /// Live replicas that the leader waits for, in the order of `replicas`.
    package var isr: [NodeID]
    /// Replicas outside the ISR that hold all that is committed (KIP-966); empty while the ISR has
    /// `min.insync.replicas` members.
    package var eligibleLeaderReplicas: [NodeID]
    /// Replicas that their brokers can't use, in the order of `replicas`.
    ///
    /// They neither lead nor are in the ISR, whatever their brokers do. Empty below
    /// `MetadataFeatures.offlineReplicas`.
    package var offlineReplicas: [NodeID]
    package var leader: NodeID?
    package var leaderEpoch: LeaderEpoch
    package var partitionEpoch: PartitionEpoch

    package init(
        replicas: [NodeID], isr: [NodeID], eligibleLeaderReplicas: [NodeID] = [],
        offlineReplicas: [NodeID] = [], leader: NodeID?, leaderEpoch: LeaderEpoch = 0,
        partitionEpoch: PartitionEpoch = 0
    ) {
        self.replicas = replicas
        self.isr = isr
        self.eligibleLeaderReplicas = eligibleLeaderReplicas
        self.offlineReplicas = offlineReplicas
        self.leader = leader
        self.leaderEpoch = leaderEpoch
        self.partitionEpoch = partitionEpoch
    }

    /// The same state with its lists in one place of memory where they are equal, as they mostly
    /// are: there are very many partitions.
    var compacted: PartitionState {
        var state = self
        if isr == replicas { state.isr = replicas }
        return state
    }

    /// The replica that should lead when it can.
    package var preferredLeader: NodeID? { replicas.first }

    /// Whether another replica leads although the preferred one is in sync.
    var isDisplaced: Bool {
        guard let preferredLeader, leader != preferredLeader else { return false }
        return isr.contains(preferredLeader)
    }

    /// Whether nobody else may hold all that is committed.
    func isOnlyCandidate(_ broker: NodeID) -> Bool {
        isr.count + eligibleLeaderReplicas.count == 1
            && (isr.first ?? eligibleLeaderReplicas.first) == broker
    }

    /// Whether it has no leader, or eligible leader replicas.
    var isUnsettled: Bool { leader == nil || !eligibleLeaderReplicas.isEmpty }

    /// The rule this state breaks, if any; all of them hold for every committed state.
    package var brokenRule: String? {
        // The lists are short: comparing beats hashing.
        if replicas.isEmpty { return "there is no replica" }
        if Self.repeats(replicas) { return "a replica is listed twice" }
        if Self.repeats(isr) { return "an ISR member is listed twice" }
        if !isr.allSatisfy(replicas.contains) { return "the ISR holds a broker that is no replica" }
        if !eligibleLeaderReplicas.allSatisfy(replicas.contains) {
            return "the ELR holds a broker that is no replica"
        }
        if isr.contains(where: eligibleLeaderReplicas.contains) {
            return "a broker is in the ISR and in the ELR"
        }
        if let leader, !isr.contains(leader) { return "the leader is not in the ISR" }
        if offlineReplicas.isEmpty { return nil }
        if Self.repeats(offlineReplicas) { return "an offline replica is listed twice" }
        if !offlineReplicas.allSatisfy(replicas.contains) {
            return "a broker that is no replica is listed as an offline one"
        }
        if isr.contains(where: offlineReplicas.contains) {
            return "the ISR holds an offline replica"
        }
        return nil
    }

    private static func repeats(_ brokers: [NodeID]) -> Bool {
        brokers.indices.contains { brokers[..<$0].contains(brokers[$0]) }
    }
}
