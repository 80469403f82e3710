package import Essentials
import Records

extension Log {
    /// Cuts the log so that it ends at `offset`, or at the start of the batch that `offset` is in.
    ///
    /// The cut is durable when this returns. Leader epochs that would start at the new end or above
    /// are forgotten, also when nothing else is cut off. A damaged log that is truncated to where the
    /// damage starts, or below, takes appends again. If the log start lies within that batch, the log is
    /// left empty, to go on at the log start.
    package func truncate(to offset: Offset) throws(LogError) {
        try checkMayTruncate()
        guard offset >= logStartOffset else {
            throw .offsetOutOfRange(offset, valid: logStartOffset...logEndOffset)
        }
        let isDamaged = refusal != nil
        guard offset < logEndOffset || isDamaged else {
            if epochs.truncate(to: logEndOffset) { try settleCut() }
            return
        }
        let number = segmentIndex(for: offset)
        let segment = segments[number]
        let (position, end) = try cut(of: segment, at: min(offset, logEndOffset))
        guard end >= logStartOffset else { return try truncateFully(andStartAt: logStartOffset) }
        // Before a segment can get a name that a swap is to remove.
        try health.watch { () throws(FileError) in try files.resolveSwap() }
        // First, or a crash would leave a log shorter than what is said to be known of it.
        try store?.willTruncate(folder, to: end, generation: generation + 1)
        compactedTo = compactedTo.map { min($0, end) }
        generation += 1
        if startBeingNoted != nil || isDamaged {
            // What is noted may lie above the new end, and the log may grow past it again.
            try store?.setLogStart(folder, to: logStartOffset)
            startBeingNoted = nil
        }
        recent.truncate(to: end)
        do throws(LogError) {
            try io { () throws(FileError) in try producers.prepareCut(to: end) }
            try removeSegments(after: number)
            try segment.truncate(to: position)
        } catch {
            throw goOffline(error)
        }
        logEndOffset = end
        durableOffset = min(durableOffset, end)
        epochs.truncate(to: end)
        lastBatchEpoch = end > logStartOffset ? epochs.epoch(at: end + -1) : .none
        do throws(LogError) {
            try rebuildProducers()
        } catch {
            throw goOffline(error)
        }
        try settleCut()
    }

    /// Empties the log; it goes on at `offset`, which becomes its start.
    ///
    /// The old records are gone durably when this returns, and no epoch is known any more. A crash leaves
    /// the old log, with its old start, or the new one; a failure leaves the old one, or ends it.
    package func truncateFully(andStartAt offset: Offset) throws(LogError) {
        try checkMayTruncate()
        // Lest a segment that is to go takes the new one of its name with it.
        try health.watch { () throws(FileError) in
            _ = try files.renameRetired()
            try files.resolveSwap()
        }
        try store?.willTruncate(folder, to: 0, generation: generation + 1)
        compactedTo = nil
        generation += 1
        let new = SegmentName(offset)
        let prepared = "\(directory)/\(new.log)\(LogRecovery.anewSuffix)"
        do throws(LogError) {
            // The producers of the old log mean nothing for the new one.
            try io { () throws(FileError) in try producers.prepareCut(to: -1) }
            // It counts for nothing until the log start is noted, and for all there is from then on.
            try health.watch { () throws(FileError) in
                _ = try fileSystem.open(prepared, .create)
                try files.sync()
            }
            try store?.setLogStart(folder, to: offset)
        } catch {
            guard health.failure == nil else { throw error }
            do throws(FileError) {
                try fileSystem.remove(prepared)
                // It must not come back when the log really starts there.
                try fileSystem.syncDirectory(directory)
            } catch let failure {
                throw goOffline(.offline("\(error); then \(failure)"))
            }
            throw error
        }
        startBeingNoted = nil
        recent.removeAll()
        do throws(FileError) {
            // Whatever there is, also what an earlier removal that failed has left.
            let names = try fileSystem.contents(of: directory).filter { $0.hasSuffix(".log") }
            for name in names.reversed().compactMap({ SegmentName($0) }) {
                for file in [name.offsetIndex, name.timeIndex, name.log] {
                    try fileSystem.remove("\(directory)/\(file)")
                }
            }
            // First, or what is left of the old ones might be taken for more than the new one.
            try fileSystem.syncDirectory(directory)
            try fileSystem.rename(prepared, to: "\(directory)/\(new.log)")
            try fileSystem.syncDirectory(directory)
        } catch {
            throw goOffline(.io(error))
        }
        let interval = config.indexIntervalBytes
        segments = [
            Segment(
                baseOffset: offset, directory: directory, size: 0, durableSize: 0,
                index: SegmentIndex(baseOffset: offset, interval: interval),
                fileSystem: fileSystem, interval: interval)
        ]
        setAside = []
        forgetProducers()
        directoryChanges.durable = directoryChanges.made
        logStartOffset = offset
        logEndOffset = offset
        durableOffset = offset
        epochs.removeAll()
        lastBatchEpoch = .none
        try settleCut()
    }

