internal import Essentials
internal import NIOCore
internal import Raft
internal import Records
internal import Storage

/// The metadata log on disk: record batches in `__cluster_metadata-0`, as any partition's, and beside
/// them the snapshots that stand for the batches that were removed.
///
/// A controller's directory is locked and remembers how far the log was durable, so that damage is
/// told from a torn tail. An observer's log is a copy that can be fetched again, so it needs neither.
final class MetadataLog {
    static let folder = LogDirectory.metadataFolder

    private let directory: LogDirectory?
    private let log: Log
    /// The checkpoint on disk, as far as this process has written it.
    private var noted: LogCheckpoint?
    /// Everything below is known to be committed, from what the directory noted.
    private(set) var committedOffset: Offset
    /// The epoch of the record before the log's start.
    private(set) var epochBeforeStart: LeaderEpoch

    private init(directory: LogDirectory?, log: Log, epochBeforeStart: LeaderEpoch) {
        self.directory = directory
        self.log = log
        self.epochBeforeStart = epochBeforeStart
        committedOffset = directory?.checkpoint(of: Self.folder).highWatermark ?? 0
    }

    /// What was found on disk.
    struct Found {
        var log: MetadataLog
        var state: LogState
        /// The newest one; the log goes on from its end, or from before.
        var snapshot: SnapshotID?
        var voters: VoterHistory
        /// Of the snapshot that the directory was formatted with.
        var bootstrapRecords: [[UInt8]] = []
        /// Whether there is any snapshot, if only the one of a new directory.
        var hasSnapshot = false
    }

    /// Opens the log and sees to it that snapshot and log together cover everything.
    ///
    /// A snapshot that is newer than the log was fetched, and the process ended before the log was
    /// replaced by it: that is done now.
    /// - Parameter directory: a controller's; `nil` for an observer.
    static func open(
        directory: LogDirectory?, path: String, segmentBytes: Int, fileSystem: any FileSystem
    ) throws(QuorumError) -> Found {
        var config = LogConfig()
        config.segmentBytes = segmentBytes
        config.tracksProducers = false
        let folder = "\(path)/\(Self.folder)"
        do throws(FileError) {
            try SnapshotFile.removeParts(in: folder, fileSystem)
        } catch {
            throw .storage(.io(error))
        }
        guard directory == nil else {
            return try open(directory, folder, config, fileSystem)
        }
        do throws(QuorumError) {
            return try open(nil, folder, config, fileSystem)
        } catch {
            switch error {
            case .damagedLog, .damagedSnapshot, .missingSnapshot:
                // It is a copy: what is no good is fetched anew.
                do throws(FileError) {
                    try fileSystem.removeRecursively(folder)
                } catch {
                    throw .storage(.io(error))
                }
                return try open(nil, folder, config, fileSystem)
            default:
                throw error
            }
        }
    }

    private static func open(
        _ directory: LogDirectory?, _ folder: String, _ config: LogConfig,
        _ fileSystem: any FileSystem
    ) throws(QuorumError) -> Found {
        let log: Log
        let ids: [SnapshotID]
        do throws(LogError) {
            let report: RecoveryReport
            if let directory {
                (log, report) = try directory.openLog(Self.folder, config: config)
            } else {
                (log, report) = try Log.open(
                    at: folder, config: config, fileSystem: fileSystem, afterCleanShutdown: false)
            }
            if case .damaged(let offset, _) = report.outcome { throw LogError.damaged(at: offset) }
            ids = try Self.snapshots(in: folder, fileSystem)
        } catch {
            if case .damaged(let offset) = error { throw .damagedLog(path: folder, at: offset) }
            throw .storage(error)
        }
        let opened = MetadataLog(directory: directory, log: log, epochBeforeStart: .none)
        do throws(QuorumError) {
            return try opened.found(ids, in: folder, fileSystem)
        } catch {
            try? log.close(clean: false)
            throw error
        }
    }

    private static func snapshots(
        in folder: String, _ fileSystem: any FileSystem
    ) throws(LogError) -> [SnapshotID] {
        do throws(FileError) {
            return try SnapshotFile.all(in: folder, fileSystem)
        } catch {
            throw .io(error)
        }
    }

