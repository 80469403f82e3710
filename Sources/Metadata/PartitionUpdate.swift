internal import Essentials

/// Works out one partition's next ISR, ELR and leader (KIP-966).
///
/// - Fenced and stopping brokers leave the ISR. A replica that leaves while the ISR falls below
///   `min.insync.replicas` becomes an eligible leader replica: nothing can be committed below that
///   size, so it holds all that ever was.
/// - The ELR is empty again as soon as the ISR has that size.
/// - A leader comes from the ISR; from the ELR when the ISR is empty; from anywhere only where the
///   topic allows it. The first in the order of `replicas` wins.
/// - A replica that its broker can't use counts like one whose broker is fenced: it leaves the ISR, and
///   is elected by no rule.
struct PartitionUpdate {
    let id: TopicPartition
    let state: PartitionState
    /// Never more than there are replicas.
    var minInSyncReplicas: Int
    let allowsUnclean: Bool

    /// The ISR its leader proposes; `nil` keeps the present one.
    var proposedISR: [NodeID]?
    /// A replica that came back without proof that it still has all it had.
    var distrusted: NodeID?
    /// Replicas that their brokers can't use.
    var offlineReplicas: [NodeID]
    /// One of these that is known to lack committed records.
    ///
    /// It is no candidate next to a live one; the last that there may be is kept, for nobody else could
    /// be better.
    var damaged: NodeID?
    /// Whether the metadata's level can write down which replicas are offline.
    var recordsOfflineReplicas = true
    /// Let the preferred replica lead if it is in the ISR.
    var prefersFirstReplica = false

    init(id: TopicPartition, state: PartitionState, minInSyncReplicas: Int, allowsUnclean: Bool) {
        self.id = id
        self.state = state
        offlineReplicas = state.offlineReplicas
        self.minInSyncReplicas = minInSyncReplicas
        self.allowsUnclean = allowsUnclean
    }

    /// The record that makes it so, if anything changes, and the election it stands for, if any.
    func change(
        isActive: (NodeID) -> Bool
    ) -> (change: PartitionChange, election: Election.Kind?)? {
        // The lists are short: looking through them beats hashing.
        let offline = state.replicas.filter(offlineReplicas.contains)
        func canServe(_ replica: NodeID) -> Bool {
            isActive(replica) && !offline.contains(replica)
        }
        var distrusted = distrusted
        if let damaged,
            (state.isr + state.eligibleLeaderReplicas).contains(where: {
                $0 != damaged && $0 != distrusted && canServe($0)
            })
        {
            distrusted = damaged
        }
        let wanted = proposedISR ?? state.isr
        var isr = state.replicas.filter { wanted.contains($0) && canServe($0) && $0 != distrusted }
        var eligible = state.replicas.filter { replica in
            (state.isr.contains(replica) || state.eligibleLeaderReplicas.contains(replica))
                && replica != distrusted && !isr.contains(replica)
        }

        var leader = state.leader
        var election: Election.Kind?
        if prefersFirstReplica, let first = state.preferredLeader, first != leader,
            isr.contains(first)
        {
            leader = first
            election = .preferred
        } else if let current = leader, isr.contains(current) {
            // It stays.
        } else if let next = isr.first {
            leader = next
            election = .fromISR
        } else if let next = eligible.first(where: canServe) {
            leader = next
            isr = [next]
            eligible.removeAll { $0 == next }
            election = .fromELR
        } else if allowsUnclean, let next = state.replicas.first(where: canServe) {
            leader = next
            isr = [next]
            // The others may hold more than the new leader, so they must not succeed it as equals.
            eligible = []
            election = .unclean
        } else {
            leader = nil
            election = state.leader == nil ? nil : .leaderless
        }
        if isr.count >= minInSyncReplicas { eligible = [] }

        var change = PartitionChange(id: id)
        // A proposal that changes nothing is recorded all the same: the partition epoch it raises tells
        // the leader that no earlier proposal can still be accepted.
        if isr != state.isr || proposedISR != nil { change.isr = isr }
        if eligible != state.eligibleLeaderReplicas { change.eligibleLeaderReplicas = eligible }
        if recordsOfflineReplicas, offline != state.offlineReplicas {
            change.offlineReplicas = offline
        }
        if leader != state.leader {
            change.leader = leader.map { .broker($0) } ?? PartitionChange.NewLeader.none
        }
        if change == PartitionChange(id: id) { return nil }
        return (change, election)
    }
}
