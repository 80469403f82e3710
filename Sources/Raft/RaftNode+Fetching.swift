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
        case .resigned, .prospective, .candidate, .leader:
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
            if !batches.isEmpty {
                for batch in batches { log.append(through: batch.lastOffset, epoch: batch.epoch) }
                effects.append(.appendFetched(batches))
            }
            if let highWatermark { advanceHighWatermark(to: min(highWatermark, log.endOffset)) }
        case .diverging(let end):
            guard response.leader == follower.leader else { return }
            truncate(by: end, follower, now)
        case .snapshot:
            break
        case .notLeader:
            // The leader of this epoch says that it does not lead: it resigned or restarted.
            guard response.leader == nil, follower.health != .resigned else { return }
            follower.health = .resigned
            follower.deadline = min(
                follower.deadline, now + random(in: config.connectionLostDelay))
            role = .follower(follower)
        case .fencedEpoch, .unknownEpoch, .offsetOutOfRange, .unavailable:
            // Asked again after the backoff; if that does not help, the fetch timeout does.
            break
        }
    }

    private mutating func heardFromLeader(_ follower: Follower, _ now: MonotonicTime) {
        var follower = follower
        follower.hasFetched = true
        follower.health = .alive
        follower.deadline = now + randomFetchTimeout()
        follower.fetch = .due(now)
        role = .follower(follower)
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
        guard target < log.endOffset, target >= log.startOffset else { return }
        if let highWatermark, target < highWatermark {
            halt(.committedRecordsDiverge(highWatermark: highWatermark, truncation: target))
            return
        }
        heardFromLeader(follower, now)
        log.truncate(to: target)
        effects.append(.truncateLog(to: target))
    }

    mutating func advanceHighWatermark(to offset: Offset) {
        guard offset > highWatermark ?? 0 else { return }
        highWatermark = offset
        effects.append(.advanceHighWatermark(to: offset))
    }
}