    /// Puts together what the log and the snapshots say.
    private func found(
        _ ids: [SnapshotID], in folder: String, _ fileSystem: any FileSystem
    ) throws(QuorumError) -> Found {
        let path = { (id: SnapshotID) in "\(folder)/\(SnapshotFile.name(of: id))" }
        var records: [[UInt8]] = []
        let newest = ids.last { $0.endOffset > 0 }
        if let newest {
            // An older one may be left over; nothing may be removed for its sake.
            guard newest.endOffset >= log.logStartOffset else {
                throw .missingSnapshot(folder: folder, logStart: log.logStartOffset)
            }
            var reader = try SnapshotReader(path: path(newest), fileSystem: fileSystem)
            if !holds(newest) {
                // Before anything is removed for its sake.
                try reader.finish()
                do throws(LogError) {
                    try reset(to: newest)
                } catch {
                    throw .storage(error)
                }
            }
            try settleStart(ids)
        } else if log.logStartOffset > 0 {
            throw .missingSnapshot(folder: folder, logStart: log.logStartOffset)
        }
        // The set before the log's own: of the snapshot it starts at, or of the newest.
        let base = ids.last { $0.endOffset <= log.logStartOffset } ?? newest
        var voters = VoterHistory(base: nil, baseOffset: nil)
        if let base {
            var reader = try SnapshotReader(path: path(base), fileSystem: fileSystem)
            voters = VoterHistory(
                base: reader.voters, baseOffset: base.endOffset > 0 ? base.endOffset : nil)
            if base.endOffset == 0 {
                while let record = try reader.next() {
                    guard records.count < Self.maxBootstrapRecords else {
                        throw .damagedSnapshot(
                            path: path(base), reason: "more records than any new cluster has")
                    }
                    records.append(record)
                }
            }
        }
        guard let state else { throw .damagedLog(path: folder, at: log.logEndOffset) }
        try readVoters(into: &voters, folder)
        return Found(
            log: self, state: state, snapshot: newest, voters: voters, bootstrapRecords: records,
            hasSnapshot: !ids.isEmpty)
    }

    /// Has the log start where a snapshot ends, unless it has all its records.
    ///
    /// It may not, where nobody notes the start: an observer's is that of its first segment.
    private func settleStart(_ ids: [SnapshotID]) throws(QuorumError) {
        guard log.logStartOffset > 0,
            let id = ids.first(where: { $0.endOffset >= log.logStartOffset })
        else { return }
        do throws(LogError) {
            try log.advanceLogStart(to: id.endOffset)
        } catch {
            throw .storage(error)
        }
        epochBeforeStart = id.epoch
    }

    private static let maxBootstrapRecords = 10_000

    /// Whether the log goes on from the snapshot's end, or from before it.
    private func holds(_ id: SnapshotID) -> Bool {
        guard id.endOffset >= log.logStartOffset, id.endOffset <= log.logEndOffset else {
            return false
        }
        guard id.endOffset == log.logStartOffset else {
            return log.epoch(at: id.endOffset + -1) == id.epoch
        }
        // A reset that was broken off has noted the start, and left what it was to drop: records of
        // an older epoch, where none was committed.
        return log.logEndOffset == id.endOffset || log.epoch(at: id.endOffset) >= id.epoch
    }

    /// Finds the voter sets in the log's control batches.
    private func readVoters(
        into voters: inout VoterHistory, _ folder: String
    ) throws(QuorumError) {
        var offset = log.logStartOffset
        while offset < log.logEndOffset {
            let spans: [BatchSpan]
            do throws(LogError) {
                let bytes = try log.read(
                    from: offset, below: log.logEndOffset, maxBytes: 1 << 20)
                do throws(QuorumRecordError) {
                    spans = try QuorumBatches.spans(of: bytes)
                } catch {
                    throw LogError.damaged(at: offset)
                }
            } catch {
                switch error {
                case .damaged, .corruptBatch, .missingRecords:
                    throw .damagedLog(path: folder, at: offset)
                default: throw .storage(error)
                }
            }
            for span in spans {
                if let set = span.voters, span.baseOffset >= offset {
                    voters.append(set, at: span.baseOffset)
                }
            }
            guard let next = spans.last.map({ $0.lastOffset + 1 }), next > offset else {
                throw .damagedLog(path: folder, at: offset)
            }
            offset = next
        }
    }

