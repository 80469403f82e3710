package import Essentials

/// Requests that are due, and the time of the next thing that will be.
extension RaftNode {
    /// When `step` must be called next at the latest; `distantFuture` if only input can matter.
    package var nextDeadline: MonotonicTime {
        guard halted == nil else { return .distantFuture }
        switch role {
        case .resigned(let resigned):
            return earliest(resigned.deadline, resigned.notices)
        case .unattached(let unattached):
            guard canCampaign else {
                return isElectionDurable ? unattached.search.due : .distantFuture
            }
            return unattached.deadline
        case .prospective(let campaign), .candidate(let campaign):
            // The round begins when the election state is durable.
            guard isElectionDurable else { return .distantFuture }
            return min(earliest(campaign.deadline, campaign.errands), campaign.search.due)
        case .follower(let follower):
            return canFetch(follower)
                ? min(follower.deadline, follower.fetch.due) : follower.deadline
        case .leader(let leader):
            let waits = leader.parked.values.map(\.deadline).min() ?? .distantFuture
            let deadline =
                breaks(.leadWithoutMajority) ? .distantFuture : checkQuorumDeadline(leader)
            return min(
                earliest(deadline, leader.notices), waits,
                leader.transfer?.deadline ?? .distantFuture,
                earliest(.distantFuture, leader.readRound?.errands ?? [:]),
                leader.readRound?.deadline ?? .distantFuture)
        }
    }

    private func earliest(
        _ deadline: MonotonicTime, _ errands: [NodeID: Errand]
    ) -> MonotonicTime {
        guard isElectionDurable else { return deadline }
        return errands.values.reduce(deadline) { min($0, $1.due) }
    }

    /// Whether a fetch may be sent: it says that everything before it is durable.
    private func canFetch(_ follower: Follower) -> Bool {
        guard isElectionDurable, follower.health != .resigned else { return false }
        return !config.isDurable || log.durableEnd == log.endOffset
            || breaks(.fetchBeforeDurable)
    }

    mutating func sendWhatIsDue(_ now: MonotonicTime) {
        guard halted == nil else { return }
        if case .leader = role { serveParkedFetches(now) }
        guard isElectionDurable else { return }
        switch role {
        case .resigned(var resigned):
            let request = EndQuorumEpochRequest(
                leader: local.id, epoch: election.epoch,
                preferredSuccessors: resigned.preferredSuccessors)
            send(.endQuorumEpoch(request), for: &resigned.notices, now)
            role = .resigned(resigned)
        case .unattached(var unattached):
            guard !canCampaign, now >= unattached.search.due else { return }
            search(among: serversToAsk(), &unattached.search, now)
            role = .unattached(unattached)
        case .prospective(var campaign):
            sendVoteRequests(&campaign, isPreVote: true, now)
            if now >= campaign.search.due { search(among: bootstrap, &campaign.search, now) }
            role = .prospective(campaign)
        case .candidate(var campaign):
            sendVoteRequests(&campaign, isPreVote: false, now)
            role = .candidate(campaign)
        case .follower(var follower):
            dropForeignDownload(follower)
            guard canFetch(follower), now >= follower.fetch.due else { return }
            let request =
                downloadRequest()
                ?? .fetch(fetchRequest(canWait: follower.health == .alive && follower.hasFetched))
            let id = send(request, to: follower.leader)
            follower.fetch = Errand(outstanding: id, due: now + config.requestTimeout)
            role = .follower(follower)
        case .leader(var leader):
            beginReadRound(&leader, now)
            sendNotices(&leader.notices, now)
            if var round = leader.readRound {
                sendNotices(&round.errands, now)
                leader.readRound = round
            }
            role = .leader(leader)
        }
    }

    /// Tells the voters that we lead.
    private mutating func sendNotices(_ errands: inout [NodeID: Errand], _ now: MonotonicTime) {
        for voter in voterSet?.voters ?? [] {
            guard let errand = errands[voter.id], now >= errand.due else { continue }
            let request = BeginQuorumEpochRequest(
                leader: local.id, epoch: election.epoch, voter: voter.key)
            errands[voter.id] = Errand(
                outstanding: send(.beginQuorumEpoch(request), to: voter.id),
                due: now + config.requestTimeout)
        }
    }

    private mutating func send(_ request: RaftRequest, to peer: NodeID) -> RequestID {
        let id = newRequestID()
        effects.append(.send(request, to: peer, id: id))
        return id
    }

