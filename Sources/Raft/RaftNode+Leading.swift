import Essentials

/// The leader's side of replication.
extension RaftNode {
    mutating func handleFetch(
        _ request: FetchRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        guard request.fetchOffset >= 0, request.lastFetchedEpoch >= .none,
            request.lastFetchedEpoch <= request.epoch, request.replica.id != local.id,
            request.replica.id >= 0
        else {
            effects.append(.refuse(token))
            return
        }
        guard case .leader(var leader) = role else {
            answerNotLeader(token)
            return
        }
        guard request.epoch == leader.epoch || breaks(.acceptStaleFetch) else {
            answer(
                token,
                .fetch(
                    FetchResponse(
                        epoch: leader.epoch, leader: local.id,
                        outcome: request.epoch < leader.epoch ? .fencedEpoch : .unknownEpoch)))
            return
        }
        let outcome = objection(to: request)
        recordFetch(request, isValid: outcome == nil, in: &leader, now)
        // One fetch a replica: an older one was given up by its sender, or repeated by the network.
        if let older = leader.parked.removeValue(forKey: request.replica) {
            answerFetch(older.token, from: older.fetchOffset, below: older.fetchOffset, leader)
        }
        if let outcome {
            role = .leader(leader)
            answer(
                token,
                .fetch(
                    FetchResponse(epoch: leader.epoch, leader: local.id, outcome: outcome)))
            return
        }
        let canWait =
            leader.parked.count < config.maxObservers || leader.voters[request.replica.id] != nil
        let wait = canWait ? max(.zero, min(request.maxWait, config.maxFetchWait)) : .zero
        leader.parked[request.replica] = ParkedFetch(
            token: token, fetchOffset: request.fetchOffset,
            highWatermark: request.highWatermark, deadline: now + wait)
        role = .leader(leader)
        advanceLeaderHighWatermark()
    }

    /// What the replica must do before it can have what it asks for, if anything.
    private func objection(to request: FetchRequest) -> FetchResponse.Outcome? {
        let isTooOld =
            request.fetchOffset < log.startOffset || log.hasForgotten(request.lastFetchedEpoch)
        guard !isTooOld else {
            // The newest one, if it is not just what the directory was formatted with.
            guard let snapshot, snapshot.endOffset >= log.startOffset, snapshot.endOffset > 0
            else { return .offsetOutOfRange }
            return .snapshot(snapshot)
        }
        let end = log.end(of: request.lastFetchedEpoch)
        let isPrefix =
            end.epoch == request.lastFetchedEpoch && end.endOffset >= request.fetchOffset
        let isBlindlyServed = breaks(.ignoreDivergence) && request.fetchOffset <= log.endOffset
        return isPrefix || isBlindlyServed ? nil : .diverging(end)
    }

    /// Notes what the fetch tells about its sender.
    ///
    /// A fetch of a log that diverges proves that its sender follows us, and nothing else.
    private mutating func recordFetch(
        _ request: FetchRequest, isValid: Bool, in leader: inout Leader, _ now: MonotonicTime
    ) {
        recordContact(of: request.replica, in: &leader, now) { progress in
            progress.isDurable = request.isDurable
            // What a voter holds counts for commits, if it is safe there.
            let isCounted = voterSet?.isVoter(request.replica) ?? false
            guard isValid, request.isDurable || !isCounted else { return }
            progress.endOffset = request.fetchOffset
            if request.fetchOffset >= log.endOffset {
                progress.lastCaughtUp = now
            } else if let lastFetch = progress.lastFetch,
                request.fetchOffset >= progress.leaderEndAtLastFetch
            {
                progress.lastCaughtUp = max(progress.lastCaughtUp ?? lastFetch, lastFetch)
            }
        }
    }

    /// Notes that the replica follows us, as a voter only if it is exactly that one.
    func recordContact(
        of replica: ReplicaKey, in leader: inout Leader, _ now: MonotonicTime,
        noting note: (inout ReplicaProgress) -> Void = { _ in }
    ) {
        let known = leader.voters[replica.id]
        let isVoter =
            voterSet?.isVoter(replica) ?? false && known != nil
            && (known?.directory == nil || known?.directory == replica.directory)
        var progress = (isVoter ? known : leader.observers[replica]) ?? ReplicaProgress()
        if progress.directory == nil { progress.directory = replica.directory }
        note(&progress)
        // Both of one moment: a fetch that holds this end later was caught up then.
        progress.lastFetch = now
        progress.leaderEndAtLastFetch = log.endOffset
        if isVoter {
            leader.voters[replica.id] = progress
            leader.notices[replica.id] = .due(now + config.fetchTimeout)
            return
        }
        if leader.observers[replica] == nil {
            let oldest = now - config.observerTimeout
            leader.observers = leader.observers.filter { $0.value.lastFetch ?? now >= oldest }
            guard leader.observers.count < config.maxObservers else { return }
        }
        leader.observers[replica] = progress
    }