    /// Moves the log start up to `offset`: the records below may not be read any more, and segments
    /// that hold no others are removed.
    ///
    /// The caller sees to it that `offset` is committed. Durable when this returns.
    package func advanceLogStart(to offset: Offset) throws(LogError) {
        try checkWritable()
        guard offset <= durableOffset else {
            throw .offsetOutOfRange(offset, valid: durableOffsets)
        }
        guard offset > logStartOffset else { return }
        // First, or a crash would bring back what was removed.
        try store?.setLogStart(folder, to: offset)
        try moveLogStart(to: offset)?.perform()
    }

    /// Moves the log start like `advanceLogStart`, without waiting for the disk.
    ///
    /// Whoever owns the log has noted `offset` durably before, with `LogDirectory.noteLogStart`.
    /// - Returns: what has to be removed, on any thread, before the log is opened again; `nil` for
    ///   nothing.
    package func moveLogStart(to offset: Offset) throws(LogError) -> SegmentRemoval? {
        try checkWritable()
        guard offset <= durableOffset else {
            throw .offsetOutOfRange(offset, valid: durableOffsets)
        }
        guard offset > logStartOffset else { return nil }
        logStartOffset = offset
        if epochs.advanceStart(to: offset) { epochsVersion += 1 }
        let obsolete = segmentIndex(for: offset)
        guard obsolete > 0 else { return nil }
        let names = segments[..<obsolete].map(\.name)
        segments.removeFirst(obsolete)
        producers.transactions.removeAll(before: segments[0].baseOffset)
        return SegmentRemoval(
            names: names, directory: directory, fileSystem: fileSystem, health: health)
    }

    func checkMayTruncate() throws(LogError) {
        try health.check()
        guard let refusal else { return }
        // Damage is what truncation is the way out of.
        guard case .damaged = refusal else { throw refusal }
    }

    /// Where `segment` has to be cut so that the log ends at `offset` or in front of its batch.
    private func cut(
        of segment: Segment, at offset: Offset
    ) throws(LogError) -> (position: Int, end: Offset) {
        let start = refusal == nil ? try segment.loadIndex().position(for: offset) : 0
        var scanner = try segment.scanner(from: start, checksCRC: false)
        // What is asked for may be the end of the last batch that is still one.
        var end = segment.baseOffset
        while true {
            switch try io({ () throws(FileError) in try scanner.next() }) {
            case .batch(let header, let position):
                if header.nextOffset > offset { return (position, min(offset, header.baseOffset)) }
                end = header.nextOffset
            case .end(let position):
                return (position, offset)
            case .flaw(_, let position) where end == offset && refusal != nil:
                return (position, offset)
            case .flaw(let error, let position):
                throw .corruptBatch(segment: segment.path, position: position, error)
            }
        }
    }

    /// Removes the segments that follow segment `number`, and those set aside, durably.
    private func removeSegments(after number: Int) throws(LogError) {
        guard segments.count > number + 1 || !setAside.isEmpty else { return }
        try io { () throws(FileError) in
            // The newest first: a crash in between leaves no gap.
            for name in setAside.reversed() {
                for file in [name.offsetIndex, name.timeIndex, name.log] {
                    try fileSystem.remove("\(directory)/\(file)")
                }
            }
            setAside = []
            while segments.count > number + 1 {
                try active.remove()
                segments.removeLast()
            }
            try fileSystem.syncDirectory(directory)
        }
    }

    /// Goes on after the log has been cut, which can't fail any more: whoever asked must not think
    /// that the log is as it was.
    private func settleCut() throws(LogError) {
        epochsVersion += 1
        do throws(FileError) {
            do throws(FileError) {
                // At once, since the batches would not tell them all.
                try files.writeEpochs(epochs.encoded, version: epochsVersion)
            } catch {
                // The next flush does it; until then recovery tells that what is written isn't true.
                guard error.isOutOfSpace, !error.isFailedSync else { throw error }
            }
            guard refusal != nil else { return }
            try fileSystem.remove("\(directory)/\(LogRecovery.damageMarker)")
            try fileSystem.syncDirectory(directory)
        } catch {
            throw goOffline(.io(error))
        }
        refusal = nil
    }
}

/// Files of segments that belong to no log any more.
package struct SegmentRemoval: Sendable {
    let names: [SegmentName]
    let directory: String
    let fileSystem: any FileSystem
    let health: StorageHealth

    /// Removes them durably; blocks until that is done.
    package func perform() throws(LogError) {
        try health.watch { () throws(FileError) in
            // The oldest first: what is left is always without a gap.
            for name in names {
                for file in [name.offsetIndex, name.timeIndex, name.log] {
                    try fileSystem.remove("\(directory)/\(file)")
                }
            }
            try fileSystem.syncDirectory(directory)
        }
    }
}
