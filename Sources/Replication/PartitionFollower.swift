package import Essentials

/// A follower of one partition in one leader epoch: what to ask the leader for, and what to do with
/// its answers (KIP-101, KIP-279, KIP-595).
///
/// It decides; the driver performs an `Action` on the log and reports the log's new ends. An answer
/// counts only while the follower is still where it was when it asked.
package struct PartitionFollower: Sendable {
    /// What the next fetch says of this partition.
    package struct Position: Equatable, Sendable {
        package var leaderEpoch: LeaderEpoch
        package var offset: Offset
        package var lastFetchedEpoch: LeaderEpoch
        package var durableEnd: Offset
        package var logStartOffset: Offset
        package var highWatermark: Offset

        package init(
            leaderEpoch: LeaderEpoch, offset: Offset, lastFetchedEpoch: LeaderEpoch,
            durableEnd: Offset, logStartOffset: Offset, highWatermark: Offset
        ) {
            self.leaderEpoch = leaderEpoch
            self.offset = offset
            self.lastFetchedEpoch = lastFetchedEpoch
            self.durableEnd = durableEnd
            self.logStartOffset = logStartOffset
            self.highWatermark = highWatermark
        }
    }

    /// A leader's answer for this partition.
    package struct Answer: Equatable, Sendable {
        package enum Content: Equatable, Sendable {
            /// Record batches from `fetchOffset` on; `nil` when nothing new is there.
            case batches(Batches?)
            /// The logs part: the end at the leader of the newest epoch it shares, or may share.
            case diverging(EpochEnd)
            /// The position is outside the leader's log, which starts at `logStartOffset`.
            case outOfRange
        }
        package var leaderEpoch: LeaderEpoch
        /// The offset that was asked for.
        package var fetchOffset: Offset
        /// The newest epoch below it, as told with the question.
        package var lastFetchedEpoch: LeaderEpoch
        package var highWatermark: Offset
        package var logStartOffset: Offset
        package var content: Content

        package init(
            leaderEpoch: LeaderEpoch, fetchOffset: Offset, lastFetchedEpoch: LeaderEpoch,
            highWatermark: Offset, logStartOffset: Offset, content: Content
        ) {
            self.leaderEpoch = leaderEpoch
            self.fetchOffset = fetchOffset
            self.lastFetchedEpoch = lastFetchedEpoch
            self.highWatermark = highWatermark
            self.logStartOffset = logStartOffset
            self.content = content
        }
    }

    /// What a follower must know of a run of batches, in their order.
    package struct Batches: Equatable, Sendable {
        package var baseOffset: Offset
        package var endOffset: Offset
        package var firstEpoch: LeaderEpoch
        package var lastEpoch: LeaderEpoch

        package init(
            baseOffset: Offset, endOffset: Offset, firstEpoch: LeaderEpoch, lastEpoch: LeaderEpoch
        ) {
            self.baseOffset = baseOffset
            self.endOffset = endOffset
            self.firstEpoch = firstEpoch
            self.lastEpoch = lastEpoch
        }
    }

    package enum Action: Equatable, Sendable {
        /// A late, repeated or foreign answer: nothing to do.
        case ignore
        /// Append the batches, then report `appended`.
        case append
        /// Nothing to write; report what has changed with the high watermark.
        case nothingNew
        /// Remove everything from this offset on, then report `truncated`. Possibly nothing but an epoch
        /// without records, which must go too.
        case truncate(to: Offset)
        /// Remove everything and start anew at this offset, then report `restarted`.
        case restart(at: Offset)
        /// The batches break a rule: do not append, ask again.
        case refuse(Violation)
    }

    package enum Violation: Equatable, Sendable {
        /// The batches start below, or run backwards from, the offset asked for.
        case notContiguous
        /// A batch is of a newer epoch than the leader's, or of an older one than our log's last.
        case impossibleEpoch(LeaderEpoch)
    }

    package let leader: NodeID
    package let leaderEpoch: LeaderEpoch
    package private(set) var logStartOffset: Offset
    package private(set) var logEndOffset: Offset
    package private(set) var durableEnd: Offset
    /// The newest epoch in the log, one without records too; `none` for an empty log.
    package private(set) var lastEpoch: LeaderEpoch
    /// The smaller of the leader's and our log end; falls only when the leader's log demands it.
    package private(set) var highWatermark: Offset
    /// The leader's high watermark, as last heard in this epoch.
    private var leaderHighWatermark: Offset = 0

    package init(
        leader: NodeID, leaderEpoch: LeaderEpoch, logStartOffset: Offset, logEndOffset: Offset,
        durableEnd: Offset, lastEpoch: LeaderEpoch, highWatermark: Offset
    ) {
        invariant(
            logStartOffset <= logEndOffset && durableEnd <= logEndOffset
                && highWatermark <= logEndOffset,
            "start \(logStartOffset), hw \(highWatermark), durable \(durableEnd), end \(logEndOffset)"
        )
        self.leader = leader
        self.leaderEpoch = leaderEpoch
        self.logStartOffset = logStartOffset
        self.logEndOffset = logEndOffset
        self.durableEnd = durableEnd
        self.lastEpoch = lastEpoch
        self.highWatermark = max(highWatermark, logStartOffset)
    }

    package var position: Position {
        Position(
            leaderEpoch: leaderEpoch, offset: logEndOffset, lastFetchedEpoch: lastEpoch,
            durableEnd: durableEnd, logStartOffset: logStartOffset, highWatermark: highWatermark)
    }

    /// Judges an answer.
    ///
    /// - Parameter epochEnd: our own log's end offset for an epoch.
    package mutating func received(
        _ answer: Answer, epochEnd: (LeaderEpoch) -> EpochEnd
    ) -> Action {
        // A late answer: of another leader epoch, or to a question asked before an append or truncation.
        // The offset alone does not tell: a log that was cut can have grown back to its old length.
        guard answer.leaderEpoch == leaderEpoch, answer.fetchOffset == logEndOffset,
            answer.lastFetchedEpoch == lastEpoch
        else { return .ignore }
        switch answer.content {
        case .diverging(let leaderEnd):
            // Tells of epochs only: the leader's high watermark and log start are not taken from it.
            return truncation(for: leaderEnd, ownEnd: epochEnd(leaderEnd.epoch))
        case .outOfRange:
            // Our end is below the leader's start, so what lies between is gone for good; or our log is
            // empty; or the leader holds nothing as old as our newest epoch, so that not one record can
            // be common. Wherever epochs can be compared the answer is `diverging` instead.
            return .restart(at: answer.logStartOffset)
        case .batches(let batches?):
            if let violation = violation(in: batches) { return .refuse(violation) }
            leaderHighWatermark = max(leaderHighWatermark, answer.highWatermark)
            return .append
        case .batches(nil):
            leaderHighWatermark = max(leaderHighWatermark, answer.highWatermark)
            raiseHighWatermark()
            return .nothingNew
        }
    }

    private func truncation(for leaderEnd: EpochEnd, ownEnd: EpochEnd) -> Action {
        // Where we lack the leader's epoch, our newest older one ends at or before our next newer one:
        // what lies above cannot be the leader's. The next fetch asks about that older epoch.
        let common = min(leaderEnd.endOffset, ownEnd.endOffset, logEndOffset)
        guard ownEnd.epoch != .none, common >= logStartOffset else {
            return .restart(at: min(leaderEnd.endOffset, logStartOffset))
        }
        return .truncate(to: common)
    }

    private func violation(in batches: Batches) -> Violation? {
        // A log that starts where its leader's does may start within a batch.
        let startsWithin = logStartOffset == logEndOffset && batches.endOffset > logEndOffset
        guard batches.baseOffset >= logEndOffset || startsWithin,
            batches.endOffset > batches.baseOffset
        else { return .notContiguous }
        guard batches.firstEpoch >= lastEpoch else {
            return .impossibleEpoch(batches.firstEpoch)
        }
        guard batches.lastEpoch >= batches.firstEpoch, batches.lastEpoch <= leaderEpoch else {
            return .impossibleEpoch(batches.lastEpoch)
        }
        return nil
    }

    // MARK: What the driver did

    package mutating func appended(to end: Offset, lastEpoch: LeaderEpoch) {
        invariant(end >= logEndOffset, "an append moved the log end from \(logEndOffset) to \(end)")
        invariant(lastEpoch <= leaderEpoch, "epoch \(lastEpoch) in a follower of \(leaderEpoch)")
        logEndOffset = end
        self.lastEpoch = lastEpoch
        raiseHighWatermark()
    }

    package mutating func madeDurable(to end: Offset) {
        // A flush that was under way when the log was truncated.
        guard end <= logEndOffset else { return }
        durableEnd = max(durableEnd, end)
    }

    package mutating func truncated(
        to end: Offset, durableEnd newDurableEnd: Offset, lastEpoch: LeaderEpoch
    ) {
        invariant(end <= logEndOffset, "truncated from \(logEndOffset) to \(end)")
        logEndOffset = end
        durableEnd = min(durableEnd, newDurableEnd, end)
        self.lastEpoch = lastEpoch
        // Only an unclean election can ask for this: committed records are in every clean leader.
        highWatermark = min(highWatermark, end)
    }

    package mutating func restarted(at start: Offset, durableEnd: Offset) {
        logStartOffset = start
        logEndOffset = start
        self.durableEnd = min(durableEnd, start)
        lastEpoch = .none
        highWatermark = start
    }

    package mutating func startMoved(to start: Offset) {
        logStartOffset = max(logStartOffset, min(start, logEndOffset))
        highWatermark = max(highWatermark, logStartOffset)
    }

    private mutating func raiseHighWatermark() {
        highWatermark = max(highWatermark, min(leaderHighWatermark, logEndOffset))
    }

    /// Traps if the state contradicts itself; for the simulator, after every step.
    package func checkInvariants() {
        invariant(
            logStartOffset <= highWatermark && highWatermark <= logEndOffset
                && durableEnd <= logEndOffset,
            "start \(logStartOffset), hw \(highWatermark), durable \(durableEnd), end \(logEndOffset)"
        )
    }
}
