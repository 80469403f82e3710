import Essentials

/// The follower's side of replication.
extension RaftNode {
    mutating func handleFetchResponse(
        _ response: FetchResponse, to id: RequestID, _ now: MonotonicTime
    ) {
        // Only the request that is out counts, and only in the epoch it was sent in. What a late
        // response says about a newer epoch is still true.
        observe(epoch: response.epoch, leader: response.leader, now)
        switch role {
        case .follower(let follower):
            guard follower.fetch.outstanding == id else { return }
            guard response.epoch == election.epoch else {
                requestFailed(id, now)
                return
            }
            handle(response, follower, now)
        case .unattached(var unattached):
            guard unattached.search.outstanding == id else { return }
            // A leader in the response would have made us its follower.
            unattached.search = .due(now + randomBackoff())
            role = .unattached(unattached)
        case .prospective(var campaign):
            // One question a round.
            guard campaign.search.outstanding == id else { return }
            campaign.search = .done
            role = .prospective(campaign)
        case .resigned, .candidate, .leader:
            // Late: we gave up waiting for this leader.
            break
        }
    }

    private mutating func handle(
        _ response: FetchResponse, _ follower: Follower, _ now: MonotonicTime
    ) {
        var follower = follower
        follower.fetch = .due(now + randomBackoff())
        role = .follower(follower)
        switch response.outcome {
        case .records(let batches, let highWatermark, _):
            guard response.leader == follower.leader, isAppendable(batches) else { return }
            heardFromLeader(follower, now)
            if !batches.isEmpty { append(batches, now) }
            if let highWatermark { advanceHighWatermark(to: min(highWatermark, log.endOffset)) }
        case .diverging(let end):
            guard response.leader == follower.leader else { return }
            truncate(by: end, follower, now)
        case .snapshot(let id):
            guard response.leader == follower.leader else { return }
            beginDownload(of: id, follower, now)
        case .notLeader:
            noteNotLeader(response.leader, now)
        case .fencedEpoch, .unknownEpoch, .offsetOutOfRange, .unavailable:
            // Asked again after the backoff; if that does not help, the fetch timeout does.
            break
        }
    }

    /// The leader of this epoch says that it does not lead: it resigned or restarted.
    mutating func noteNotLeader(_ leader: NodeID?, _ now: MonotonicTime) {
        guard case .follower(var follower) = role, leader == nil, follower.health != .resigned
        else { return }
        follower.health = .resigned
        follower.deadline = min(follower.deadline, now + random(in: config.connectionLostDelay))
        role = .follower(follower)
    }

    mutating func heardFromLeader(_ follower: Follower, _ now: MonotonicTime) {
        var follower = follower
        follower.hasFetched = true
        contactPatience = config.firstContactPatience
        follower.health = .alive
        follower.deadline = now + randomFetchTimeout()
        follower.fetch = .due(now)
        role = .follower(follower)
    }

    private mutating func append(_ batches: [BatchSpan], _ now: MonotonicTime) {
        let oldVoters = voterSet
        for batch in batches {
            log.append(through: batch.lastOffset, epoch: batch.epoch)
            if let set = batch.voters { voters.append(set, at: batch.baseOffset) }
        }
        effects.append(.appendFetched(batches))
        if voterSet != oldVoters { adoptVoters(now) }
    }

    /// Whether the batches continue our log, in epochs that never fall and have begun.
    private func isAppendable(_ batches: [BatchSpan]) -> Bool {
        var end = log.endOffset
        var epoch = max(log.lastEpoch, 0)
        for batch in batches {
            guard batch.baseOffset == end, batch.lastOffset >= batch.baseOffset,
                batch.lastOffset < .max, batch.epoch >= epoch, batch.epoch <= election.epoch
            else { return false }
            end = batch.lastOffset + 1
            epoch = batch.epoch
        }
        return true
    }

    /// Cuts off what the leader does not have, as far as one answer tells (KIP-595).
    private mutating func truncate(
        by leaderEnd: EpochEnd, _ follower: Follower, _ now: MonotonicTime
    ) {
        let ownEnd = log.end(of: leaderEnd.epoch)
        let target =
            ownEnd.epoch == leaderEnd.epoch
            ? min(ownEnd.endOffset, leaderEnd.endOffset) : ownEnd.endOffset
        // An answer that would not shorten the log is wrong, and believing it would go on for ever.
        guard target < log.endOffset else { return }
        // Whatever was removed at the log's start was committed.
        let committed = max(highWatermark ?? 0, log.startOffset)
        guard target >= committed, leaderEnd.epoch >= log.epochBeforeStart else {
            halt(
                .committedRecordsDiverge(
                    highWatermark: committed, truncation: min(target, leaderEnd.endOffset)))
            return
        }
        heardFromLeader(follower, now)
        guard !breaks(.truncationIgnored) else { return }
        log.truncate(to: target)
        effects.append(.truncateLog(to: target))
        let oldVoters = voterSet
        if !breaks(.ignoreVoterTruncation) { voters.truncate(to: target) }
        if voterSet != oldVoters { adoptVoters(now) }
    }

    mutating func advanceHighWatermark(to offset: Offset) {
        guard offset > highWatermark ?? 0 else { return }
        highWatermark = offset
        effects.append(.advanceHighWatermark(to: offset))
    }
}
