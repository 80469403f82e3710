import Essentials

/// How a replica moves from role to role.
extension RaftNode {
    /// Makes every change of role that time or a majority demands.
    mutating func passDeadlines(_ now: MonotonicTime) {
        while halted == nil, passOneDeadline(now) {}
    }

    /// Returns whether the role changed.
    private mutating func passOneDeadline(_ now: MonotonicTime) -> Bool {
        switch role {
        case .resigned(let resigned):
            guard now >= resigned.deadline else { return false }
            if canCampaign {
                becomeProspective(goingBackTo: nil, now)
            } else {
                becomeUnattached(now)
            }
        case .unattached(let unattached):
            guard canCampaign, now >= unattached.deadline else { return false }
            becomeProspective(goingBackTo: nil, now)
        case .prospective where !canCampaign, .candidate where !canCampaign:
            becomeUnattached(now)
        case .prospective(let campaign):
            return passProspectiveDeadline(campaign, now)
        case .candidate(let campaign):
            return passCandidateDeadline(campaign, now)
        case .follower(let follower):
            guard now >= follower.deadline else { return false }
            if canCampaign {
                let isGone = follower.health == .resigned
                becomeProspective(goingBackTo: isGone ? nil : follower.leader, now)
            } else {
                if !follower.hasFetched { losePatience() }
                becomeUnattached(now)
            }
        case .leader(let leader):
            if isInOffice(leader, now), !isRemoved(leader) {
                return passTransfer(leader, now) || passReadRound(leader, now)
            }
            resign(leader, now)
        }
        return true
    }

    private mutating func passProspectiveDeadline(
        _ campaign: Campaign, _ now: MonotonicTime
    ) -> Bool {
        guard isElectionDurable else { return false }
        if hasMajority(campaign) {
            becomeCandidate(now)
            return true
        }
        if let leader = campaign.leader {
            guard now >= campaign.deadline || !canBeWon(campaign, countingUnreachable: true) else {
                return false
            }
            enter(.follower(follower(of: leader, now)))
            return true
        }
        guard now >= campaign.deadline else { return false }
        becomeProspective(goingBackTo: nil, now)
        return true
    }

    private mutating func passCandidateDeadline(
        _ campaign: Campaign, _ now: MonotonicTime
    ) -> Bool {
        // Our own vote counts once it is durable.
        guard isElectionDurable else { return false }
        if hasMajority(campaign) {
            becomeLeader(campaign, now)
            return true
        }
        if now >= campaign.deadline {
            becomeProspective(goingBackTo: nil, now)
            return true
        }
        if !campaign.isHopeless, !canBeWon(campaign, countingUnreachable: false) {
            // Another round can start sooner, but not at the same moment as another loser's.
            var campaign = campaign
            campaign.isHopeless = true
            campaign.deadline = min(
                campaign.deadline,
                now + random(in: config.electionTimeout / 20...config.electionTimeout / 4))
            role = .candidate(campaign)
        }
        return false
    }

    /// Our own vote counts if we are a voter of the set in force.
    private var ownVotes: Int { isVoter ? 1 : 0 }

    private func hasMajority(_ campaign: Campaign) -> Bool {
        guard let voters = voterSet else { return false }
        let needed = voters.majority - (breaks(.electByMinority) && voters.count > 1 ? 1 : 0)
        return ownVotes + campaign.count(.granted) >= needed
    }

    private func canBeWon(_ campaign: Campaign, countingUnreachable: Bool) -> Bool {
        guard let voters = voterSet else { return false }
        let open =
            campaign.count(.missing(isUnreachable: false))
            + (countingUnreachable ? campaign.count(.missing(isUnreachable: true)) : 0)
        return ownVotes + campaign.count(.granted) + open >= voters.majority
    }

    // MARK: - Transitions

    /// Takes on a role of the current epoch, and settles what the last one left open.
    mutating func enter(_ newRole: Role) {
        let oldRole = role
        role = newRole
        guard case .leader(let leader) = oldRole else { return }
        for token in leader.waitingReads + (leader.readRound?.tokens ?? []) {
            effects.append(.readRefused(token))
        }
        if let transfer = leader.transfer {
            let outcome = TransferOutcome.notLeader(self.leader, epoch: election.epoch)
            effects.append(.transferred(transfer.token, outcome))
        }
        effects.append(.stoppedLeading(epoch: leader.epoch))
        for key in leader.parked.keys.sorted() {
            guard let parked = leader.parked[key] else { continue }
            answerNotLeader(parked.token)
        }
    }

    /// Enters a newer epoch, in which nobody has this replica's vote yet.
    mutating func enterEpoch(_ epoch: LeaderEpoch, leader: NodeID?) {
        invariant(epoch > election.epoch, "epoch \(epoch) after \(election.epoch)")
        election = ElectionState(epoch: epoch, leader: leader)
        persistElectionState(isBarrier: true)
    }

    /// Waits, without a leader, in the current epoch.
    mutating func becomeUnattached(_ now: MonotonicTime) {
        // A message of a newer epoch does not put off a campaign that was due.
        var deadline = now + randomElectionTimeout()
        if case .unattached(let unattached) = role { deadline = min(deadline, unattached.deadline) }
        enter(.unattached(Unattached(deadline: deadline, search: .due(now))))
    }

    mutating func becomeProspective(goingBackTo leader: NodeID?, _ now: MonotonicTime) {
        if breaks(.skipPreVote) {
            becomeCandidate(now)
            return
        }
        var campaign = newCampaign(leader: leader, now)
        if leader == nil, !bootstrap.isEmpty {
            campaign.search = .due(now + config.electionTimeout / 2)
        }
        enter(.prospective(campaign))
    }