    mutating func answerNotLeader(_ token: RequestToken) {
        answer(
            token,
            .fetch(
                FetchResponse(epoch: election.epoch, leader: leader, outcome: .notLeader)))
    }

    private mutating func answerFetch(
        _ token: RequestToken, from: Offset, below: Offset, _ leader: Leader
    ) {
        effects.append(
            .answerFetch(
                token,
                FetchAnswer(
                    epoch: leader.epoch, leader: local.id, from: from, below: below,
                    highWatermark: leader.highWatermark, logStartOffset: log.startOffset)))
    }

    /// Answers the fetches that have something to learn, or have waited long enough.
    mutating func serveParkedFetches(_ now: MonotonicTime) {
        guard case .leader(var leader) = role else { return }
        let ready = leader.parked.filter { _, parked in
            parked.fetchOffset < log.endOffset || now >= parked.deadline
                || leader.highWatermark ?? -1 > parked.highWatermark ?? -1
        }
        guard !ready.isEmpty else { return }
        for (key, parked) in ready.sorted(by: { $0.key < $1.key }) {
            leader.parked[key] = nil
            answerFetch(parked.token, from: parked.fetchOffset, below: log.endOffset, leader)
        }
        role = .leader(leader)
    }

    /// Commits what a majority of the voters holds durably, if that reaches into our own epoch.
    ///
    /// The voters are those in force, even if their own record is not committed yet; we are not
    /// always one of them. Records of earlier epochs are committed along with one of ours, never by
    /// counting: a later leader may lack them even if a majority holds them (Raft, figure 8).
    mutating func advanceLeaderHighWatermark() {
        let counted = breaks(.countRemovedVoter) ? voters.previous : voterSet
        guard case .leader(var leader) = role, let voters = counted else { return }
        let ownEnd = breaks(.countBeforeDurable) ? log.endOffset : log.durableEnd
        var ends = voters.voters.map { voter in
            voter.isSame(as: local) ? ownEnd : leader.progress(of: voter)?.endOffset ?? 0
        }
        if breaks(.countObservers) { ends += leader.observers.values.compactMap(\.endOffset) }
        if breaks(.leaderCountsItselfAfterRemoval), !voters.isVoter(local) { ends.append(ownEnd) }
        ends.sort(by: >)
        let needed = voters.majority - (breaks(.commitByMinority) && voters.count > 1 ? 1 : 0)
        let committed = ends[needed - 1]
        guard committed > leader.highWatermark ?? -1 else { return }
        guard committed > leader.epochStart || (breaks(.commitOldEpochs) && committed > 0) else {
            return
        }
        invariant(
            committed >= highWatermark ?? 0 || anyRuleIsBroken,
            "high watermark falls from \(highWatermark ?? 0) to \(committed)")
        let isFirst = leader.highWatermark == nil
        leader.highWatermark = committed
        role = .leader(leader)
        advanceHighWatermark(to: committed)
        if isFirst { effects.append(.startedLeading(epoch: leader.epoch)) }
    }

    /// When the leader must resign unless more voters fetch (check-quorum).
    func checkQuorumDeadline(_ leader: Leader) -> MonotonicTime {
        guard let voters = voterSet else { return .distantFuture }
        // Together with ourselves, if we are a voter, so many of the others make a majority.
        let needed = voters.majority - (isVoter ? 1 : 0)
        guard needed > 0 else { return .distantFuture }
        let contacts = leader.voters.values.map { $0.lastFetch ?? leader.since }.sorted(by: >)
        return contacts[needed - 1] + config.checkQuorumTimeout
    }

    /// Whether the leader may still act: a majority has fetched of late.
    func isInOffice(_ leader: Leader, _ now: MonotonicTime) -> Bool {
        now < checkQuorumDeadline(leader) || breaks(.leadWithoutMajority)
    }

    /// Traps if what this replica believes contradicts itself; for tests, after each step.
    package func checkInvariants() {
        invariant(log.isValid, "log \(log)")
        invariant(election.epoch >= log.lastEpoch, "epoch \(election.epoch) below the log's")
        invariant(
            log.startOffset <= highWatermark ?? log.startOffset || anyRuleIsBroken,
            "the log starts at \(log.startOffset), past \(highWatermark ?? 0)")
        invariant(
            voters.entries.last.map { $0.offset < log.endOffset } ?? true || anyRuleIsBroken,
            "voters of \(voters.currentOffset ?? 0) in a log up to \(log.endOffset)")
        guard case .leader(let leader) = role else { return }
        invariant(leader.epoch == election.epoch, "leads \(leader.epoch) in \(election.epoch)")
        invariant(election.leader == local.id, "leads, but knows \(election.leader ?? -1)")
        invariant(log.lastEpoch == leader.epoch, "leader's log ends in epoch \(log.lastEpoch)")
        invariant(
            leader.highWatermark ?? 0 <= log.endOffset,
            "high watermark \(leader.highWatermark ?? 0) past the end \(log.endOffset)")
    }
}
