package import Essentials

extension PartitionLeader {
    /// All the high watermark waits for: the ISR and the eligible leader replicas as the controller
    /// has, or may by now have, committed them.
    package var awaitedReplicas: Set<NodeID> {
        var awaited = unsettledMembers
        awaited.formUnion(assignment.isr)
        awaited.formUnion(assignment.eligibleLeaderReplicas)
        if let inFlight {
            for member in inFlight.isr { awaited.insert(member.id) }
        }
        return awaited
    }

    /// What became of a proposal that `propose` sent.
    package mutating func proposalSettled(
        attempt: UInt64, _ outcome: ISRProposalOutcome, now: MonotonicTime
    ) -> [Effect] {
        let proposal = inFlight?.attempt == attempt ? inFlight : nil
        switch outcome {
        case .accepted(let isr, let leaderEpoch, let partitionEpoch):
            // Late or not, what is committed is committed: only its place in the order counts.
            if leaderEpoch == self.leaderEpoch, partitionEpoch > assignment.partitionEpoch {
                var settled = assignment
                settled.isr = isr
                settled.partitionEpoch = partitionEpoch
                // Until the metadata log tells who outside the ISR is eligible to lead, everyone may be
                // who was in sync or eligible before.
                settled.eligibleLeaderReplicas =
                    (assignment.isr + assignment.eligibleLeaderReplicas)
                    .filter { !isr.contains($0) }
                settle(on: settled, now: now)
            } else if let proposal {
                // Accepted without a change, or another leader's epoch: neither says what became of
                // earlier attempts.
                retain(proposal, now: now)
            }
        case .refused:
            // The metadata log got here first.
            guard proposal != nil else { return [] }
            inFlight = nil
            retryLater(now: now)
        case .outdated, .unknown:
            guard let proposal else { return [] }
            retain(proposal, now: now)
        }
        return consequences(now: now)
    }

    /// Keeps counting everyone in a proposal that may have been accepted.
    private mutating func retain(_ proposal: ISRProposal, now: MonotonicTime) {
        let members = Set(proposal.isr.map(\.id))
        unsettledMembers.formUnion(members)
        if !unsettledISRs.contains(members) { unsettledISRs.append(members) }
        inFlight = nil
        retryLater(now: now)
    }

    private mutating func retryLater(now: MonotonicTime) {
        retryAt = now + configuration.proposalRetryDelay
        isRetryDue = true
    }

    /// Takes over a newer committed state.
    ///
    /// Every proposal made on an older one is thereby over: it led here, or it will be refused.
    mutating func settle(on newAssignment: PartitionAssignment, now: MonotonicTime) {
        assignment = newAssignment
        inFlight = nil
        unsettledMembers = []
        unsettledISRs = []
        retryAt = now
        isRetryDue = false
        let replicas = Set(newAssignment.replicas)
        followers = followers.filter { replicas.contains($0.key) }
        for replica in newAssignment.replicas where replica != id {
            let isInSync = newAssignment.isr.contains(replica)
            var progress =
                followers[replica]
                ?? FollowerProgress(isInSync: isInSync, logEnd: logEndOffset, now: now)
            if isInSync { progress.startLagTime(logEnd: logEndOffset, now: now) }
            followers[replica] = progress
        }
    }

    /// Whoever is outside an ISR that others than this leader have decided, or is or was offline, has to be
    /// heard from anew.
    ///
    /// The controller knows why: a replica whose log turned out to be damaged, say, is cut back, in the
    /// same leader epoch and by the same process, and has no more what it once told of.
    mutating func forgetOutsiders(of newAssignment: PartitionAssignment) {
        let isr = Set(newAssignment.isr)
        let isOurs =
            unsettledISRs.contains(isr) || inFlight.map { Set($0.isr.map(\.id)) == isr } ?? false
        let offline = Set(newAssignment.offlineReplicas + assignment.offlineReplicas)
        for replica in newAssignment.replicas
        where offline.contains(replica) || (!isOurs && !isr.contains(replica)) {
            followers[replica] = nil
        }
    }

    /// The next proposal to send, if one is due.
    mutating func nextProposal(now: MonotonicTime) -> ISRProposal? {
        guard inFlight == nil, now >= retryAt else { return nil }
        isRetryDue = false
        guard let members = wantedISR(now: now) else { return nil }
        attempts += 1
        let proposal = ISRProposal(
            attempt: attempts, leaderEpoch: leaderEpoch, partitionEpoch: assignment.partitionEpoch,
            isr: members)
        inFlight = proposal
        return proposal
    }

    /// The ISR as it should be; `nil` if that is what it is, and no earlier attempt is open.
    private func wantedISR(now: MonotonicTime) -> [ISRProposal.Member]? {
        var members: [ISRProposal.Member] = []
        for replica in assignment.replicas.sorted() {
            let belongs =
                replica == id
                || !assignment.offlineReplicas.contains(replica)
                    && (assignment.isr.contains(replica)
                        ? !isLagging(replica, now: now) : mayJoin(replica, now: now))
            guard belongs else { continue }
            // A member that has not fetched yet in this epoch is known by its registration.
            let epoch = followers[replica]?.brokerEpoch ?? brokers[replica]?.epoch ?? .none
            members.append(ISRProposal.Member(id: replica, brokerEpoch: epoch))
        }
        let isChanged = Set(members.map(\.id)) != Set(assignment.isr)
        // Asking for what is already so moves the partition epoch, and so closes earlier attempts.
        guard isChanged || !unsettledMembers.isSubset(of: assignment.isr) else { return nil }
        return members
    }

    private func isLagging(_ replica: NodeID, now: MonotonicTime) -> Bool {
        followers[replica]?.isLagging(
            logEnd: logEndOffset, maxLag: configuration.maxReplicaLag, now: now) ?? true
    }

    /// Whether a replica outside the ISR holds all that is, or ever was, committed, and keeps up.
    private func mayJoin(_ replica: NodeID, now: MonotonicTime) -> Bool {
        guard let progress = followers[replica], let end = progress.countedEnd,
            let broker = brokers[replica], broker.isActive, progress.brokerEpoch == broker.epoch
        else { return false }
        return end >= highWatermark && end >= epochStartOffset && !isLagging(replica, now: now)
    }

    var nextISRDeadline: MonotonicTime? {
        // The answer to the proposal, or its time-out, comes first.
        guard inFlight == nil else { return nil }
        var deadline: MonotonicTime?
        for replica in assignment.isr where replica != id {
            guard let progress = followers[replica], let caughtUpAt = progress.caughtUpAt else {
                continue
            }
            if let end = progress.countedEnd, end >= logEndOffset { continue }
            let overdue =
                caughtUpAt + configuration.maxReplicaLag + .nanoseconds(1)
            deadline = min(deadline ?? .distantFuture, overdue)
        }
        if isRetryDue { deadline = retryAt }
        return deadline.map { max($0, retryAt) }
    }
}