    private mutating func becomeCandidate(_ now: MonotonicTime) {
        guard election.epoch < ElectionState.maxEpoch else {
            halt(.epochsExhausted)
            return
        }
        election = ElectionState(epoch: election.epoch.next, votedFor: local)
        persistElectionState(isBarrier: true)
        enter(.candidate(newCampaign(leader: nil, now)))
    }

    private mutating func newCampaign(leader: NodeID?, _ now: MonotonicTime) -> Campaign {
        let others = otherVoters()
        return Campaign(
            deadline: now + randomElectionTimeout(), leader: leader,
            ballots: Dictionary(
                uniqueKeysWithValues: others.map { ($0, .missing(isUnreachable: false)) }),
            errands: Dictionary(uniqueKeysWithValues: others.map { ($0, .due(now)) }),
            search: .done)
    }

    mutating func becomeFollower(of leader: NodeID, _ now: MonotonicTime) {
        if election.leader != leader {
            election.leader = leader
            persistElectionState(isBarrier: false)
        }
        enter(.follower(follower(of: leader, now)))
    }

    /// Waits longer for the next one that an observer asks.
    mutating func losePatience() {
        contactPatience = min(contactPatience * 2, config.requestTimeout)
    }

    mutating func follower(of leader: NodeID, _ now: MonotonicTime) -> Follower {
        let timeout = canCampaign ? randomFetchTimeout() : contactPatience
        return Follower(leader: leader, deadline: now + timeout, fetch: .due(now))
    }

    private mutating func becomeLeader(_ campaign: Campaign, _ now: MonotonicTime) {
        let others = otherVoters()
        election.leader = local.id
        persistElectionState(isBarrier: false)
        let epochStart = log.endOffset
        enter(
            .leader(
                Leader(
                    epoch: election.epoch, epochStart: epochStart, since: now,
                    voters: Dictionary(
                        uniqueKeysWithValues: others.map { ($0, ReplicaProgress()) }),
                    notices: Dictionary(uniqueKeysWithValues: others.map { ($0, .due(now)) }))))
        log.append(through: epochStart, epoch: election.epoch)
        let granting = campaign.ballots.filter { $0.value == .granted }.keys
        effects.append(
            .appendLeaderChange(
                LeaderChange(
                    leader: local.id, epoch: election.epoch, offset: epochStart,
                    voters: voterSet?.ids ?? [],
                    grantingVoters: (granting + (isVoter ? [local.id] : [])).sorted())))
        // The set that the directories were formatted with; from here on it is in the log.
        if voters.currentOffset == nil, let voterSet { append(voterSet) }
    }

    /// What a leader must not do after a restart; only tests ask for it.
    mutating func resumeLeading(_ now: MonotonicTime) {
        becomeLeader(newCampaign(leader: nil, now), now)
    }

    /// Stops leading, for good in this epoch, and names the successors.
    mutating func resign(
        _ leader: Leader, inFavourOf first: NodeID? = nil, _ now: MonotonicTime
    ) {
        let successors = leader.voters.sorted { left, right in
            if (left.key == first) != (right.key == first) { return left.key == first }
            return (right.value.endOffset ?? -1, left.key)
                < (left.value.endOffset ?? -1, right.key)
        }
        enter(
            .resigned(
                Resigned(
                    deadline: now + randomElectionTimeout(),
                    preferredSuccessors: successors.map(\.key),
                    notices: Dictionary(
                        uniqueKeysWithValues: otherVoters().map { ($0, .due(now)) }))))
    }

    /// Takes in what a message says of the epoch and its leader.
    mutating func observe(epoch: LeaderEpoch, leader: NodeID?, _ now: MonotonicTime) {
        guard epoch >= election.epoch, canReach(epoch) else { return }
        // We would know if we led. It need not be a voter that we know of: our set may be old.
        let leader = leader.flatMap { $0 != local.id && $0 >= 0 ? $0 : nil }
        if epoch > election.epoch {
            enterEpoch(epoch, leader: leader)
            if let leader {
                enter(.follower(follower(of: leader, now)))
            } else {
                becomeUnattached(now)
            }
            return
        }
        guard let leader else { return }
        switch role {
        case .unattached, .candidate:
            becomeFollower(of: leader, now)
        case .prospective(let campaign):
            // The leader that we suspect is no news.
            if campaign.leader == nil { becomeFollower(of: leader, now) }
        case .resigned, .follower, .leader:
            // Known, or wrong: an epoch has one leader.
            break
        }
    }

    /// Whether a message may take this replica into that epoch.
    ///
    /// An observer makes no epochs, and may have been away for any number of them.
    func canReach(_ epoch: LeaderEpoch) -> Bool {
        isVoter ? election.canReach(epoch) : epoch <= ElectionState.maxEpoch
    }

    func otherVoters() -> [NodeID] {
        (voterSet?.ids ?? []).filter { $0 != local.id }
    }

    /// The voter is unreachable, or a connection to it broke.
    mutating func connectionLost(to peer: NodeID, _ now: MonotonicTime) {
        guard case .follower(var follower) = role, follower.leader == peer,
            follower.health == .alive
        else { return }
        guard canCampaign else {
            // The voters may go on naming the lost leader for a while: ask them at ease.
            becomeUnattached(now)
            if case .unattached(var unattached) = role {
                unattached.search = .due(now + randomBackoff())
                role = .unattached(unattached)
            }
            return
        }
        // It may be just the connection: a fetch that succeeds before then clears the suspicion.
        follower.health = .connectionLost
        follower.fetch = .due(now)
        follower.deadline = min(
            follower.deadline, now + random(in: config.connectionLostDelay))
        role = .follower(follower)
    }
}
