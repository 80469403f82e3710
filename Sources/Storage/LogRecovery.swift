import Essentials
import Glibc
import Records

/// Brings what is in a partition's folder into a state to go on from.
struct LogRecovery {
    let directory: String
    let config: LogConfig
    let fileSystem: any FileSystem
    private(set) var checkpoint: LogCheckpoint
    let isClean: Bool
    /// The folder was just made; that, and what is in it, may wait for the first flush.
    let isNew: Bool
    /// All that is there is durable.
    let isSynced: Bool

    // What it finds.
    var report = RecoveryReport()
    private(set) var segments: [Segment] = []
    private(set) var epochs = EpochCache()
    private(set) var logStartOffset = Offset(0)
    private(set) var logEndOffset = Offset(0)
    private(set) var lastBatchEpoch = LeaderEpoch.none
    /// Segments above damage: left as they are, and no part of the log.
    private(set) var setAside: [SegmentName] = []

    /// Says that the log was found damaged, so that a clean stop does not make it look sound.
    static let damageMarker = "damaged"

    /// What the name of a segment ends in, after its usual name, that is to replace all others.
    static let anewSuffix = ".anew"

    /// The log start that was noted lies above the log, and must not be found when that has grown.
    private(set) var isLogStartUntrue = false

    /// What is known of producers.
    var producers: LogProducers
    /// The names of the files that tell of them.
    private(set) var producerFiles: [String] = []
    /// No batch from there on has a producer.
    private(set) var quietFrom = Offset.max

    /// The epochs found in the batches that were walked over.
    private var epochsFound = EpochCache()
    private var hasDamageMarker = false
    private var hasEpochFile = false

    init(
        directory: String, config: LogConfig, fileSystem: any FileSystem,
        checkpoint: LogCheckpoint, isClean: Bool, isNew: Bool = false, isSynced: Bool
    ) {
        self.directory = directory
        self.config = config
        self.fileSystem = fileSystem
        self.checkpoint = checkpoint
        self.isClean = isClean
        self.isNew = isNew
        self.isSynced = isSynced
        producers = LogProducers(directory: directory, fileSystem: fileSystem)
    }

    mutating func run(closed: ClosedLog? = nil) throws(LogError) {
        if isClean, let closed, try restore(closed) { return try settleProducers() }
        try collectFiles()
        let firstBase = segments.first?.baseOffset ?? checkpoint.logStartOffset ?? 0
        if segments.isEmpty {
            try startEmptyLog(at: firstBase)
        } else if isClean, !hasDamageMarker, try openTrusted() {
            report.outcome = .trusted
        } else {
            try checkSegments()
            if let noted = checkpoint.logStartOffset, noted > logEndOffset, !report.isDamaged {
                // Not true, since it never passes what is durable: what lies below counts after all.
                checkpoint.logStartOffset = nil
                isLogStartUntrue = true
                try checkSegments()
            }
        }
        settleLogStart(firstBase: firstBase)
        try removeObsoleteSegments()
        try settleEpochs()
        try settleProducers()
        if report.isDamaged != hasDamageMarker {
            try io { () throws(FileError) in
                let marker = "\(directory)/\(Self.damageMarker)"
                if hasDamageMarker {
                    try fileSystem.remove(marker)
                } else {
                    _ = try fileSystem.open(marker, .create)
                }
                try fileSystem.syncDirectory(directory)
            }
        }
    }

    // MARK: Files