    private mutating func send(
        _ request: RaftRequest, for errands: inout [NodeID: Errand], _ now: MonotonicTime
    ) {
        for peer in errands.keys.sorted() where now >= errands[peer]?.due ?? .distantFuture {
            errands[peer] = Errand(
                outstanding: send(request, to: peer), due: now + config.requestTimeout)
        }
    }

    private mutating func sendVoteRequests(
        _ campaign: inout Campaign, isPreVote: Bool, _ now: MonotonicTime
    ) {
        for voter in voterSet?.voters ?? [] {
            guard let errand = campaign.errands[voter.id], now >= errand.due else { continue }
            let request = VoteRequest(
                candidate: local, epoch: election.epoch, lastEpoch: log.lastEpoch,
                endOffset: log.endOffset, isPreVote: isPreVote, voter: voter.key)
            campaign.errands[voter.id] = Errand(
                outstanding: send(.vote(request), to: voter.id), due: now + config.requestTimeout)
        }
    }

    /// - Parameter canWait: False when what matters is that an answer comes at all.
    private func fetchRequest(canWait: Bool) -> FetchRequest {
        FetchRequest(
            replica: local, epoch: election.epoch, fetchOffset: log.endOffset,
            lastFetchedEpoch: log.lastEpoch, highWatermark: highWatermark,
            maxWait: canWait ? config.maxFetchWait : .zero, isDurable: config.isDurable)
    }

    /// Whom an observer asks who leads: at first the voters that may have elected another one.
    private func serversToAsk() -> [NodeID] {
        let electors = otherVoters().filter { $0 != election.leader }
        let isPatient = contactPatience >= config.requestTimeout
        return electors.isEmpty || isPatient ? otherVoters() + bootstrap : electors
    }

    /// Asks somebody who leads; only the leader would take the fetch for one.
    private mutating func search(
        among servers: [NodeID], _ search: inout Errand, _ now: MonotonicTime
    ) {
        guard !servers.isEmpty else {
            search = .done
            return
        }
        let peer = servers[randomIndex(below: servers.count)]
        // Should it be the leader, it counts the fetch: it must claim no more than what is durable.
        var request = fetchRequest(canWait: false)
        request.fetchOffset = log.durableEnd
        request.lastFetchedEpoch = log.epoch(before: log.durableEnd)
        let id = send(.fetch(request), to: peer)
        // Whoever was asked last may be paused, like the leader that is missed perhaps.
        if search.outstanding != nil { losePatience() }
        search = Errand(
            outstanding: id, due: now + (canCampaign ? config.requestTimeout : contactPatience))
    }

    /// The request will get no answer: it is sent again a little later.
    mutating func requestFailed(_ id: RequestID, _ now: MonotonicTime) {
        let again = Errand.due(now + randomBackoff())
        switch role {
        case .resigned(var resigned):
            if retry(id, in: &resigned.notices, again) != nil { role = .resigned(resigned) }
        case .unattached(var unattached):
            guard unattached.search.outstanding == id else { return }
            unattached.search = again
            role = .unattached(unattached)
        case .prospective(var campaign):
            if campaign.search.outstanding == id { campaign.search = again }
            role = .prospective(campaign)
            guard let voter = retry(id, in: &campaign.errands, again) else { return }
            campaign.ballots[voter] = .missing(isUnreachable: true)
            role = .prospective(campaign)
        case .candidate(var campaign):
            guard let voter = retry(id, in: &campaign.errands, again) else { return }
            campaign.ballots[voter] = .missing(isUnreachable: true)
            role = .candidate(campaign)
        case .follower(var follower):
            guard follower.fetch.outstanding == id else { return }
            follower.fetch = again
            role = .follower(follower)
        case .leader(var leader):
            // A voter that stays away is not chased: it finds the leader when it comes back.
            let isNew = now < leader.since + config.fetchTimeout
            let later = isNew ? again : Errand.due(now + config.fetchTimeout / 2)
            if var round = leader.readRound, retry(id, in: &round.errands, again) != nil {
                leader.readRound = round
                role = .leader(leader)
            } else if retry(id, in: &leader.notices, later) != nil {
                role = .leader(leader)
            }
        }
    }

    private func retry(
        _ id: RequestID, in errands: inout [NodeID: Errand], _ again: Errand
    ) -> NodeID? {
        guard let peer = errands.first(where: { $0.value.outstanding == id })?.key else {
            return nil
        }
        errands[peer] = again
        return peer
    }
}
