import Essentials

/// What a leader knows of one follower in the current leader epoch.
struct FollowerProgress: Equatable, Sendable {
    /// Set by the first fetch in this leader epoch; nothing of an earlier epoch is trusted.
    private(set) var brokerEpoch: BrokerEpoch?
    /// Everything below is appended at the follower.
    private(set) var position: Offset?
    /// Where the follower's log starts.
    private(set) var logStartOffset: Offset?
    /// Everything below counts towards the high watermark and for joining the ISR.
    private(set) var countedEnd: Offset?
    /// When the leader's log last ended where the follower's counted log ends now, or earlier.
    private(set) var caughtUpAt: MonotonicTime?
    /// The log end at some moment; once the follower counts up to it, it was caught up at that moment.
    private var mark: (time: MonotonicTime, end: Offset)?

    /// A member of the ISR starts an epoch as caught up, so that it has the full lag time to show itself.
    init(isInSync: Bool, logEnd: Offset, now: MonotonicTime) {
        if isInSync { startLagTime(logEnd: logEnd, now: now) }
    }

    /// Counts the follower as caught up now, unless it has been before.
    mutating func startLagTime(logEnd: Offset, now: MonotonicTime) {
        guard caughtUpAt == nil else { return }
        caughtUpAt = now
        mark = (now, logEnd)
    }

    mutating func record(
        brokerEpoch: BrokerEpoch, position: Offset, logStart: Offset?, countedEnd: Offset,
        logEnd: Offset, now: MonotonicTime
    ) {
        self.brokerEpoch = brokerEpoch
        self.position = position
        logStartOffset = logStart
        self.countedEnd = countedEnd
        if countedEnd >= logEnd {
            caughtUpAt = now
            mark = (now, logEnd)
        } else if let mark, countedEnd < mark.end {
            // Still on the way to the mark. Moving it with each fetch would let a busy leader outrun a
            // follower that is never more than a moment behind.
        } else {
            if let mark { caughtUpAt = mark.time }
            mark = (now, logEnd)
        }
    }

    func isLagging(logEnd: Offset, maxLag: Duration, now: MonotonicTime) -> Bool {
        if let countedEnd, countedEnd >= logEnd { return false }
        guard let caughtUpAt else { return true }
        return now - caughtUpAt > maxLag
    }

    static func == (left: FollowerProgress, right: FollowerProgress) -> Bool {
        left.brokerEpoch == right.brokerEpoch && left.position == right.position
            && left.logStartOffset == right.logStartOffset
            && left.countedEnd == right.countedEnd && left.caughtUpAt == right.caughtUpAt
            && left.mark?.time == right.mark?.time && left.mark?.end == right.mark?.end
    }
}