    private mutating func collectFiles() throws(LogError) {
        try io { () throws(FileError) in
            if !isNew {
                try fileSystem.makeDirectories(directory)
                report.removedFiles += try LogFolder.finishSwaps(in: directory, fileSystem)
            }
        }
        try finishStartingAnew()
        let names = try io { () throws(FileError) in try fileSystem.contents(of: directory) }
        var bases: [SegmentName] = []
        for name in names where name.hasSuffix(".log") {
            guard let segment = SegmentName(name) else {
                throw .unexpectedFile(
                    "\(directory)/\(name)", reason: "segments are named by 20 digits")
            }
            bases.append(segment)
        }
        let known = Set(bases)
        for name in names {
            if name == Self.damageMarker { hasDamageMarker = true }
            if name == EpochCache.fileName { hasEpochFile = true }
            if name.hasSuffix(ProducerSnapshots.suffix) || name.hasSuffix(TransactionIndexes.suffix)
            {
                producerFiles.append(name)
            }
            let isLeftover = [".tmp", ".deleted", ".cleaned", ".swap"].contains {
                name.hasSuffix($0)
            }
            let isIndex = name.hasSuffix(".index") || name.hasSuffix(".timeindex")
            let isOrphan = isIndex && !(SegmentName(name).map(known.contains) ?? true)
            guard isLeftover || isOrphan else { continue }
            try io { () throws(FileError) in try fileSystem.remove("\(directory)/\(name)") }
            report.removedFiles.append(name)
        }
        for segment in bases {
            let path = "\(directory)/\(segment.log)"
            let size = try io { () throws(FileError) in try fileSystem.size(of: path) }
            segments.append(
                Segment(
                    baseOffset: segment.baseOffset, directory: directory, size: size ?? 0,
                    durableSize: size ?? 0, fileSystem: fileSystem,
                    interval: config.indexIntervalBytes))
        }
    }

    /// Goes on with a start anew that was interrupted once it was in force, or forgets it.
    private mutating func finishStartingAnew() throws(LogError) {
        let suffix = ".log\(Self.anewSuffix)"
        let names = try io { () throws(FileError) in try fileSystem.contents(of: directory) }
        let prepared = names.filter { $0.hasSuffix(suffix) }
        guard !prepared.isEmpty else { return }
        let old = names.filter { $0.hasSuffix(".log") }
        // Without any other segment it is all there is, whatever became of the note.
        let chosen = prepared.compactMap { SegmentName($0) }.first { name in
            name.baseOffset == checkpoint.logStartOffset || old.isEmpty
        }
        try io { () throws(FileError) in
            for name in prepared
            where name != chosen.map({ $0.log + Self.anewSuffix }) {
                try fileSystem.remove("\(directory)/\(name)")
            }
            if let chosen {
                for name in old.reversed() { try fileSystem.remove("\(directory)/\(name)") }
                // First, or what is left of them might be taken for more than the new one.
                try fileSystem.syncDirectory(directory)
                try fileSystem.rename(
                    "\(directory)/\(chosen.log)\(Self.anewSuffix)",
                    to: "\(directory)/\(chosen.log)")
            }
            try fileSystem.syncDirectory(directory)
        }
        report.removedFiles += prepared + (chosen == nil ? [] : old)
    }

    private mutating func startEmptyLog(at start: Offset) throws(LogError) {
        try io { () throws(FileError) in
            segments = [
                try Segment.create(
                    baseOffset: start, directory: directory, fileSystem: fileSystem,
                    interval: config.indexIntervalBytes)
            ]
            if !isNew { try fileSystem.syncDirectory(directory) }
        }
        logEndOffset = start
        report.outcome = .recovered(truncatedBytes: 0)
        if checkpoint.floor > start {
            report.outcome = .damaged(
                at: start, .missingRecords(from: start, to: checkpoint.floor))
        }
    }

    // MARK: After a clean stop

    /// Takes the log to be what it was when it was closed, without a look into its files; false if
    /// anything speaks against that.
    private mutating func restore(_ closed: ClosedLog) throws(LogError) -> Bool {
        guard let first = closed.segments.first, let last = closed.segments.last,
            closed.logEndOffset >= checkpoint.floor,
            closed.logStartOffset == max(checkpoint.logStartOffset ?? 0, first.baseOffset)
        else { return false }
        let path = "\(directory)/\(SegmentName(last.baseOffset).log)"
        let size = try io { () throws(FileError) in try fileSystem.size(of: path) }
        guard size == last.size else { return false }
        segments = closed.segments.map { segment in
            Segment(
                baseOffset: segment.baseOffset, directory: directory, size: segment.size,
                durableSize: segment.size, fileSystem: fileSystem,
                interval: config.indexIntervalBytes)
        }
        epochs = EpochCache(closed.epochs)
        logStartOffset = closed.logStartOffset
        logEndOffset = closed.logEndOffset
        lastBatchEpoch = closed.lastBatchEpoch
        if !closed.producerFiles.isEmpty {
            // What tells of producers is told by its name to be true for an offset: as it is now.
            let names = try io { () throws(FileError) in try fileSystem.contents(of: directory) }
            producerFiles = names.filter {
                $0.hasSuffix(ProducerSnapshots.suffix) || $0.hasSuffix(TransactionIndexes.suffix)
            }
        }
        report.outcome = .trusted
        return true
    }

