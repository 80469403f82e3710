package import Essentials
package import NIOCore

/// Reading.
///
/// `read` and `offset(forTimestamp:below:)` wait for the disk; `readCached` and `findCached` answer
/// from memory, or with a `ColdRead`, which is performed elsewhere and then handed to `resume`.
extension Log {
    /// Reads whole batches, from the one with the record at `offset` on.
    ///
    /// Returns at least one batch, even if it is larger than `maxBytes`, unless there is none below
    /// `end`. What is returned may stop before either bound.
    /// - Throws: `LogError.offsetOutOfRange` outside log start offset ... log end offset.
    package func read(
        from offset: Offset, below end: Offset, maxBytes: Int
    ) throws(LogError) -> ByteBuffer {
        let read = try readCached(from: offset, below: end, maxBytes: maxBytes)
        return try wait(for: read)?.bytes ?? ByteBuffer()
    }

    /// Reads like `read`, but only what is in memory; `nil` is found when there is none below `end`.
    package func readCached(
        from offset: Offset, below end: Offset, maxBytes: Int
    ) throws(LogError) -> LogRead<ReadBatches> {
        if refusal == .closed { throw .closed }
        guard offset >= logStartOffset, offset <= logEndOffset else {
            throw .offsetOutOfRange(offset, valid: logStartOffset...logEndOffset)
        }
        let end = min(end, logEndOffset)
        guard offset < end else { return .found(nil) }
        if let batches = recent.read(from: offset, below: end, maxBytes: maxBytes) {
            return .found(batches)
        }
        let search = BatchSearch(
            offset: offset, end: end, logEnd: logEndOffset, maxBytes: maxBytes,
            allowsGaps: config.allowsOffsetGaps, interval: config.indexIntervalBytes)
        return try look(for: search, from: segmentIndex(for: offset))
    }

    /// The first record with a timestamp of at least `timestamp`, below `end`, and its timestamp.
    package func offset(
        forTimestamp timestamp: Int64, below end: Offset
    ) throws(LogError) -> (Offset, Int64)? {
        let read = try findCached(timestamp: timestamp, below: end)
        return try wait(for: read).map { ($0.offset, $0.timestamp) }
    }

    /// Looks like `offset(forTimestamp:below:)`, but only at what is in memory.
    package func findCached(
        timestamp: Int64, below end: Offset
    ) throws(LogError) -> LogRead<TimedOffset> {
        if refusal == .closed { throw .closed }
        let end = min(end, logEndOffset)
        guard logStartOffset < end else { return .found(nil) }
        let search = TimeSearch(timestamp: timestamp, offsets: logStartOffset..<end)
        return try look(for: search, from: segmentIndex(for: logStartOffset))
    }

    /// Goes on with what `readCached` or `findCached` began.
    ///
    /// All is looked at anew when the log has been cut, or a segment removed or replaced, since: what
    /// was read then may be of no log that ever was.
    package func resume<Answer>(
        _ outcome: ColdRead<Answer>.Outcome
    ) throws(LogError) -> LogRead<Answer> {
        if refusal == .closed { throw .closed }
        let search = outcome.read.search
        guard let next = settle(outcome.read), search.isWithin(self) else {
            return try search.begin(in: self)
        }
        if let answer = try outcome.result.get() { return .found(search.settle(answer, in: self)) }
        return try look(for: search, from: next)
    }

    /// Waits for the disk here and now.
    private func wait<Answer>(for read: LogRead<Answer>) throws(LogError) -> Answer? {
        var read = read
        while true {
            switch read {
            case .found(let answer): return answer
            case .needsDisk(let cold): read = try resume(cold.perform())
            }
        }
    }

    /// Looks into the segments from number `first` on.
    private func look<Answer>(
        for search: some LogSearch<Answer>, from first: Int
    ) throws(LogError) -> LogRead<Answer> {
        let end = search.segmentsEnd(in: self, from: first)
        for index in first..<max(first, end) {
            let segment = segments[index]
            guard search.mayBeIn(segment) else { continue }
            let start = search.knownStart(in: segment, of: self)
            let reader = SegmentReader(segment, waits: false, exactStart: start)
            do throws(LogError) {
                let answer = try search.look(in: reader)
                noteRead(segment)
                if let answer { return .found(search.settle(answer, in: self)) }
            } catch .io(.wouldWait) {
                let parts = segments[index..<min(end, index + search.segmentsAtOnce)]
                return .needsDisk(
                    ColdRead(
                        search: search, fileSystem: fileSystem, generation: generation,
                        parts: parts.map { part in
                            part.part(for: search, exactStart: part === segment ? start : nil)
                        }))
            }
        }
        if let error = search.failure { throw error }
        return .found(nil)
    }

    /// Takes over what a read on another thread has opened and loaded, and returns which segment comes
    /// after those it has looked at; `nil` if what it has found says nothing of this log any more.
    private func settle<Answer>(_ read: ColdRead<Answer>) -> Int? {
        guard read.generation == generation else { return nil }
        var next: Int?
        for part in read.parts {
            let index = segmentIndex(for: part.baseOffset)
            guard segments[index].identity === part.identity else { return nil }
            segments[index].adopt(part)
            noteRead(segments[index])
            next = index + 1
        }
        return next
    }

    /// Reads the whole log and compares every checksum; returns what is wrong first.
    ///
    /// - Throws: when a file can't be read.
    package func verify() throws(LogError) -> (at: Offset, LogError)? {
        var expected: Offset?
        for segment in segments {
            if let expected, segment.baseOffset != expected, !config.allowsOffsetGaps {
                return (expected, .missingRecords(from: expected, to: segment.baseOffset))
            }
            var walk = SegmentWalk(segment, config: config, checksCRC: true)
            try walk.run()
            if let flaw = walk.flaw { return (walk.nextOffset, flaw) }
            expected = walk.nextOffset
        }
        return nil
    }
}
