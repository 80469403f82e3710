package import Essentials
import NIOCore
import Records

/// What a compaction has to keep to beside the topic's policy.
package struct CompactionOptions: Sendable {
    /// Milliseconds since 1970.
    package var now: Int64
    /// The bytes that the map of keys may take (`log.cleaner.dedupe.buffer.size`).
    package var memory = 128 << 20
    /// How long what is known of a producer's sequences is kept after its last batch.
    package var producerRetention = Duration.seconds(86_400)
    /// Called with the bytes that were read or are about to be written, and how far it is, from 0 to 1;
    /// may wait, and throws to stop.
    package var pace: @Sendable (Int, Double) throws(LogError) -> Void = { _, _ in }

    package init(now: Int64) {
        self.now = now
    }
}

/// What a compaction did.
package struct CompactionSummary: Sendable, Hashable {
    package var bytesBefore = 0
    package var bytesAfter = 0
    package var segmentsBefore = 0
    package var segmentsAfter = 0
    package var keptRecords = 0
    /// Records that a later one of the same key takes the place of.
    package var supersededRecords = 0
    package var removedTombstones = 0
    package var removedMarkers = 0
    /// Records of transactions that were aborted.
    package var abortedRecords = 0
    /// Records that have no key, as a topic may have from before it was compacted; they go.
    package var keylessRecords = 0
    /// Where the next one begins.
    package var endOffset: Offset = 0

    package init() {}

    package var removedRecords: Int {
        supersededRecords + removedTombstones + abortedRecords + keylessRecords
    }
}