    /// Finds the end of the last segment; false if it is not what a clean stop leaves.
    private mutating func openTrusted() throws(LogError) -> Bool {
        guard let last = segments.last else { return false }
        do throws(LogError) {
            let index = try last.loadIndex()
            var walk = SegmentWalk(last, config: config, checksCRC: false)
            walk.startsAt = index.offsets.last.map { Int($0.position) } ?? 0
            try walk.run()
            guard walk.flaw == nil, walk.nextOffset >= checkpoint.floor else { return false }
            logEndOffset = walk.nextOffset
            lastBatchEpoch = walk.lastEpoch
            return true
        } catch {
            switch error {
            case .corruptBatch: return false
            case .io(let cause) where cause.code == EIO: return false
            default: throw error
            }
        }
    }

    // MARK: After anything else

    /// Checks every batch from the segment with the recovery point on, and cuts off a torn tail.
    private mutating func checkSegments() throws(LogError) {
        report.outcome = .recovered(truncatedBytes: 0)
        epochsFound = EpochCache()
        lastBatchEpoch = .none
        // Below the log start there may be any of the segments whose removal was interrupted.
        // What was found damaged is looked through from its start: the damage may be anywhere.
        let known = max(
            hasDamageMarker ? 0 : checkpoint.recoveryPoint, checkpoint.logStartOffset ?? 0)
        let first = segments.lastIndex { $0.baseOffset <= known } ?? 0
        var expected = segments[first].baseOffset
        quietFrom = expected
        for index in first..<segments.count {
            let segment = segments[index]
            guard isSuccessor(segment.baseOffset, of: expected) else {
                let missing = LogError.missingRecords(from: expected, to: segment.baseOffset)
                return try end(before: index, at: expected, missing)
            }
            // After a failed sync memory may still have what the disk never got.
            try io { () throws(FileError) in try segment.open() }.dropCache()
            var walk = SegmentWalk(segment, config: config, checksCRC: true)
            walk.lastEpoch = lastBatchEpoch
            walk.epochs = epochsFound
            let unreadable = try walk.runAsFarAsReadable()
            report.checkedBytes += walk.end
            epochsFound = walk.epochs
            lastBatchEpoch = walk.lastEpoch
            if walk.hasProducers { quietFrom = .max }
            segment.install(walk.index)
            expected = walk.nextOffset
            if let unreadable {
                // What the disk doesn't give back may have been relied on, and others may have it.
                return leaveAside(after: index, at: expected, position: walk.end, unreadable)
            }
            if let flaw = walk.flaw {
                return try end(inside: index, at: expected, position: walk.end, flaw)
            }
            if !isSynced { try io { () throws(FileError) in try segment.open().sync() } }
            if index < segments.count - 1 {
                segment.writeIndex()
                segment.release()
            }
        }
        logEndOffset = expected
        if expected < checkpoint.floor {
            report.outcome = .damaged(
                at: expected, .missingRecords(from: expected, to: checkpoint.floor))
        }
        if !isSynced { try io { () throws(FileError) in try fileSystem.syncDirectory(directory) } }
    }

    /// Whether what ends the log at `end` is what a crash leaves of writes that nobody relied on.
    ///
    /// What was found damaged by a process that ran is none of that, wherever it is.
    private func isTornTail(from end: Offset) -> Bool {
        end >= checkpoint.floor && !hasDamageMarker
    }

    private func isSuccessor(_ base: Offset, of expected: Offset) -> Bool {
        config.allowsOffsetGaps ? base >= expected : base == expected
    }

    /// The log ends with `end`, before the segment at `index`.
    private mutating func end(
        before index: Int, at end: Offset, _ reason: LogError
    ) throws(LogError) {
        logEndOffset = end
        let rest = segments[index...]
        segments.removeLast(rest.count)
        guard isTornTail(from: end) else {
            setAside = rest.map(\.name)
            report.outcome = .damaged(at: end, reason)
            return
        }
        try remove(rest, alsoTruncated: 0)
    }

