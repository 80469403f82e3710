import Essentials
import Logging
import Metadata
import NIOCore
import Storage

/// A log that could be compacted, as it was at some moment.
struct CompactionCandidate: Sendable {
    let replica: Replica
    var survey: CompactionSurvey
    let policy: CompactionPolicy
}

/// What a replica does for the compaction of its log; every replica's log is compacted by itself, so that
/// below the high watermark they may differ in records that have been superseded.
extension Replica {
    /// What there is to compact; `nil` for a topic that isn't compacted, or a log that can't be now.
    ///
    /// - Parameter wallClock: milliseconds since 1970.
    func compactionCandidate(wallClock: Int64) -> CompactionCandidate? {
        eventLoop.preconditionInEventLoop()
        guard let log, offlineReason == nil, let policy = settings.compaction else { return nil }
        do throws(LogError) {
            try log.rollForCompaction(policy, now: wallClock)
        } catch {
            environment.logger.warning(
                "cannot close a segment for compaction, trying again later",
                metadata: ["partition": "\(name)", "error": "\(error)"])
        }
        // Only what is durable takes another record's place; where nobody else flushes, this does.
        if log.durableOffset < highWatermark { flushSoon() }
        let survey = log.compactionSurvey(
            below: log.lastStableOffset(highWatermark: highWatermark),
            committedEnd: highWatermark)
        return CompactionCandidate(replica: self, survey: survey, policy: policy)
    }

    /// Lets the log read from what was compacted; `nil` when that is of no use any more.
    func install(_ segment: CompactedSegment) -> RetiredSegments? {
        eventLoop.preconditionInEventLoop()
        guard let log, offlineReason == nil else { return nil }
        do throws(LogError) {
            return try log.install(segment)
        } catch {
            if case .offline(let reason) = error { goOffline(reason) }
            environment.logger.error(
                "cannot put a compacted segment in place, trying again later",
                metadata: ["partition": "\(name)", "error": "\(error)"])
            return nil
        }
    }

    /// The log is compacted up to `offset`.
    func compacted(to offset: Offset, _ survey: CompactionSurvey) {
        eventLoop.preconditionInEventLoop()
        log?.compacted(to: offset, survey)
    }

    /// Compaction has met with an error; returns whether that means anything.
    func compactionFailed(_ survey: CompactionSurvey, _ error: LogError) -> Bool {
        eventLoop.preconditionInEventLoop()
        // What it read may have been cut, or removed, under its eyes.
        guard let log, offlineReason == nil, !log.isOutdated(survey) else { return false }
        if case .offline(let reason) = error { goOffline(reason) }
        return true
    }
}

extension CompactionPolicy {
    init(_ image: MetadataImage, _ topic: String) {
        self.init()
        minDirtyRatio = image.minCleanableDirtyRatio(topic: topic)
        minLag = image.minCompactionLag(topic: topic)
        maxLag = image.maxCompactionLag(topic: topic)
        deleteRetention = image.deleteRetention(topic: topic)
    }
}