    /// The log as the state machine sees it: ends, and where each epoch's records start.
    private var state: LogState? {
        var epochs: [EpochStart] = []
        var offset = log.logStartOffset
        while offset < log.logEndOffset {
            let epoch = log.epoch(at: offset)
            let end = log.endOffset(for: epoch).endOffset
            guard epoch != .none, end > offset else { return nil }
            epochs.append(EpochStart(epoch: epoch, startOffset: offset))
            offset = end
        }
        return LogState(
            startOffset: log.logStartOffset, epochBeforeStart: epochBeforeStart,
            endOffset: log.logEndOffset, epochs: epochs)
    }

    /// Drops all of the log; it goes on at the snapshot's end.
    func reset(to id: SnapshotID) throws(LogError) {
        try log.truncateFully(andStartAt: id.endOffset)
        epochBeforeStart = id.epoch
    }

    /// Notes durably that the log is to start at `offset`; for another thread, which it blocks.
    ///
    /// It returns whether that is so now: not when the log was truncated meanwhile. `nil` while
    /// the log can't be relied on.
    func startNote(at offset: Offset) -> (@Sendable () throws(LogError) -> Bool)? {
        // An observer's log starts where its first segment does.
        guard let directory else { return { () throws(LogError) in true } }
        guard offset > log.logStartOffset,
            let generation = log.checkpoint(highWatermark: 0)?.generation
        else { return nil }
        return { () throws(LogError) in
            try directory.noteLogStart(Self.folder, to: offset, generation: generation)
        }
    }

    /// Has the log start at `offset`, as was noted; returns what another thread has to remove.
    func moveStart(to offset: Offset) throws(LogError) -> SegmentRemoval? {
        try log.moveLogStart(to: offset)
    }

    var startOffset: Offset { log.logStartOffset }
    var endOffset: Offset { log.logEndOffset }
    var durableOffset: Offset { log.durableOffset }

    func append(_ batch: ByteBuffer, epoch: LeaderEpoch, at offset: Offset) throws(LogError) {
        let headers: [RecordBatchHeader]
        do throws(RecordError) {
            headers = try RecordBatches.headers(of: batch)
        } catch {
            throw .offline("a batch of ours is malformed: \(error)")
        }
        let range = try log.appendAsLeader(batch, headers: headers, leaderEpoch: epoch)
        invariant(
            range.lowerBound == offset, "appended at \(range.lowerBound) instead of \(offset)")
    }

    func appendFetched(_ batches: ByteBuffer) throws(LogError) {
        _ = try log.appendAsFollower(batches)
    }

    func truncate(to offset: Offset) throws(LogError) {
        try log.truncate(to: offset)
    }

    func read(from offset: Offset, below end: Offset, maxBytes: Int) throws(LogError) -> ByteBuffer
    {
        try log.read(from: offset, below: end, maxBytes: maxBytes)
    }

    /// What has to be made durable; `nil` when all is.
    func prepareFlush() -> FlushTicket? {
        let ticket = log.prepareFlush()
        return ticket.isEmpty ? nil : ticket
    }

    func completeFlush(_ ticket: FlushTicket) {
        log.completeFlush(ticket)
    }

    /// What the directory should note, if that has changed; it is written elsewhere.
    func newCheckpoint(highWatermark: Offset) -> (LogDirectory, LogCheckpoint)? {
        guard let directory, let checkpoint = log.checkpoint(highWatermark: highWatermark),
            checkpoint != noted
        else { return nil }
        return (directory, checkpoint)
    }

    /// Takes note that the directory has noted it.
    func completeCheckpoint(_ checkpoint: LogCheckpoint) {
        noted = checkpoint
        committedOffset = max(committedOffset, checkpoint.highWatermark)
    }

    /// - Parameter committed: everything below is; noted for the next start if all is in order.
    func close(clean: Bool, committed: Offset = 0) throws(LogError) {
        if clean, let directory {
            try log.flush()
            if let checkpoint = log.checkpoint(highWatermark: max(committed, committedOffset)) {
                // Without it the next start knows less, which is safe.
                try? directory.checkpoint([Self.folder: checkpoint])
            }
            try directory.closeLog(log)
        } else {
            try log.close(clean: clean)
        }
    }
}
