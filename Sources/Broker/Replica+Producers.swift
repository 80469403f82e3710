import Essentials
import Logging
import Replication
import Storage

/// When a replica forgets producers that have been idle for long.
///
/// An idle producer is one whose newest timestamp is older than `expiration` and that has appended
/// nothing for as long, as far back as this process has seen. So no clock that steps, and no timestamp that
/// a client makes up, lets an active producer be forgotten; and a restart does not keep idle ones for
/// ever. Replicas may differ for a while in which idle producers they still know.
struct ProducerExpiry {
    /// Where the log ended at some time.
    private struct Mark {
        var time: MonotonicTime
        var end: Offset
    }

    let expiration: Duration
    private let interval: Duration
    /// The newest that is old enough, or where the log ended when it was opened; then those since.
    private var marks: [Mark]
    private(set) var nextPass: MonotonicTime

    /// - Parameter end: where the log ends now; who has appended below may have been idle since then.
    init(expiration: Duration, end: Offset, now: MonotonicTime) {
        self.expiration = expiration
        interval = max(.seconds(1), min(.seconds(3_600), expiration / 8))
        marks = [Mark(time: now - expiration, end: end)]
        nextPass = now + interval
    }

    /// Below which offset a producer's last batch has to lie now for it to count as idle.
    mutating func pass(now: MonotonicTime, end: Offset) -> Offset {
        nextPass = now + interval
        // The log may have been cut.
        for index in marks.indices { marks[index].end = min(marks[index].end, end) }
        marks.append(Mark(time: now, end: end))
        let old = marks.lastIndex { now - $0.time >= expiration } ?? 0
        marks.removeFirst(old)
        return marks[0].end
    }
}

extension Replica {
    /// The end, exclusive, of what a leader lets clients read.
    func readableEnd(_ isolation: ReadIsolation) -> Offset {
        guard let log, let highWatermark = leader?.highWatermark else { return 0 }
        switch isolation {
        case .uncommitted: return highWatermark
        case .committed: return log.lastStableOffset(highWatermark: highWatermark)
        }
    }

    /// Lets go of what is known of producers that have been idle for long, every now and then.
    func expireProducers(now: MonotonicTime) {
        guard var expiry = producerExpiry, now >= expiry.nextPass, let log else { return }
        let limit = expiry.pass(now: now, end: log.logEndOffset)
        producerExpiry = expiry
        let (cutoff, overflow) = environment.wallClock().subtractingReportingOverflow(
            expiry.expiration.milliseconds)
        guard !overflow else { return }
        let count = log.expireProducers(before: cutoff, belowOffset: limit)
        guard count > 0 else { return }
        environment.logger.debug(
            "forgot idle producers", metadata: ["partition": "\(name)", "count": "\(count)"])
    }
}
