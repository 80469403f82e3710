package import Essentials
package import NIOCore
package import Records

extension Log {
    /// Appends what a client sent, stamped with offsets and the leader's epoch.
    ///
    /// - Parameters:
    ///   - batches: what `RecordBatches.validateForAppend` has checked.
    ///   - headers: what that returned.
    /// - Returns: the records' offsets.
    @discardableResult
    package func appendAsLeader(
        _ batches: ByteBuffer, headers: [RecordBatchHeader], leaderEpoch: LeaderEpoch
    ) throws(LogError) -> Range<Offset> {
        try checkWritable()
        guard leaderEpoch >= epochs.latest else {
            throw .epochFell(from: epochs.latest, to: leaderEpoch)
        }
        var batches = batches
        var headers = headers
        var next = logEndOffset
        var index = batches.readerIndex
        for number in headers.indices {
            RecordBatchHeader.stamp(
                &batches, at: index, baseOffset: next, leaderEpoch: leaderEpoch)
            headers[number].baseOffset = next
            headers[number].leaderEpoch = leaderEpoch
            next = headers[number].nextOffset
            index += headers[number].totalSize
        }
        invariant(
            index == batches.writerIndex,
            "headers of \(index - batches.readerIndex) bytes for \(batches.readableBytes)")
        let range = try append(batches, headers)
        recent.append(batches, offsets: range)
        return range
    }

    /// Appends what a leader sent, after checking that it is whole and follows on the log.
    ///
    /// - Parameter limit: the epoch that is followed; no batch may be of a newer one.
    /// - Returns: the records' offsets.
    @discardableResult
    package func appendAsFollower(
        _ batches: ByteBuffer, leaderEpoch limit: LeaderEpoch? = nil
    ) throws(LogError) -> Range<Offset> {
        try checkWritable()
        let headers: [RecordBatchHeader]
        do throws(RecordError) {
            headers = try RecordBatches.headers(of: batches)
        } catch {
            throw .refused(error)
        }
        guard let first = headers.first else { throw .refused(.noBatches) }
        // A log that starts where its leader's does may start within a batch.
        let startsWithin =
            logStartOffset == logEndOffset && first.baseOffset < logEndOffset
            && first.nextOffset > logEndOffset
        var next = startsWithin ? first.baseOffset : logEndOffset
        // An empty epoch of our own, that of a leader which never appended, does not count.
        var epoch = lastBatchEpoch
        for header in headers {
            guard
                header.baseOffset == next || (config.allowsOffsetGaps && header.baseOffset > next)
            else {
                throw .notContiguous(expected: next, found: header.baseOffset)
            }
            guard header.leaderEpoch >= epoch else {
                throw .epochFell(from: epoch, to: header.leaderEpoch)
            }
            if let limit, header.leaderEpoch > limit {
                throw .epochTooNew(header.leaderEpoch, limit: limit)
            }
            epoch = header.leaderEpoch
            next = header.nextOffset
        }
        let range =
            startsWithin
            ? try appendFromWithin(batches, headers, from: first.baseOffset)
            : try appendAbove(batches, headers, firstEpoch: first.leaderEpoch)
        // They are part of an answer with other partitions' batches, too large to be kept for these.
        recent.removeAll()
        return range
    }

    /// Appends at the log end; an epoch that has no records, and is newer, makes way.
    private func appendAbove(
        _ batches: ByteBuffer, _ headers: [RecordBatchHeader], firstEpoch: LeaderEpoch
    ) throws(LogError) -> Range<Offset> {
        let known = epochs
        let makesWay = firstEpoch < epochs.latest && epochs.truncate(to: logEndOffset)
        do throws(LogError) {
            let range = try append(batches, headers)
            if makesWay { epochsVersion += 1 }
            return range
        } catch {
            epochs = known
            throw error
        }
    }

    /// Appends to a log without records what starts at `base`, below the log start.
    ///
    /// A segment starts where its first batch does, so that there has to be another one. The empty one
    /// remains until the batches are in that: on failure the log is as it was, and after a crash
    /// recovery finds one or the other, whichever is there.
    private func appendFromWithin(
        _ batches: ByteBuffer, _ headers: [RecordBatchHeader], from base: Offset
    ) throws(LogError) -> Range<Offset> {
        let start = logStartOffset
        if segments.count > 1 || active.baseOffset != start || active.size > 0 {
            // What is still there of the records below the log start would get in the way.
            try truncateFully(andStartAt: start)
        }
        // Lest a segment that is to go takes the new one of its name with it.
        try health.watch { () throws(FileError) in
            _ = try files.renameRetired()
            try files.resolveSwap()
        }
        // As before a truncation: what is to be written lies below what is said to be known.
        try store?.setLogStart(folder, to: start)
        try store?.willTruncate(folder, to: 0, generation: generation + 1)
        compactedTo = nil
        generation += 1
        let empty = active
        let known = epochs
        let segment = try io { () throws(FileError) in
            try Segment.create(
                baseOffset: base, directory: directory, fileSystem: fileSystem,
                interval: config.indexIntervalBytes)
        }
        segments = [segment]
        epochs.removeAll()
        do throws(LogError) {
            let range = try append(batches, headers)
            try io { () throws(FileError) in try empty.remove() }
            directoryChanges.made += 1
            epochsVersion += 1
            durableOffset = min(durableOffset, base)
            return range
        } catch {
            guard logEndOffset == start, refusal == nil else { throw goOffline(error) }
            do throws(FileError) {
                try segment.remove()
            } catch let failure {
                throw goOffline(.offline("\(error); then \(failure)"))
            }
            segments = [empty]
            epochs = known
            throw error
        }
    }