    /// The log ends with `end`, at `position` of the segment at `index`.
    private mutating func end(
        inside index: Int, at end: Offset, position: Int, _ reason: LogError
    ) throws(LogError) {
        guard isTornTail(from: end) else {
            return leaveAside(after: index, at: end, position: position, reason)
        }
        logEndOffset = end
        let segment = segments[index]
        let rest = segments[(index + 1)...]
        segments.removeLast(rest.count)
        let torn = segment.size - position
        try segment.truncate(to: position)
        try remove(rest, alsoTruncated: torn)
    }

    /// The log is damaged from `end` on, at `position` of the segment at `index`.
    private mutating func leaveAside(
        after index: Int, at end: Offset, position: Int, _ reason: LogError
    ) {
        logEndOffset = end
        let rest = segments[(index + 1)...]
        setAside = rest.map(\.name)
        segments.removeLast(rest.count)
        segments[index].limit(to: position)
        report.outcome = .damaged(at: end, reason)
    }

    private mutating func remove(
        _ rest: ArraySlice<Segment>, alsoTruncated torn: Int
    ) throws(LogError) {
        // The newest first: a crash in between leaves no gap.
        try io { () throws(FileError) in
            for segment in rest.reversed() { try segment.remove() }
            try fileSystem.syncDirectory(directory)
        }
        report.outcome = .recovered(truncatedBytes: rest.reduce(torn) { $0 + $1.size })
    }

    // MARK: What is kept beside the batches

    private mutating func settleLogStart(firstBase: Offset) {
        logStartOffset = firstBase
        guard let noted = checkpoint.logStartOffset else { return }
        // It is never moved past what is durable: a larger one is not true.
        guard noted <= logEndOffset else {
            if report.isDamaged {
                // What is missing was there: of what lies below nothing is to be read.
                logStartOffset = logEndOffset
            } else {
                isLogStartUntrue = true
            }
            return
        }
        logStartOffset = max(noted, firstBase)
        // It is noted before segments go, so that none below it can be the first.
        if noted < firstBase, !report.isDamaged {
            report.outcome = .damaged(at: noted, .missingRecords(from: noted, to: firstBase))
        }
    }

    /// Goes on with a removal that was interrupted.
    private mutating func removeObsoleteSegments() throws(LogError) {
        guard let kept = segments.lastIndex(where: { $0.baseOffset <= logStartOffset }), kept > 0
        else { return }
        try io { () throws(FileError) in
            for segment in segments[..<kept] { try segment.remove() }
            try fileSystem.syncDirectory(directory)
        }
        report.removedFiles += segments[..<kept].map(\.name.log)
        segments.removeFirst(kept)
    }

    private mutating func settleEpochs() throws(LogError) {
        let bytes = try? fileSystem.readFile("\(directory)/\(EpochCache.fileName)")
        var stored = bytes.flatMap { EpochCache(decoding: $0) }
        if report.outcome != .trusted {
            // Their records are lost, or they had none: nobody leads in them any more.
            stored?.truncate(to: logEndOffset)
        }
        for entry in epochsFound.entries {
            stored?.assign(entry.epoch, startOffset: entry.startOffset)
        }
        // What starts below the log start may be gone, and is of no interest.
        stored?.advanceStart(to: logStartOffset)
        if let stored, try isTrue(stored) {
            epochs = stored
        } else {
            report.rebuiltEpochs = hasEpochFile || logEndOffset > logStartOffset
            epochs = try epochsOfAllBatches()
        }
        epochs.advanceStart(to: logStartOffset)
        if lastBatchEpoch == .none, logEndOffset > logStartOffset {
            lastBatchEpoch = epochs.epoch(at: logEndOffset + -1)
        }
    }

