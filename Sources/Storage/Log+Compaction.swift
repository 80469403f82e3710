package import Essentials

/// Compaction: what is decided, and written, elsewhere takes effect here.
///
/// `survey`, then on any thread a `LogCompaction`; each segment that it makes comes back here, to
/// `install`, and goes on to `CompactedSegment.settle` on any thread; in the end `compacted`.
///
/// A compacted log has no gaps: where whole batches were removed, a batch without records stands for
/// their offsets (`RecordBatches.placeholder`), one for each leader epoch. So bytes that are missing are
/// noticed in such a log as in any other, by recovery, by followers and by readers; and where epochs
/// begin can still be told from the batches alone.
///
/// Replicas are compacted one by one, so that below the high watermark they may differ in what is left
/// of a key's older records, and in nothing else.
extension Log {
    /// What there is to compact in the log, and with.
    ///
    /// - Parameters:
    ///   - limit: everything below is committed, and in no transaction that is still open.
    ///   - committedEnd: everything below is committed.
    package func compactionSurvey(
        below limit: Offset, committedEnd: Offset? = nil
    ) -> CompactionSurvey {
        // What takes the place of a record has to last at least as long as that would have.
        let limit = min(limit, durableOffset)
        let committedEnd = max(limit, min(committedEnd ?? limit, durableOffset))
        let items = segments.enumerated().map { index, segment in
            let isActive = index == segments.count - 1
            return CompactionSurvey.Item(
                baseOffset: segment.baseOffset,
                endOffset: isActive ? logEndOffset : segments[index + 1].baseOffset,
                size: segment.size, isActive: isActive, maxTimestamp: segment.maxTimestamp)
        }
        return CompactionSurvey(
            items: items, start: logStartOffset, firstDirty: firstDirtyOffset, limit: limit,
            committedEnd: committedEnd, generation: generation, config: config,
            directory: directory, fileSystem: fileSystem, files: files, health: health,
            store: store, producers: Set(producers.states.producers.keys), permit: files.permit)
    }

    /// Everything below was compacted.
    package var firstDirtyOffset: Offset {
        guard let compactedTo, compactedTo <= logEndOffset else { return logStartOffset }
        return max(compactedTo, logStartOffset)
    }

    /// Closes the segment that is written if its first record is so old that it may not wait for more to
    /// be compacted; otherwise a topic where nothing happens would never be.
    ///
    /// - Parameter now: milliseconds since 1970.
    package func rollForCompaction(_ policy: CompactionPolicy, now: Int64) throws(LogError) {
        let limit = [policy.maxLag, config.segmentAge].compactMap { $0 }.min()
        guard let limit, active.size > 0, let oldest = active.firstTimestamp, oldest >= 0,
            CompactionSurvey.age(of: oldest, now) > limit
        else { return }
        try roll()
    }

    /// Whether what a survey says may not be true any more, for other reasons than compaction.
    package func isOutdated(_ survey: CompactionSurvey) -> Bool {
        refusal != nil || survey.generation != generation || survey.start != logStartOffset
    }

    /// Lets the log read from `compacted` in place of the segments that it was made of.
    ///
    /// - Returns: the segments that the log has no more, for `RetiredSegments.remove` when `settle` has
    ///   renamed them; `nil` if the log has changed since, and `compacted` is of no use.
    package func install(_ compacted: CompactedSegment) throws(LogError) -> RetiredSegments? {
        guard refusal == nil, compacted.generation == generation,
            let first = segments.firstIndex(where: { $0.baseOffset == compacted.baseOffset }),
            first + compacted.sources.count < segments.count
        else { return nil }
        let old = segments[first..<(first + compacted.sources.count)]
        // Retention may have taken some of them.
        guard
            zip(old, compacted.sources).allSatisfy({
                $0.baseOffset == $1.baseOffset && $0.size == $1.size
            }),
            segments[old.endIndex].baseOffset == compacted.endOffset
        else { return nil }
        let segment = Segment(
            baseOffset: compacted.baseOffset, directory: directory, size: compacted.size,
            durableSize: compacted.size, index: compacted.index, fileSystem: fileSystem,
            interval: compacted.index.interval)
        do throws(FileError) {
            guard try files.installSwap(compacted.name) else { return nil }
        } catch {
            // Otherwise nobody can tell which of the two has the name now.
            guard error.isOutOfSpace else { throw goOffline(.io(error)) }
            throw .io(error)
        }
        let retired = RetiredSegments(
            names: old.dropFirst().map(\.name), folder: files, health: health,
            byteCount: old.reduce(0) { $0 + $1.size } - compacted.size)
        recentlyRead.removeAll { read in old.contains { $0 === read } }
        segments.replaceSubrange(old.indices, with: CollectionOfOne(segment))
        noteRead(segment)
        recent.forget(below: compacted.endOffset)
        files.retire(retired.names)
        // Nothing is wrong with the log without it, and a start after a crash makes it anew.
        try? producers.transactions.forget(markers: compacted.removedMarkers)
        return retired
    }

    /// Takes note that all below `offset` is compacted; `ended` was noted with `LogCompaction.finish`.
    package func compacted(to offset: Offset, _ survey: CompactionSurvey) {
        guard survey.generation == generation else { return }
        compactedTo = offset
    }
}

/// A segment that takes the place of others; no log knows of it yet.
package struct CompactedSegment: Sendable {
    struct Source: Sendable {
        let baseOffset: Offset
        let size: Int
    }

    let sources: [Source]
    let endOffset: Offset
    let size: Int
    let index: SegmentIndex
    let removedMarkers: Set<Offset>
    let generation: UInt64
    let directory: String
    let fileSystem: any FileSystem
    let folder: LogFolder
    let health: StorageHealth

    var baseOffset: Offset { index.baseOffset }
    var name: SegmentName { SegmentName(baseOffset) }

    /// Ends what `Log.install` began, or calls it off if that was not done; on any thread, and blocking.
    package func settle() throws(LogError) {
        // What is on the disk can't be told any more, so that neither may go before the next start.
        try health.check()
        let segment = Segment(
            baseOffset: baseOffset, directory: directory, size: size, durableSize: size,
            index: index, fileSystem: fileSystem, interval: index.interval)
        try health.watch { () throws(FileError) in
            try folder.settleSwap { segment.writeIndex() }
        }
    }
}
