import Essentials

/// Votes and pre-votes, asked for and given.
extension RaftNode {
    mutating func handleVote(
        _ request: VoteRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        guard request.voter.id == local.id, request.candidate.id != local.id,
            request.candidate.id >= 0,
            request.epoch >= 0, canReach(request.epoch), request.endOffset >= 0,
            request.lastEpoch <= request.epoch, config.isDurable
        else {
            effects.append(.refuse(token))
            return
        }
        // The vote of another disk under our id is not ours to give: it may be given already. Nor
        // does an epoch in which we are not asked concern us before it has a leader.
        guard request.voter.matches(local) || breaks(.voteForOtherDirectory) else {
            effects.append(.refuse(token))
            return
        }
        // An epoch is real once its candidate persisted it; a pre-vote invents none.
        observe(epoch: request.epoch, leader: nil, now)
        let isGranted = request.epoch == election.epoch && grants(request)
        if isGranted {
            if request.isPreVote, !breaks(.preVoteCastsVote) {
                giveWay(now)
            } else {
                castVote(for: request.candidate, now)
            }
        }
        answer(
            token,
            .vote(VoteResponse(epoch: election.epoch, leader: leader, isGranted: isGranted)))
    }

    /// Whether the request, which is of our epoch, gets what it asks for.
    ///
    /// A replica that takes itself for an observer decides like a voter: its voter set may be old.
    private func grants(_ request: VoteRequest) -> Bool {
        let isNewEnough =
            log.isCovered(byLogEndingAt: request.endOffset, epoch: request.lastEpoch)
            || breaks(.voteForAnyLog)
        switch role {
        case .leader:
            return false
        case .follower(let follower):
            // While the leader is heard from, nobody needs another one.
            let hearsLeader = follower.hasFetched && follower.health == .alive
            return request.isPreVote && isNewEnough && !hearsLeader
        case .resigned, .candidate:
            if breaks(.voteTwice), !request.isPreVote { return isNewEnough }
            return request.isPreVote && isNewEnough
        case .unattached, .prospective:
            guard !request.isPreVote else { return isNewEnough }
            let isFree = election.votedFor == nil || election.votedFor == request.candidate
            return isNewEnough && election.leader == nil && (isFree || breaks(.voteTwice))
        }
    }

    private mutating func castVote(for candidate: ReplicaKey, _ now: MonotonicTime) {
        if election.votedFor != candidate {
            election.votedFor = candidate
            if !breaks(.voteNotPersisted) { persistElectionState(isBarrier: true) }
        }
        enter(
            .unattached(
                Unattached(deadline: now + randomElectionTimeout(), search: .due(now))))
    }

    /// Leaves the replica that asked a moment to win, instead of splitting the votes with it.
    private mutating func giveWay(_ now: MonotonicTime) {
        let delay =
            config.connectionLostDelay.upperBound + random(in: config.connectionLostDelay)
        switch role {
        case .unattached(var unattached):
            unattached.deadline = max(unattached.deadline, now + delay)
            role = .unattached(unattached)
        case .follower(var follower):
            follower.deadline = max(follower.deadline, now + delay)
            role = .follower(follower)
        case .resigned, .prospective, .candidate, .leader:
            break
        }
    }

    mutating func handleVoteResponse(
        _ response: VoteResponse, to id: RequestID, _ now: MonotonicTime
    ) {
        observe(epoch: response.epoch, leader: response.leader, now)
        // Any other response is late: the round it belongs to is over.
        guard response.epoch == election.epoch else { return }
        switch role {
        case .prospective(var campaign):
            record(response, to: id, in: &campaign, isFinal: false, now)
            role = .prospective(campaign)
        case .candidate(var campaign):
            record(response, to: id, in: &campaign, isFinal: true, now)
            role = .candidate(campaign)
        case .resigned, .unattached, .follower, .leader:
            break
        }
    }

    private mutating func record(
        _ response: VoteResponse, to id: RequestID, in campaign: inout Campaign, isFinal: Bool,
        _ now: MonotonicTime
    ) {
        guard let voter = campaign.errands.first(where: { $0.value.outstanding == id })?.key
        else { return }
        campaign.ballots[voter] = response.isGranted ? .granted : .refused
        // A vote that was refused stays so; a pre-vote depends on what the voter has noticed.
        campaign.errands[voter] =
            response.isGranted || isFinal ? .done : .due(now + randomBackoff() * 3)
    }

    // MARK: - The beginning and the end of an epoch

    mutating func handleBegin(
        _ request: BeginQuorumEpochRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        observe(epoch: request.epoch, leader: request.leader, now)
        guard request.voter.matches(local) else {
            effects.append(.refuse(token))
            return
        }
        if request.epoch == election.epoch {
            switch role {
            case .prospective(let campaign):
                // The leader that we suspected is alive.
                if campaign.leader == request.leader { becomeFollower(of: request.leader, now) }
            case .follower(var follower):
                if follower.leader == request.leader, follower.fetch.outstanding == nil {
                    follower.fetch.due = now
                    role = .follower(follower)
                }
            case .resigned, .unattached, .candidate, .leader:
                break
            }
        }
        answer(
            token, .beginQuorumEpoch(EpochResponse(epoch: election.epoch, leader: leader)))
    }

    mutating func handleEnd(
        _ request: EndQuorumEpochRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        observe(epoch: request.epoch, leader: nil, now)
        if request.epoch == election.epoch {
            let position =
                request.preferredSuccessors.firstIndex(of: local.id)
                ?? request.preferredSuccessors.count
            let delay = position == 0 ? .zero : randomSuccessorDelay(position)
            switch role {
            case .follower(var follower) where follower.leader == request.leader:
                follower.health = .resigned
                follower.deadline = min(follower.deadline, now + delay)
                role = .follower(follower)
            case .unattached(var unattached) where election.votedFor == nil:
                unattached.deadline = min(unattached.deadline, now + delay)
                role = .unattached(unattached)
            case .prospective(var campaign) where campaign.leader == request.leader:
                campaign.leader = nil
                role = .prospective(campaign)
            case .resigned, .unattached, .prospective, .candidate, .follower, .leader:
                break
            }
        }
        answer(token, .endQuorumEpoch(EpochResponse(epoch: election.epoch, leader: leader)))
    }

    /// Successors further down the list wait longer, so that one campaigns at a time.
    private mutating func randomSuccessorDelay(_ position: Int) -> Duration {
        let step = config.electionTimeout / 10
        return step * min(position, 10) + random(in: .zero...step)
    }

    mutating func handleNoticeResponse(
        _ response: EpochResponse, to id: RequestID, _ now: MonotonicTime
    ) {
        observe(epoch: response.epoch, leader: response.leader, now)
        switch role {
        case .leader(var leader):
            if confirm(response, to: id, now) { return }
            guard let voter = leader.notices.first(where: { $0.value.outstanding == id })?.key
            else { return }
            // It knows; if it does not come to fetch, it is told again.
            leader.notices[voter] = .due(now + config.fetchTimeout / 2)
            role = .leader(leader)
        case .resigned(var resigned):
            guard let voter = resigned.notices.first(where: { $0.value.outstanding == id })?.key
            else { return }
            resigned.notices[voter] = .done
            role = .resigned(resigned)
        case .unattached, .prospective, .candidate, .follower:
            break
        }
    }
}