    private func append(
        _ batches: ByteBuffer, _ headers: [RecordBatchHeader]
    ) throws(LogError) -> Range<Offset> {
        guard let first = headers.first, let last = headers.last else {
            return logEndOffset..<logEndOffset
        }
        let segmentCount = segments.count
        let started = active
        let mark = try started.mark()
        do throws(LogError) {
            var start = 0
            var position = batches.readerIndex
            while start < headers.count {
                // At least one batch, and as many more as the segment has room for.
                try rollIfFull(for: headers[start])
                var end = start
                var bytes = 0
                repeat {
                    bytes += headers[end].totalSize
                    end += 1
                } while end < headers.count
                    && fits(headers[end], after: bytes, first: headers[start])
                try write(batches, position..<(position + bytes), headers[start..<end])
                position += bytes
                start = end
            }
        } catch {
            if segments.count == segmentCount, started.size == mark.size {
                if case .offline = error { throw goOffline(error) }
                throw error
            }
            try undoAppend(error, segmentCount: segmentCount, started, mark)
            throw error
        }
        let range = first.baseOffset..<last.nextOffset
        logEndOffset = range.upperBound
        lastBatchEpoch = last.leaderEpoch
        for header in headers where header.leaderEpoch > epochs.latest {
            assignEpoch(header.leaderEpoch, startOffset: header.baseOffset)
        }
        noteProducers(batches, headers, firstNew: segmentCount)
        return range
    }

    private func write(
        _ batches: ByteBuffer, _ range: Range<Int>, _ headers: ArraySlice<RecordBatchHeader>
    ) throws(LogError) {
        let from = range.lowerBound - batches.readerIndex
        let segment = active
        try batches.withUnsafeReadableBytes { bytes -> Result<Void, LogError> in
            do throws(LogError) {
                return .success(
                    try segment.append(
                        UnsafeRawBufferPointer(rebasing: bytes[from..<(from + range.count)]),
                        headers: headers))
            } catch {
                return .failure(error)
            }
        }.get()
    }

    /// Takes back the part of an append that went well before the rest failed.
    private func undoAppend(
        _ failure: LogError, segmentCount: Int, _ started: Segment,
        _ mark: (size: Int, index: SegmentIndex.Mark)
    ) throws(LogError) {
        do throws(FileError) {
            while segments.count > segmentCount {
                try active.remove()
                segments.removeLast()
            }
            try started.undo(to: mark)
        } catch {
            throw goOffline(.offline("\(failure); then \(error)"))
        }
        if case .offline = failure { throw goOffline(failure) }
    }

    // MARK: Segments

    /// Closes the segment that is written, unless it is empty, and starts the next.
    package func roll() throws(LogError) {
        try checkWritable()
        guard active.size > 0 else { return }
        try startSegment(at: logEndOffset)
        writeProducerSnapshot(at: logEndOffset)
    }

    private func rollIfFull(for header: RecordBatchHeader) throws(LogError) {
        guard active.size > 0, !fits(header, after: 0, first: nil) else { return }
        try startSegment(at: header.baseOffset)
    }

    private func startSegment(at base: Offset) throws(LogError) {
        let full = active
        if full.wasCutBack {
            // Nobody looks any more for what a power failure may leave of it after the last batch.
            try health.watch { () throws(FileError) in try full.syncCutBack() }
        }
        let next = try io { () throws(FileError) in
            try Segment.create(
                baseOffset: base, directory: directory, fileSystem: fileSystem,
                interval: config.indexIntervalBytes)
        }
        full.giveBackReserve()
        full.writeIndex()
        segments.append(next)
        noteRead(full)
        // The new file counts once its directory entry is durable, with the next flush.
        directoryChanges.made += 1
    }

    /// Whether a batch still belongs in the segment, when `bytes` have been added to it.
    ///
    /// - Parameter first: the batch that the segment begins with if it is still empty.
    private func fits(
        _ header: RecordBatchHeader, after bytes: Int, first: RecordBatchHeader?
    ) -> Bool {
        let size = active.size + bytes + header.totalSize
        return size <= min(config.segmentBytes, Int(Int32.max))
            && header.lastOffset - active.baseOffset <= Int64(Int32.max)
            && active.indexBytes < config.maxIndexBytes
            && !isTooYoung(header, for: active.firstTimestamp ?? first?.maxTimestamp)
    }

    /// Whether a batch is too much younger than the first in the segment.
    ///
    /// By what the batches say, so that every replica's segments end at the same ones and the clock's
    /// moods do not matter.
    private func isTooYoung(_ header: RecordBatchHeader, for first: Int64?) -> Bool {
        guard let age = config.segmentAge, let first, first >= 0, header.maxTimestamp > first else {
            return false
        }
        return .milliseconds(header.maxTimestamp - first) > age
    }
}
