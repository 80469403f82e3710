package import Essentials

/// Changes of the voter set: one voter at a time, in force when appended (KIP-853).
extension RaftNode {
    /// Appends, as leader, the voter set after `change`.
    ///
    /// The set is in force at once, and stays so if the high watermark passes the offset that is
    /// returned, where its record is. If the record is truncated the set before it is back.
    package mutating func changeVoters(
        _ change: VoterChange, now: MonotonicTime
    ) throws(VoterChangeError) -> (effects: [RaftEffect], offset: Offset) {
        let changed = try voterSet(after: change, now)
        // An update to what is known already; nothing is under way, so it is committed.
        if changed == voterSet, let offset = voters.currentOffset { return ([], offset) }
        let offset = log.endOffset
        append(changed)
        adoptVoters(now)
        return (finishStep(now), offset)
    }

    private func voterSet(
        after change: VoterChange, _ now: MonotonicTime
    ) throws(VoterChangeError) -> VoterSet {
        guard halted == nil, case .leader(let leading) = role, let voterSet else {
            throw .notLeader(leader, epoch: election.epoch)
        }
        guard isInOffice(leading, now), leading.transfer == nil else {
            throw .notLeader(nil, epoch: election.epoch)
        }
        // Until then an older leader's change may still be on its way to a majority.
        guard leading.highWatermark != nil || breaks(.changeBeforeEpochCommitted) else {
            throw .notReady
        }
        // Two sets that differ in two voters may have majorities that share none.
        let committed = leading.highWatermark ?? highWatermark ?? 0
        if let last = voters.entries.last, last.offset >= committed,
            !breaks(.twoVoterChangesAtOnce)
        {
            throw .pending(offset: last.offset)
        }
        let changed: VoterSet?
        switch change {
        case .add(let voter):
            if let known = voterSet[voter.id] { throw .alreadyVoter(known) }
            try checkIsCaughtUp(voter.key, leading, now)
            changed = voterSet.adding(voter)
        case .remove(let id, let directory):
            guard let known = voterSet[id],
                known.key.matches(ReplicaKey(id: id, directory: directory))
            else { throw .notVoter }
            changed = voterSet.removing(id)
        case .update(let voter):
            guard voterSet.isVoter(voter.key) else { throw .notVoter }
            changed = voterSet.replacing(voter)
        }
        guard let changed else { throw .lastVoter }
        return changed
    }

    /// Within the fetch timeout the replica must have held all that we did: a voter that has still
    /// much to fetch would be waited for by commits.
    private func checkIsCaughtUp(
        _ key: ReplicaKey, _ leading: Leader, _ now: MonotonicTime
    ) throws(VoterChangeError) {
        guard key.directory != nil, key.id >= 0, let progress = leading.observers[key],
            let lastFetch = progress.lastFetch, now <= lastFetch + config.fetchTimeout
        else { throw .notObserving }
        guard progress.isDurable else { throw .notDurable }
        guard let lastCaughtUp = progress.lastCaughtUp,
            now <= lastCaughtUp + config.fetchTimeout
        else { throw .behind(records: log.endOffset - (progress.endOffset ?? 0)) }
    }

    /// Appends the record of a voter set, as leader.
    mutating func append(_ set: VoterSet) {
        let offset = log.endOffset
        log.append(through: offset, epoch: election.epoch)
        voters.append(set, at: offset)
        effects.append(.appendVoters(set, offset: offset, epoch: election.epoch))
    }

    /// Acts on another voter set in force.
    mutating func adoptVoters(_ now: MonotonicTime) {
        effects.append(.votersChanged(voterSet))
        switch role {
        case .prospective, .candidate:
            // Asked the wrong ones.
            becomeUnattached(now)
        case .leader(var leader):
            sortReplicas(&leader, now)
            // Votes for a read may come from voters of two sets: they are asked again.
            leader.waitingReads = (leader.readRound?.tokens ?? []) + leader.waitingReads
            leader.readRound = nil
            role = .leader(leader)
            // With fewer voters, fewer make a majority.
            advanceLeaderHighWatermark()
        case .resigned, .unattached, .follower:
            break
        }
    }

    /// Makes voters of observers and the other way round; what is known of them stays known.
    private func sortReplicas(_ leader: inout Leader, _ now: MonotonicTime) {
        var others: [NodeID: ReplicaProgress] = [:]
        for voter in voterSet?.voters ?? [] where voter.id != local.id {
            let known = leader.voters[voter.id]
            if let known,
                known.directory == nil || known.directory == voter.directory
                    || voter.directory == nil
            {
                others[voter.id] = known
            } else {
                others[voter.id] =
                    leader.observers.removeValue(forKey: voter.key) ?? ReplicaProgress()
                leader.notices[voter.id] = .due(now)
            }
        }
        for (id, progress) in leader.voters where others[id] == nil {
            leader.notices[id] = nil
            guard progress.lastFetch != nil else { continue }
            leader.observers[ReplicaKey(id: id, directory: progress.directory)] = progress
        }
        leader.voters = others
    }

    /// Whether the removal of this leader from the voters is committed: then it has done its part.
    func isRemoved(_ leader: Leader) -> Bool {
        !isVoter && leader.highWatermark ?? 0 > voters.currentOffset ?? .max
    }
}
