package import Essentials

/// The leader of one partition in one leader epoch: what is committed, and who is in sync.
///
/// A new leader epoch, with the same leader too, is a new value: nothing that a follower said in an
/// earlier epoch counts (KIP-101, KIP-497, KIP-841, KIP-966).
///
/// Of a change of the ISR, these are the states:
/// - *settled*: the ISR is what the metadata log says.
/// - *in flight*: one proposal is under way. Those it adds count at once, those it drops still count.
/// - *unsettled*: the outcome of a proposal is unknown. The larger set counts, and new proposals follow,
///   until the partition epoch moves: at most one proposal can have been accepted in each.
package struct PartitionLeader: Sendable {
    package struct Configuration: Equatable, Sendable {
        /// `min.insync.replicas`; no more than there are replicas is ever asked for.
        package var minInSyncReplicas: Int
        /// `replica.lag.time.max.ms`.
        package var maxReplicaLag: Duration
        /// Whether only what is on stable storage counts (`flush.policy=commit`).
        package var countsDurableOnly: Bool
        /// How long to wait after a proposal that was not accepted before the next.
        package var proposalRetryDelay: Duration

        package init(
            minInSyncReplicas: Int, maxReplicaLag: Duration = .seconds(30),
            countsDurableOnly: Bool = true, proposalRetryDelay: Duration = .milliseconds(100)
        ) {
            self.minInSyncReplicas = minInSyncReplicas
            self.maxReplicaLag = maxReplicaLag
            self.countsDurableOnly = countsDurableOnly
            self.proposalRetryDelay = proposalRetryDelay
        }
    }

    package enum Effect: Equatable, Sendable {
        /// The high watermark is now this: records below it may be read and acknowledged.
        case advanceHighWatermark(to: Offset)
        /// Send this to the active controller; report with `proposalSettled`.
        case propose(ISRProposal)
        /// The ISR is now too small for `acks=all`: what waits has an unknown outcome.
        case fellBelowMinISR
    }

    package let id: NodeID
    package let leaderEpoch: LeaderEpoch
    /// The log end when this epoch began: everything committed before it lies below.
    package let epochStartOffset: Offset
    /// What the metadata log, or an accepted proposal, says; always of this leader's epoch.
    package internal(set) var assignment: PartitionAssignment
    package internal(set) var configuration: Configuration
    package private(set) var logStartOffset: Offset
    package private(set) var logEndOffset: Offset
    /// How far our own log counts: its durable end, or its end where durability is not waited for.
    package private(set) var countedEnd: Offset
    /// Never falls.
    package private(set) var highWatermark: Offset

    /// Every other replica; reset with each leader epoch and when a replica leaves the assignment.
    var followers: [NodeID: FollowerProgress]
    var brokers: [NodeID: BrokerStatus]
    var inFlight: ISRProposal?
    /// Members of proposals of unknown outcome that build on the current partition epoch.
    var unsettledMembers: Set<NodeID> = []
    /// What those proposals asked for.
    var unsettledISRs: [Set<NodeID>] = []
    var attempts: UInt64 = 0
    /// No proposal leaves before this.
    var retryAt = MonotonicTime.zero
    /// Whether a proposal failed since the last one was considered.
    var isRetryDue = false
    private var wasBelowMinISR: Bool

    /// - Parameters:
    ///   - highWatermark: what this replica knew as a follower, or from its checkpoint.
    ///   - brokers: every broker that is registered, or at least the replicas.
    package init(
        id: NodeID, assignment: PartitionAssignment, configuration: Configuration,
        brokers: [NodeID: BrokerStatus], logStartOffset: Offset, logEndOffset: Offset,
        durableEnd: Offset, highWatermark: Offset, now: MonotonicTime
    ) {
        invariant(assignment.leader == id, "\(id) leads in \(assignment)")
        invariant(
            highWatermark <= logEndOffset && durableEnd <= logEndOffset
                && logStartOffset <= logEndOffset,
            "start \(logStartOffset), hw \(highWatermark), durable \(durableEnd), end \(logEndOffset)"
        )
        self.id = id
        self.assignment = assignment
        self.configuration = configuration
        self.brokers = brokers
        self.leaderEpoch = assignment.leaderEpoch
        self.epochStartOffset = logEndOffset
        self.logStartOffset = logStartOffset
        self.logEndOffset = logEndOffset
        self.countedEnd = configuration.countsDurableOnly ? durableEnd : logEndOffset
        self.highWatermark = max(highWatermark, logStartOffset)
        self.followers = [:]
        for replica in assignment.replicas where replica != id {
            followers[replica] = FollowerProgress(
                isInSync: assignment.isr.contains(replica), logEnd: logEndOffset, now: now)
        }
        wasBelowMinISR = false
        wasBelowMinISR = isBelowMinISR
    }

    /// What follows from the initial state alone, as when this replica is the whole ISR.
    package mutating func start(now: MonotonicTime) -> [Effect] {
        consequences(now: now)
    }

    // MARK: The log

    /// Our own log now ends at `end`.
    package mutating func appended(to end: Offset, now: MonotonicTime) -> [Effect] {
        invariant(end >= logEndOffset, "a leader's log fell from \(logEndOffset) to \(end)")
        logEndOffset = end
        guard !configuration.countsDurableOnly else { return [] }
        countedEnd = end
        return advance()
    }

    /// Our own log is on stable storage up to `end`.
    package mutating func madeDurable(to end: Offset, now: MonotonicTime) -> [Effect] {
        invariant(end <= logEndOffset, "durable \(end) past the log end \(logEndOffset)")
        guard end > countedEnd else { return [] }
        countedEnd = end
        return advance()
    }

    /// Retention or a deletion of records moved the log's start.
    package mutating func startMoved(to start: Offset) {
        invariant(start <= highWatermark, "log start \(start) past the HW \(highWatermark)")
        logStartOffset = max(logStartOffset, start)
    }

    // MARK: Followers

    /// Judges a follower's fetch and, only if it is to be served, counts what it says.
    ///
    /// - Parameter epochEnd: our log's end offset for an epoch.
    package mutating func fetched(
        _ fetch: FollowerFetch, epochEnd: (LeaderEpoch) -> EpochEnd, now: MonotonicTime
    ) -> (verdict: FetchVerdict, effects: [Effect]) {
        guard fetch.leaderEpoch == leaderEpoch else {
            let refusal: FetchVerdict.Refusal =
                fetch.leaderEpoch < leaderEpoch ? .fencedLeaderEpoch : .unknownLeaderEpoch
            return (.refused(refusal), [])
        }
        guard var progress = followers[fetch.follower] else { return (.refused(.notAReplica), []) }
        // An older incarnation's late fetch says nothing of what the running one holds.
        let newest = max(
            progress.brokerEpoch ?? .none, brokers[fetch.follower]?.epoch ?? .none)
        guard fetch.brokerEpoch >= newest else { return (.refused(.staleBrokerEpoch), []) }
        if let verdict = disagreement(with: fetch, epochEnd: epochEnd) { return (verdict, []) }
        let durableEnd = min(fetch.durableEnd, fetch.position)
        progress.record(
            brokerEpoch: fetch.brokerEpoch, position: fetch.position,
            logStart: fetch.logStartOffset,
            countedEnd: configuration.countsDurableOnly ? durableEnd : fetch.position,
            logEnd: logEndOffset, now: now)
        followers[fetch.follower] = progress
        return (.serve, consequences(now: now))
    }

    /// Why the fetch cannot be served from its position; `nil` if the logs agree below it.
    private func disagreement(
        with fetch: FollowerFetch, epochEnd: (LeaderEpoch) -> EpochEnd
    ) -> FetchVerdict? {
        // Below our start there is nothing to compare with: the follower starts anew at our start.
        guard fetch.position >= logStartOffset else { return .refused(.offsetOutOfRange) }
        guard fetch.lastFetchedEpoch != .none else {
            return fetch.position <= logEndOffset ? nil : .refused(.offsetOutOfRange)
        }
        let end = epochEnd(fetch.lastFetchedEpoch)
        guard end.epoch == fetch.lastFetchedEpoch, end.endOffset >= fetch.position else {
            // Its history is older than all of ours that is left: nothing in common to cut back to.
            return end.epoch == .none ? .refused(.offsetOutOfRange) : .diverging(end)
        }
        return nil
    }

    /// Whether there is something for a follower that was last told what `fetch` says.
    package func hasNews(for fetch: FollowerFetch) -> Bool {
        if logEndOffset > fetch.position { return true }
        if let start = fetch.logStartOffset, min(logStartOffset, fetch.position) > start {
            return true
        }
        return min(highWatermark, fetch.position) > fetch.highWatermark
    }

    /// The smallest log start of all that may lead next without a loss, as far as it is known.
    package var leastLogStart: Offset {
        var least = logStartOffset
        for replica in awaitedReplicas where replica != id {
            least = min(least, followers[replica]?.logStartOffset ?? 0)
        }
        return least
    }

    // MARK: Metadata

    /// The metadata log's newest word on this partition, in this leader epoch.
    package mutating func apply(
        _ newAssignment: PartitionAssignment, now: MonotonicTime
    ) -> [Effect] {
        invariant(
            newAssignment.leaderEpoch == leaderEpoch && newAssignment.leader == id,
            "leader \(id) of epoch \(leaderEpoch) was given \(newAssignment)")
        // The answer to our own proposal can be ahead of the metadata log, and the other way round.
        guard newAssignment.partitionEpoch >= assignment.partitionEpoch else { return [] }
        if newAssignment.partitionEpoch > assignment.partitionEpoch {
            forgetOutsiders(of: newAssignment)
            settle(on: newAssignment, now: now)
        } else {
            // The answer did not say who is eligible outside the ISR, or offline; the log does.
            assignment.eligibleLeaderReplicas = newAssignment.eligibleLeaderReplicas
            assignment.offlineReplicas = newAssignment.offlineReplicas
        }
        return consequences(now: now)
    }

    /// Brokers came, went, were fenced or unfenced, or the topic's settings changed.
    package mutating func update(
        brokers: [NodeID: BrokerStatus], configuration: Configuration, now: MonotonicTime
    ) -> [Effect] {
        self.brokers = brokers
        self.configuration = configuration
        if !configuration.countsDurableOnly { countedEnd = logEndOffset }
        return consequences(now: now)
    }

    // MARK: Time

    /// When `tick` has something to do next, if nothing else happens.
    package var nextDeadline: MonotonicTime? { nextISRDeadline }

    package mutating func tick(now: MonotonicTime) -> [Effect] {
        consequences(now: now)
    }

    // MARK: Clients

    /// `min.insync.replicas`, as far as there are replicas.
    package var effectiveMinISR: Int {
        min(configuration.minInSyncReplicas, assignment.replicas.count)
    }

    /// Whether `acks=all` is refused: too few replicas are known to be in sync.
    package var isBelowMinISR: Bool { assignment.isr.count < effectiveMinISR }

    /// The end of what is committed; `nil` until it is known to be no smaller than any earlier answer.
    package var latestOffset: Offset? {
        highWatermark >= epochStartOffset ? highWatermark : nil
    }

    // MARK: The high watermark

    /// All that follows from the state as it is now.
    mutating func consequences(now: MonotonicTime) -> [Effect] {
        var effects = advance()
        if isBelowMinISR != wasBelowMinISR {
            wasBelowMinISR = isBelowMinISR
            if isBelowMinISR { effects.append(.fellBelowMinISR) }
        }
        if let proposal = nextProposal(now: now) { effects.append(.propose(proposal)) }
        return effects
    }

    private mutating func advance() -> [Effect] {
        // Below the minimum the controller may count replicas outside the ISR as eligible leaders.
        guard !isBelowMinISR else { return [] }
        var committed = countedEnd
        for member in awaitedReplicas where member != id {
            // Not heard of in this epoch: it may hold nothing of it.
            guard let end = followers[member]?.countedEnd else { return [] }
            committed = min(committed, end)
        }
        guard committed > highWatermark else { return [] }
        highWatermark = committed
        return [.advanceHighWatermark(to: committed)]
    }

    /// Traps if the state contradicts itself; for the simulator, after every step.
    package func checkInvariants() {
        invariant(
            logStartOffset <= highWatermark && highWatermark <= logEndOffset
                && countedEnd <= logEndOffset,
            "start \(logStartOffset), hw \(highWatermark), end \(logEndOffset)")
        invariant(assignment.isr.contains(id), "leader \(id) outside its ISR \(assignment.isr)")
        invariant(
            Set(assignment.isr + assignment.eligibleLeaderReplicas).isSubset(of: awaitedReplicas),
            "\(assignment) is not contained in \(awaitedReplicas)")
        invariant(
            followers.count == assignment.replicas.count - 1 && followers[id] == nil,
            "followers of \(assignment)")
    }
}
