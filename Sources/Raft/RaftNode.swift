package import Essentials

/// One replica of the metadata quorum: Raft in the pull form of KIP-595, with the directory ids of
/// KIP-853 and the pre-votes of KIP-996.
///
/// It decides and does nothing else: `step` takes what happened and the time, and returns what to
/// do. It relies on its driver for this:
/// - Effects are performed in order, and nothing else is done in between.
/// - Appends and truncations have happened when the driver goes on to the next effect; if one
///   fails, the driver drops this value and starts another from what is on disk.
/// - Whatever is appended is then made durable, without being asked, and reported.
/// - A snapshot that was fetched is durable and verified before `snapshotInstalled` is reported; from
///   then on it counts at a restart, whatever the log says.
/// - `step` is called at `nextDeadline` at the latest, and once to begin with.
///
/// Nothing leaves the replica before the epoch and the vote it follows from are durable. Requests
/// simply aren't sent until then; answers are held.
package struct RaftNode: Sendable {
    package let local: ReplicaKey
    package let config: RaftConfig
    /// Pseudo ids, which no replica has, of the servers to ask for the leader first.
    let bootstrap: [NodeID]
    /// The voter sets of the snapshot and the log; the newest is in force.
    package internal(set) var voters: VoterHistory
    package internal(set) var election: ElectionState
    package internal(set) var log: LogState
    package internal(set) var role: Role
    /// The newest snapshot this replica has.
    package internal(set) var snapshot: SnapshotID?
    /// The one before it, which is still served.
    var olderSnapshot: SnapshotID?
    /// The snapshot that is fetched or verified.
    package internal(set) var download: SnapshotDownload?
    /// Everything below is known to be committed; never falls while the replica runs.
    package internal(set) var highWatermark: Offset?
    /// Set when the replica found that it can't go on.
    package internal(set) var halted: HaltReason?

    var effects: [RaftEffect] = []
    private var generator: SeededGenerator
    private var lastRequestID: UInt64 = 0
    /// Writes of the election state: how many were asked for, and how many are durable.
    private var lastWrite: UInt64 = 0
    private var durableWrite: UInt64 = 0
    /// The write that must be durable before anything leaves: the last to change epoch or vote.
    ///
    /// A leader's name need not be durable: it follows from votes that are.
    private var barrier: UInt64 = 0
    /// Answers that wait for a write, in order.
    private var held: [(barrier: UInt64, effect: RaftEffect)] = []
    private var announced: (leader: NodeID?, epoch: LeaderEpoch)
    /// How long an observer waits when it asks who leads, and for that leader's first answer.
    ///
    /// Whoever it asked may be paused, and who told it may not have noticed the leader's end yet: so
    /// it soon asks another one; but each time later, as the ways may be long.
    var contactPatience: Duration

    /// A replica that starts with what its disk holds.
    ///
    /// - Parameter election: As last persisted. If its epoch is below the log's, it is older than
    ///   the log and its vote counts for nothing: the replica starts in the log's epoch, without
    ///   a vote there.
    /// - Parameter voters: Those in the newest snapshot, and in the log from its end on.
    /// - Parameter bootstrap: Ids below -1 that stand for the servers to search for the leader.
    /// - Parameter snapshot: The newest one, whole and durable, and not below the log's start. If
    ///   the log does not go through its end, the log is reset to it: an installation goes on.
    package init(
        local: ReplicaKey, voters: VoterHistory, bootstrap: [NodeID] = [], config: RaftConfig,
        election: ElectionState, log: LogState, snapshot: SnapshotID? = nil,
        generator: SeededGenerator, now: MonotonicTime
    ) {
        invariant(log.isValid, "log \(log)")
        self.local = local
        self.bootstrap = bootstrap
        self.config = config
        self.log = log
        self.snapshot = snapshot
        self.voters = voters
        self.generator = generator
        self.election = election
        announced = (nil, election.epoch)
        contactPatience = config.firstContactPatience
        role = .unattached(Unattached(deadline: now, search: .due(now)))
        if let snapshot { resume(from: snapshot) }
        self.voters.truncate(to: self.log.endOffset)
        if election.epoch < self.log.lastEpoch {
            self.election = .voteSpent(in: self.log.lastEpoch)
            announced.epoch = self.election.epoch
            persistElectionState(isBarrier: true)
        }
        role = initialRole(now)
        if breaks(.leadAfterRestart), case .resigned = role { resumeLeading(now) }
    }

    private mutating func initialRole(_ now: MonotonicTime) -> Role {
        // A lone voter has nobody to wait for.
        let delay = isVoter && otherVoters().isEmpty ? .zero : randomElectionTimeout()
        if let leader = election.leader, leader != local.id {
            return .follower(follower(of: leader, now))
        }
        if election.leader == local.id, canCampaign {
            // We led this epoch and may have lost records of it that others have: whatever we
            // append now must carry another epoch.
            return .resigned(
                Resigned(deadline: now + delay, preferredSuccessors: [], notices: [:]))
        }
        return .unattached(Unattached(deadline: now + delay, search: .due(now)))
    }

    /// The voter set in force; `nil` while this replica has not learned of any.
    package var voterSet: VoterSet? { voters.current }

    /// Whether this replica votes and campaigns, as far as it knows.
    package var isVoter: Bool { voterSet?.isVoter(local) ?? false }

    /// Whether this replica may ask for votes: it is a voter; or the last change removed it, and
    /// may not be committed.
    ///
    /// In the second case the others may lack the record, so that their logs don't get this
    /// replica's vote, which by their set they may need. It leads by the votes of the new set
    /// alone, until that is committed.
    package var canCampaign: Bool {
        // One that keeps nothing has no vote to give, whatever the set says.
        guard config.isDurable else { return false }
        guard !isVoter, let last = voters.entries.last else { return isVoter }
        return last.offset >= highWatermark ?? 0 && voters.previous?.isVoter(local) ?? false
    }

    /// The leader of the current epoch, as far as known and not known to have stepped down.
    package var leader: NodeID? {
        switch role {
        case .leader: local.id
        case .follower(let follower): follower.health == .resigned ? nil : follower.leader
        case .resigned, .unattached, .prospective, .candidate: nil
        }
    }

    /// Whether the current epoch and vote are durable, so that messages may leave.
    var isElectionDurable: Bool { durableWrite >= barrier }

    // MARK: - Stepping

    /// Handles one input at `now`, which never falls, and returns what to do, in order.
    package mutating func step(_ input: RaftInput, now: MonotonicTime) -> [RaftEffect] {
        guard halted == nil else { return [] }
        // Deadlines come first: a replica that was paused must not act on old confidence.
        passDeadlines(now)
        guard halted == nil else { return finishStep(now) }
        switch input {
        case .timePassed:
            break
        case .electionStatePersisted(let write):
            electionStatePersisted(write, now)
        case .logDurable(let end, let truncations):
            // A report from before a truncation may cover records that are gone.
            guard truncations == log.truncations else { break }
            log.markDurable(to: end)
            advanceLeaderHighWatermark()
        case .request(let request, let token):
            handle(request, token, now)
        case .response(let response, let id):
            handle(response, to: id, now)
        case .requestFailed(let id):
            requestFailed(id, now)
        case .connectionLost(let peer):
            connectionLost(to: peer, now)
        case .resign:
            if case .leader(let leader) = role { resign(leader, now) }
        case .transfer(let successor, let token):
            transfer(to: successor, token, now)
        case .read(let token):
            read(token, now)
        case .snapshotTaken(let id):
            snapshotTaken(id)
        case .snapshotInstalled(let id, let voters):
            snapshotInstalled(id, voters, now)
        case .snapshotFailed(let id):
            snapshotFailed(id, now)
        }
        return finishStep(now)
    }

    /// Appends a batch of `recordCount` records as leader of `epoch`.
    ///
    /// Nothing is promised: the batch is committed when the high watermark passes it, and void if
    /// the epoch ends before.
    package mutating func propose(
        recordCount: Int, epoch: LeaderEpoch, now: MonotonicTime
    ) throws(ProposeError) -> [RaftEffect] {
        invariant(recordCount > 0, "a batch of \(recordCount) records")
        guard halted == nil else { throw .notLeader(nil, epoch: election.epoch) }
        guard case .leader(let leading) = role, election.epoch == epoch else {
            throw .notLeader(leader, epoch: election.epoch)
        }
        // It has been paused and does not lead any more, and the next step will say so; or it is
        // about to hand over, and the successor need not chase it.
        guard isInOffice(leading, now), leading.transfer == nil else {
            throw .notLeader(nil, epoch: election.epoch)
        }
        let base = log.endOffset
        let span = BatchSpan(
            baseOffset: base, lastOffset: base + Int64(recordCount - 1), epoch: epoch)
        log.append(through: span.lastOffset, epoch: epoch)
        effects.append(.appendProposed(span))
        return finishStep(now)
    }

    mutating func finishStep(_ now: MonotonicTime) -> [RaftEffect] {
        passDeadlines(now)
        sendWhatIsDue(now)
        if announced != (leader, election.epoch) {
            announced = (leader, election.epoch)
            effects.append(.leaderChanged(leader, epoch: election.epoch))
        }
        if halted != nil { held = [] }
        defer { effects = [] }
        return effects
    }

    mutating func halt(_ reason: HaltReason) {
        halted = reason
        enter(.unattached(Unattached(deadline: .distantFuture, search: .done)))
        effects.append(.halt(reason))
    }

    private mutating func handle(
        _ request: RaftRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        switch request {
        case .vote(let request): handleVote(request, token, now)
        case .beginQuorumEpoch(let request): handleBegin(request, token, now)
        case .endQuorumEpoch(let request): handleEnd(request, token, now)
        case .fetch(let request): handleFetch(request, token, now)
        case .fetchSnapshot(let request): handleFetchSnapshot(request, token, now)
        }
    }

    private mutating func handle(
        _ response: RaftResponse, to id: RequestID, _ now: MonotonicTime
    ) {
        switch response {
        case .vote(let response): handleVoteResponse(response, to: id, now)
        case .fetch(let response): handleFetchResponse(response, to: id, now)
        case .fetchSnapshot(let response): handleFetchSnapshotResponse(response, to: id, now)
        case .beginQuorumEpoch(let response), .endQuorumEpoch(let response):
            handleNoticeResponse(response, to: id, now)
        }
    }

    // MARK: - The election state

    /// Asks for the election state to be made durable.
    ///
    /// - Parameter isBarrier: The epoch or the vote changed: nothing leaves before it is durable.
    mutating func persistElectionState(isBarrier: Bool) {
        lastWrite += 1
        if isBarrier, !breaks(.voteBeforeDurable) { barrier = lastWrite }
        effects.append(.persistElectionState(election, write: lastWrite))
    }

    private mutating func electionStatePersisted(_ write: UInt64, _ now: MonotonicTime) {
        guard write > durableWrite, write <= lastWrite else { return }
        let wasDurable = isElectionDurable
        durableWrite = write
        let released = held.prefix { $0.barrier <= durableWrite }
        effects += released.map(\.effect)
        held.removeFirst(released.count)
        guard !wasDurable, isElectionDurable else { return }
        // The round begins only now: nobody could be asked before.
        switch role {
        case .prospective(var campaign):
            campaign.deadline = now + randomElectionTimeout()
            role = .prospective(campaign)
        case .candidate(var campaign):
            campaign.deadline = now + randomElectionTimeout()
            role = .candidate(campaign)
        case .resigned, .unattached, .follower, .leader:
            break
        }
    }

    /// Answers a request once everything the answer may follow from is durable.
    mutating func answer(_ token: RequestToken, _ response: RaftResponse) {
        if isElectionDurable {
            effects.append(.answer(token, response))
        } else if held.count < config.maxHeldAnswers {
            held.append((barrier, .answer(token, response)))
        } else {
            effects.append(.refuse(token))
        }
    }

    mutating func newRequestID() -> RequestID {
        lastRequestID += 1
        return RequestID(rawValue: lastRequestID)
    }

    // MARK: - Randomness

    mutating func randomElectionTimeout() -> Duration {
        random(in: config.electionTimeout...(config.electionTimeout * 2))
    }

    /// Slightly spread, so that followers that heard from the leader together part ways.
    mutating func randomFetchTimeout() -> Duration {
        random(in: config.fetchTimeout...(config.fetchTimeout + config.electionTimeout / 8))
    }

    mutating func randomBackoff() -> Duration {
        random(in: config.retryBackoff...(config.retryBackoff * 3 / 2))
    }

    mutating func random(in range: ClosedRange<Duration>) -> Duration {
        .nanoseconds(
            Int64.random(
                in: range.lowerBound.nanoseconds...range.upperBound.nanoseconds,
                using: &generator))
    }

    mutating func randomIndex(below count: Int) -> Int {
        Int.random(in: 0..<count, using: &generator)
    }

    // MARK: - Rules that tests break

    func breaks(_ rule: BrokenRule) -> Bool {
        #if DEBUG
            config.brokenRule == rule
        #else
            false
        #endif
    }

    var anyRuleIsBroken: Bool {
        #if DEBUG
            config.brokenRule != nil
        #else
            false
        #endif
    }
}
