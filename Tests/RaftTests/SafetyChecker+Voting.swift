import Essentials
import Raft

/// Votes, epochs and voter sets.
extension SafetyChecker {
    /// What leaves a replica must follow from what is on its disk.
    mutating func left(_ packet: Packet, by replica: SimulatedReplica) {
        let disk = replica.disk
        let durable = disk.election ?? .initial
        switch packet.content {
        case .request(let request, _):
            shown(epoch(of: request), by: replica.key, durable)
            if case .vote(let vote) = request { campaigned(vote, replica, durable) }
            if case .fetch(let fetch) = request, replica.config.isDurable,
                fetch.fetchOffset > Offset(Int64(disk.durableEnd))
            {
                fail("R9: \(replica.id) fetches at \(fetch.fetchOffset), which is not durable")
            }
        case .response(let response, _, _):
            shown(epoch(of: response), by: replica.key, durable)
        case .failure, .connectionLost:
            break
        }
    }

    private mutating func campaigned(
        _ vote: VoteRequest, _ replica: SimulatedReplica, _ durable: ElectionState
    ) {
        // Its process may have died since.
        let voters = replica.node.map(\.voters.current) ?? replica.disk.votersInForce
        if voters?.isVoter(replica.key) != true, isRemovalCommitted(replica) {
            fail("R17: \(replica.id), which is no voter, asks for votes in \(vote.epoch)")
        }
        guard !vote.isPreVote else { return }
        voted(replica.key, for: vote.candidate, in: vote.epoch, durable)
        let key = VoteKey(
            voter: replica.key, epoch: LeaderEpoch(vote.epoch.rawValue - 1))
        // Only if it is a voter its own counts.
        let granted = preVotes[key, default: []].union([replica.key])
        if let voters, granted.count(where: { voters.isVoter($0) }) < voters.majority {
            fail("R12: \(replica.id) campaigns in \(vote.epoch) without pre-votes")
        }
    }

    /// Whether a replica that its log does not call a voter can know that it was removed for good.
    ///
    /// Until then it may be the only one that can lead, as the others lack the record.
    private func isRemovalCommitted(_ replica: SimulatedReplica) -> Bool {
        guard let node = replica.node else { return false }
        let isKnown = node.highWatermark ?? 0 > node.voters.currentOffset ?? 0
        return isKnown || node.voters.previous?.isVoter(replica.key) != true
    }

    /// A vote that was granted, by a response that leaves.
    mutating func answered(
        _ request: VoteRequest, by voter: SimulatedReplica, _ response: VoteResponse
    ) {
        guard response.isGranted else { return }
        if request.voter != voter.key {
            fail("R16: \(voter.key) votes as \(request.voter)")
        }
        if request.isPreVote {
            // Of the epochs before the one campaigned in, since a candidate may also have waited.
            preVotes[VoteKey(voter: request.candidate, epoch: request.epoch), default: []]
                .insert(voter.key)
        } else {
            voted(
                voter.key, for: request.candidate, in: request.epoch,
                voter.disk.election ?? .initial)
        }
    }

    /// A fetch is answered with records only by the leader of the epoch that it was sent in: what it
    /// says of its sender's log may no longer be so in another.
    mutating func answered(
        _ request: FetchRequest, by leader: NodeID, _ response: FetchResponse
    ) {
        if case .records = response.outcome, response.epoch != request.epoch {
            fail("R8: \(leader) serves a fetch of epoch \(request.epoch) in \(response.epoch)")
        }
    }

    private mutating func voted(
        _ voter: ReplicaKey, for candidate: ReplicaKey, in epoch: LeaderEpoch,
        _ durable: ElectionState
    ) {
        let key = VoteKey(voter: voter, epoch: epoch)
        if let other = votes[key], other != candidate {
            fail("R2: \(voter.id) votes for \(other) and \(candidate) in epoch \(epoch)")
        }
        votes[key] = candidate
        if durable.epoch < epoch || (durable.epoch == epoch && durable.votedFor != candidate) {
            fail("R2: the vote of \(voter.id) in epoch \(epoch) leaves before it is durable")
        }
    }

    private mutating func shown(
        _ epoch: LeaderEpoch, by replica: ReplicaKey, _ durable: ElectionState
    ) {
        if epoch > durable.epoch {
            fail("R3: \(replica.id) shows epoch \(epoch), which is not durable")
        }
        if durable.epoch < epochsShown[replica] ?? 0 {
            fail("R3: the epoch of \(replica.id) falls")
        }
        epochsShown[replica] = max(epochsShown[replica] ?? 0, durable.epoch)
    }

    private func epoch(of request: RaftRequest) -> LeaderEpoch {
        switch request {
        case .vote(let request): request.epoch
        case .beginQuorumEpoch(let request): request.epoch
        case .endQuorumEpoch(let request): request.epoch
        case .fetch(let request): request.epoch
        case .fetchSnapshot(let request): request.epoch
        }
    }

    private func epoch(of response: RaftResponse) -> LeaderEpoch {
        switch response {
        case .vote(let response): response.epoch
        case .beginQuorumEpoch(let response), .endQuorumEpoch(let response): response.epoch
        case .fetch(let response): response.epoch
        case .fetchSnapshot(let response): response.epoch
        }
    }

    // MARK: - Voter sets

    /// One voter at a time, and only when nothing is open (R15).
    mutating func proposed(
        _ voters: VoterSet, at offset: Offset, _ context: VoterContext, by id: NodeID
    ) {
        proposedVoters.append((Int(offset.rawValue), voters))
        guard let previousOffset = context.previousOffset else {
            if voters != context.previous {
                fail("R15: \(id) writes other voters than it began with")
            }
            return
        }
        guard let highWatermark = context.highWatermark, highWatermark > context.epochStart else {
            fail("R15: \(id) changes voters before it committed anything in \(context.epoch)")
            return
        }
        // A snapshot's end is past the record that it holds.
        if highWatermark <= previousOffset, !isSnapshotEnd(previousOffset, highWatermark) {
            fail("R15: \(id) changes voters before the last change, at \(previousOffset)")
        }
        let before = Set((context.previous?.voters ?? []).map(\.key))
        let after = Set(voters.voters.map(\.key))
        if before.symmetricDifference(after).count > 1 {
            fail("R15: \(id) changes more than one voter at \(offset)")
        }
    }

    private func isSnapshotEnd(_ offset: Offset, _ highWatermark: Offset) -> Bool {
        offset == highWatermark && !committedVoters.contains { $0.offset == Int(offset.rawValue) }
    }
}
