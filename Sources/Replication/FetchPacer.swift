package import Essentials

/// Decides when a follower's next fetch to one leader leaves.
///
/// The states, by what is under way:
/// - *appending*: an answer's batches are being appended. No fetch leaves: the positions are not known.
/// - *flushing*: they are appended but not yet durable. A fetch leaves only if more is waiting at the
///   leader, or the flush takes long: otherwise one that carries the new durable end follows in a moment,
///   and the leader commits on it.
/// - *parked*: a fetch waits at the leader for something new. One that carries a newer durable end, or a
///   changed set of partitions, supersedes it.
package struct FetchPacer: Sendable {
    package struct Configuration: Equatable, Sendable {
        /// How long a flush may hold back the next fetch.
        package var maxFlushWait: Duration = .milliseconds(10)
        /// A fetch unanswered for this long is taken to be parked.
        ///
        /// Superseding one that is about to be answered with batches would bring them twice.
        package var parkedAfter: Duration = .milliseconds(1)
        /// The wait after a failed fetch; doubles with each failure in a row.
        package var firstBackoff: Duration = .milliseconds(20)
        package var maxBackoff: Duration = .milliseconds(500)

        package init() {}
    }

    private var configuration: Configuration
    /// Fetches without an answer yet, oldest first; at most a parked one and one that supersedes it.
    private var outstanding: [(id: UInt64, sentAt: MonotonicTime)] = []
    /// Partitions whose batches are being appended.
    private var appending = 0
    /// Partitions whose appended batches are not durable yet.
    private var flushing = 0
    private var flushWaitEnds = MonotonicTime.zero
    private var leaderHasMore = false
    /// Something is worth telling the leader that no fetch has told it.
    private var hasNews = false
    private var retryAt = MonotonicTime.zero
    private var failuresInARow = 0
    private var lastID: UInt64 = 0

    package init(configuration: Configuration = Configuration()) {
        self.configuration = configuration
    }

    /// The id of the fetch to send now, if one is to be sent.
    package mutating func nextFetch(now: MonotonicTime) -> UInt64? {
        guard let time = sendTime, time <= now else { return nil }
        lastID += 1
        outstanding.append((lastID, now))
        leaderHasMore = false
        hasNews = false
        return lastID
    }

    /// When `nextFetch` will have something, if nothing else happens.
    package var nextDeadline: MonotonicTime? { sendTime }

    private var sendTime: MonotonicTime? {
        guard appending == 0 else { return nil }
        switch outstanding.count {
        case 0:
            let isHeldBack = flushing > 0 && !leaderHasMore
            return isHeldBack ? max(retryAt, flushWaitEnds) : retryAt
        case 1:
            guard hasNews, flushing == 0 else { return nil }
            return max(retryAt, outstanding[0].sentAt + configuration.parkedAfter)
        default:
            return nil
        }
    }

    /// A fetch was answered; `partitions` of those asked for have something to append or to truncate.
    package mutating func answered(
        _ id: UInt64, partitions: Int, leaderHasMore: Bool, now: MonotonicTime
    ) {
        outstanding.removeAll { $0.id == id }
        failuresInARow = 0
        appending += partitions
        self.leaderHasMore = leaderHasMore
        flushWaitEnds = now + configuration.maxFlushWait
    }

    /// A fetch failed as a whole.
    package mutating func failed(_ id: UInt64, now: MonotonicTime) {
        outstanding.removeAll { $0.id == id }
        let doublings = min(failuresInARow, 16)
        failuresInARow += 1
        let backoff = min(
            configuration.firstBackoff * (1 << doublings), configuration.maxBackoff)
        retryAt = max(retryAt, now + backoff)
    }

    /// Some partitions could not be served or appended to: do not ask again at once.
    package mutating func slowDown(now: MonotonicTime) {
        retryAt = max(retryAt, now + configuration.firstBackoff)
    }

    /// The batches of `partitions` are appended; `unsynced` of these now await a flush.
    package mutating func appended(partitions: Int, unsynced: Int) {
        appending -= partitions
        flushing += unsynced
        invariant(appending >= 0, "\(appending) partitions are being appended to")
        hasNews = true
    }

    /// The flush of `partitions` is over.
    package mutating func flushed(partitions: Int) {
        flushing -= partitions
        invariant(flushing >= 0, "\(flushing) partitions are being flushed")
        hasNews = true
    }

    /// The set of partitions, or an epoch, has changed.
    package mutating func partitionsChanged() {
        hasNews = true
    }
}