/// One compaction of one log, off its owner's thread.
///
/// First `prepare`, which finds out where the last record of each key lies; then `next` again and again,
/// each time with what `Log.install` and `CompactedSegment.settle` do in between; then `finish`. The
/// oldest segments come first: a tombstone is never gone before what it hides.
///
/// A key's last record below `endOffset` stays, and all above that is left alone. Tombstones and markers
/// stay for `CompactionPolicy.deleteRetention` after all that they are about is gone. Also without records
/// the last batch of each producer stays, so that its sequences can be told from the log.
package struct LogCompaction: ~Copyable {
    package let survey: CompactionSurvey
    package let policy: CompactionPolicy
    package let options: CompactionOptions
    package private(set) var summary = CompactionSummary()
    /// Everything below is compacted in the end.
    package private(set) var endOffset: Offset

    private let need: CompactionNeed
    private let map: OffsetMap
    private var producers = ProducerEnds()
    private var fates: TransactionFates?
    /// Producers of which transactional records were kept since their last marker.
    private var unmarked: Set<Int64> = []
    /// Markers that are not in the segment that is being written any more.
    private var removedMarkers: Set<Offset> = []
    /// The segment that is next.
    private var nextItem = 0
    private var progress: CompactionProgress

    package init(
        _ survey: CompactionSurvey, policy: CompactionPolicy, options: CompactionOptions
    ) throws(LogError) {
        var survey = survey
        need = try survey.need(by: policy, now: options.now)
        self.survey = survey
        self.policy = policy
        self.options = options
        endOffset = need.endOffset
        // A record takes more than an entry only when many of them share a batch that compresses well.
        map = OffsetMap(memory: options.memory)
        progress = CompactionProgress(
            totalBytes: need.cleanBytes + 2 * need.dirtyBytes, pace: options.pace)
    }

    // MARK: The first pass

    /// Reads what is dirty; false when there is nothing that can be compacted.
    ///
    /// - Throws: `LogError.corruptBatch`, `missingRecords` and `epochFell` when the log is damaged.
    package mutating func prepare() throws(LogError) -> Bool {
        try survey.health.check()
        // What an earlier one had no room to end.
        try survey.health.watch { () throws(FileError) in try survey.files.settleSwap() }
        // While an earlier one is not at its end there can be no other.
        try survey.health.watch { () throws(FileError) in
            try survey.files.endFailedSwap(permit: survey.permit)
        }
        let first = survey.firstDirty
        var isFirst = true
        for index in survey.items.indices {
            let item = survey.items[index]
            guard item.baseOffset < endOffset else { break }
            guard item.endOffset > first else { continue }
            var reader = CompactionReader(survey.segment(item), survey.config)
            while let (header, batch) = try reader.next(&progress) {
                guard header.nextOffset > first else { continue }
                if fates == nil, header.isTransactional, !header.isControl {
                    fates = try findFates(from: item)
                    if let undecided = fates?.firstUndecided {
                        endOffset = min(endOffset, undecided)
                    }
                }
                guard header.baseOffset < endOffset else { break }
                let full =
                    producers.note(header)
                    ? try note(header, batch, reader) : max(header.baseOffset, first)
                guard let full else { continue }
                // A segment that is done in part only is to be read again.
                endOffset = isFirst ? full : item.baseOffset
            }
            isFirst = false
        }
        summary.endOffset = endOffset
        return endOffset > first
    }

    /// Notes a batch's keys; returns the offset of the first for which there was no room.
    private func note(
        _ header: RecordBatchHeader, _ batch: ByteBuffer, _ reader: CompactionReader
    ) throws(LogError) -> Offset? {
        // Nobody ever reads them, so that they hide nothing.
        guard !header.isControl, fates?.isAborted(header) != true else { return nil }
        var full: Offset?
        let (first, end) = (survey.firstDirty, endOffset)
        do throws(RecordError) {
            try RecordBatches.forEachRecord(of: batch, header) { record in
                guard record.offset < end else { return false }
                guard record.offset >= first else { return true }
                guard let key = record.key, !map.put(key, record.offset) else { return true }
                full = record.offset
                return false
            }
        } catch {
            throw reader.corrupt(error)
        }
        return full
    }

    /// Reads on to where the fate of every transaction shows that has records in what is compacted.
    private mutating func findFates(
        from start: CompactionSurvey.Item
    ) throws(LogError) -> TransactionFates {
        var fates = TransactionFates()
        for item in survey.items where item.baseOffset >= start.baseOffset {
            guard item.baseOffset < survey.committedEnd else { break }
            // Further on only as far as it takes.
            if item.baseOffset >= endOffset, fates.firstUndecided.map({ $0 >= endOffset }) ?? true {
                break
            }
            var reader = CompactionReader(survey.segment(item), survey.config)
            while let (header, batch) = try reader.next(&progress) {
                guard header.nextOffset <= survey.committedEnd else { break }
                fates.note(
                    header, marker: header.isControl ? TransactionMarker(ofBatch: batch) : nil)
            }
        }
        return fates
    }

    // MARK: The second pass

    /// Writes the next segment that differs from what it is made of; `nil` after the last.
    ///
    /// It is durable and counts if the process ends: it goes to `Log.install`, and then to `settle`,
    /// whatever comes of that.
    /// - Throws: besides what `prepare` does: `closed` when the log was truncated, or closed.
    package mutating func next() throws(LogError) -> CompactedSegment? {
        while nextItem < survey.items.count, survey.items[nextItem].baseOffset < endOffset {
            let first = survey.items[nextItem]
            var writer = CompactionWriter(survey, base: first.baseOffset)
            removedMarkers = []
            var isCommitting = false
            do throws(LogError) {
                var sources: [CompactedSegment.Source] = []
                var last = first
                while nextItem < survey.items.count, survey.items[nextItem].baseOffset < endOffset {
                    let item = survey.items[nextItem]
                    guard sources.isEmpty || writer.hasRoom(for: item) else { break }
                    try filter(item, into: &writer)
                    sources.append(.init(baseOffset: item.baseOffset, size: item.size))
                    last = item
                    nextItem += 1
                }
                try writer.finish(progress)
                summary.segmentsBefore += sources.count
                summary.segmentsAfter += 1
                summary.bytesBefore += sources.reduce(0) { $0 + $1.size }
                summary.bytesAfter += writer.size
                guard writer.isChanged || sources.count > 1 else {
                    writer.discard()
                    continue
                }
                try writer.sync()
                let segment = CompactedSegment(
                    sources: sources, endOffset: last.endOffset, size: writer.size,
                    index: writer.index, removedMarkers: removedMarkers,
                    generation: survey.generation,
                    directory: survey.directory, fileSystem: survey.fileSystem,
                    folder: survey.files, health: survey.health)
                isCommitting = true
                let isCommitted = try survey.health.watch { () throws(FileError) in
                    try survey.files.commitSwap(
                        segment.name, end: segment.endOffset, permit: survey.permit)
                }
                isCommitting = false
                guard isCommitted else { throw .closed }
                return segment
            } catch {
                // A mark may be there that speaks of the file.
                if !isCommitting { writer.discard() }
                throw error
            }
        }
        return nil
    }

    private mutating func filter(
        _ item: CompactionSurvey.Item, into writer: inout CompactionWriter
    ) throws(LogError) {
        var reader = CompactionReader(survey.segment(item), survey.config)
        while let (header, batch) = try reader.next(&progress) {
            let verdict: BatchVerdict
            do throws(RecordError) {
                verdict = try judge(header, batch)
            } catch {
                throw reader.corrupt(error)
            }
            try writer.add(header, batch, verdict, &progress)
        }
        guard reader.nextOffset == item.endOffset else {
            throw .missingRecords(from: reader.nextOffset, to: item.endOffset)
        }
    }

    private mutating func judge(
        _ header: RecordBatchHeader, _ batch: ByteBuffer
    ) throws(RecordError) -> BatchVerdict {
        if header.isPlaceholder { return .dropped }
        guard header.baseOffset < endOffset else {
            note(kept: header)
            return .kept
        }
        if header.isControl { return try judgeMarker(header, batch) }
        guard header.recordCount > 0 else {
            return isLast(header) ? .kept : .dropped
        }
        switch try filtering(header, batch) {
        case .unchanged:
            note(kept: header)
            return .kept
        case .changed(let batch, let new):
            note(kept: new)
            return .replaced(batch, new)
        case .emptied:
            guard isLast(header) else { return .dropped }
            let (batch, new) = RecordBatches.emptied(header)
            return .replaced(batch, new)
        }
    }

    /// Whether the batch may be the one that tells where its producer is.
    private func isLast(_ header: RecordBatchHeader) -> Bool {
        guard header.producerID >= 0 else { return false }
        // Of others by the age of their records, which is also what has the log forget them.
        let isKnown = survey.producers.contains(header.producerID)
        guard
            isKnown
                || header.maxTimestamp >= 0
                    && CompactionSurvey.age(of: header.maxTimestamp, options.now)
                        < options.producerRetention
        else { return false }
        return producers.isLast(header)
    }

    private mutating func note(kept header: RecordBatchHeader) {
        guard header.isTransactional else { return }
        if header.isControl {
            unmarked.remove(header.producerID)
        } else if header.recordCount > 0 {
            unmarked.insert(header.producerID)
        }
    }

    private mutating func judgeMarker(
        _ header: RecordBatchHeader, _ batch: ByteBuffer
    ) throws(RecordError) -> BatchVerdict {
        // While some of its records are there, it is what says that they count.
        guard unmarked.remove(header.producerID) == nil else { return .kept }
        if let horizon = header.deleteHorizon, horizon <= options.now {
            guard !isLast(header) else { return .kept }
            summary.removedMarkers += 1
            removedMarkers.insert(header.lastOffset)
            return .dropped
        }
        let filtered = try RecordBatches.filtering(
            batch, header, deleteHorizon: newHorizon, isKept: { _ in true })
        guard case .changed(let batch, let new) = filtered else { return .kept }
        return .replaced(batch, new)
    }

    private var newHorizon: Int64 {
        let (horizon, overflow) = options.now.addingReportingOverflow(
            policy.deleteRetention.wholeMilliseconds)
        return overflow ? .max : horizon
    }

    private mutating func filtering(
        _ header: RecordBatchHeader, _ batch: ByteBuffer
    ) throws(RecordError) -> FilteredBatch {
        let isAborted = fates?.isAborted(header) ?? false
        let isPastHorizon = header.deleteHorizon.map { $0 <= options.now } ?? false
        var counts = summary
        let (map, end) = (map, endOffset)
        // What a tombstone from `endOffset` on is about may yet be there when its time is over.
        let horizon = header.nextOffset > end ? nil : newHorizon
        let filtered = try RecordBatches.filtering(batch, header, deleteHorizon: horizon) {
            record in
            if isAborted {
                counts.abortedRecords += 1
                return false
            }
            if record.offset < end {
                guard let key = record.key else {
                    counts.keylessRecords += 1
                    return false
                }
                if let last = map.offset(of: key), last > record.offset {
                    counts.supersededRecords += 1
                    return false
                }
                if record.isTombstone, isPastHorizon {
                    counts.removedTombstones += 1
                    return false
                }
            }
            counts.keptRecords += 1
            return true
        }
        summary = counts
        return filtered
    }

    // MARK: The end

    /// Notes, durably, how far the log is compacted; false when it was truncated meanwhile.
    package func finish() throws(LogError) -> Bool {
        guard let store = survey.store else { return true }
        return try store.noteCompacted(
            survey.folder, to: endOffset, generation: survey.generation)
    }
}