    /// Whether each epoch starts where `cache` says.
    ///
    /// Since epochs never fall along a log, the batches on both sides of each start tell.
    private func isTrue(_ cache: EpochCache) throws(LogError) -> Bool {
        if let last = cache.entries.last, last.startOffset > logEndOffset { return false }
        var before = LeaderEpoch.none
        for entry in cache.entries {
            let start = entry.startOffset
            // After compaction the batch that ends there may be gone.
            if start > logStartOffset, !config.allowsOffsetGaps {
                guard let batch = try batch(with: start + -1), batch.nextOffset == start,
                    batch.leaderEpoch == before
                else { return false }
            }
            // The last one may be empty.
            if start < logEndOffset {
                guard try batch(with: start)?.leaderEpoch == entry.epoch else { return false }
            }
            before = entry.epoch
        }
        guard logEndOffset > logStartOffset else { return true }
        let last = logEndOffset + -1
        if lastBatchEpoch >= 0 { return cache.epoch(at: last) == lastBatchEpoch }
        return try batch(with: last)?.leaderEpoch == cache.epoch(at: last)
    }

    /// The batch with the record at `offset`, or the first above it.
    private func batch(with offset: Offset) throws(LogError) -> RecordBatchHeader? {
        guard let segment = segments.last(where: { $0.baseOffset <= offset }) else { return nil }
        do throws(LogError) {
            let start = try segment.loadIndex().position(for: offset)
            var scanner = try segment.scanner(from: start, checksCRC: false, window: 4_096)
            while case .batch(let header, _) = try io({ () throws(FileError) in
                try scanner.next()
            }) {
                if header.nextOffset > offset { return header }
            }
            return nil
        } catch {
            guard case .corruptBatch = error else { throw error }
            return nil
        }
    }

    private func epochsOfAllBatches() throws(LogError) -> EpochCache {
        var epochs = EpochCache()
        for segment in segments {
            var walk = SegmentWalk(segment, config: config, checksCRC: false)
            walk.epochs = epochs
            try walk.run()
            // Damage in a segment that was not checked is found when it is read.
            epochs = walk.epochs
        }
        return epochs
    }
}

/// One pass over a segment's batches, up to the first that can't follow on the one before.
struct SegmentWalk {
    private let segment: Segment
    private let config: LogConfig
    private let checksCRC: Bool
    /// Where to start; there must be a batch.
    var startsAt = 0
    /// The epochs found, and those that were known before.
    var epochs = EpochCache()
    var lastEpoch = LeaderEpoch.none

    private(set) var index: SegmentIndex
    /// Where the last good batch ends.
    private(set) var end = 0
    private(set) var nextOffset: Offset
    private(set) var flaw: LogError?
    private(set) var hasProducers = false

    init(_ segment: Segment, config: LogConfig, checksCRC: Bool) {
        self.segment = segment
        self.config = config
        self.checksCRC = checksCRC
        nextOffset = segment.baseOffset
        index = SegmentIndex(
            baseOffset: segment.baseOffset, interval: config.indexIntervalBytes)
    }

    /// Like `run`, but ends where the disk does not give back what is on it, and returns its error.
    mutating func runAsFarAsReadable() throws(LogError) -> LogError? {
        do throws(LogError) {
            try run()
            return nil
        } catch {
            guard case .io(let cause) = error, cause.code == EIO else { throw error }
            return error
        }
    }

    /// - Throws: when the file can't be read; what is wrong with its bytes is in `flaw`.
    mutating func run() throws(LogError) {
        end = startsAt
        var scanner = try segment.scanner(from: startsAt, checksCRC: checksCRC)
        while true {
            switch try io({ () throws(FileError) in try scanner.next() }) {
            case .end: return
            case .flaw(let error, let position):
                flaw = .corruptBatch(segment: segment.path, position: position, error)
                return
            case .batch(let header, let position):
                let mayLieAbove = config.allowsOffsetGaps || (position == startsAt && startsAt > 0)
                guard
                    header.baseOffset == nextOffset
                        || (mayLieAbove && header.baseOffset > nextOffset)
                else {
                    flaw = .missingRecords(from: nextOffset, to: header.baseOffset)
                    return
                }
                guard header.leaderEpoch >= lastEpoch else {
                    flaw = .epochFell(from: lastEpoch, to: header.leaderEpoch)
                    return
                }
                lastEpoch = header.leaderEpoch
                epochs.assign(header.leaderEpoch, startOffset: header.baseOffset)
                index.add(header, at: position)
                if header.producerID >= 0 { hasProducers = true }
                nextOffset = header.nextOffset
                end = position + header.totalSize
            }
        }
    }
}
