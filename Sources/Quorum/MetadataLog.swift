internal import Essentials
internal import NIOCore
internal import Raft
internal import Records
internal import Storage

/// The metadata log on disk: record batches in `__cluster_metadata-0`, as any partition's.
///
/// A voter's directory is locked and remembers how far the log was durable, so that damage is told
/// from a torn tail. An observer's log is a copy that can be fetched again, so it needs neither.
final class MetadataLog {
    static let folder = "__cluster_metadata-0"

    private let directory: LogDirectory?
    private let log: Log
    /// The checkpoint on disk, as far as this process has written it.
    private var noted: Offset = 0

    /// - Parameter directory: a voter's; `nil` for an observer.
    init(
        directory: LogDirectory?, path: String, fileSystem: any FileSystem
    ) throws(QuorumError) {
        self.directory = directory
        let folder = "\(path)/\(Self.folder)"
        do throws(LogError) {
            if let directory {
                let (log, report) = try directory.openLog(Self.folder)
                if case .damaged(let offset, _) = report.outcome {
                    throw LogError.damaged(at: offset)
                }
                self.log = log
            } else {
                log = try Self.openCopy(at: folder, fileSystem)
            }
        } catch {
            if case .damaged(let offset) = error { throw .damagedLog(path: folder, at: offset) }
            throw .storage(error)
        }
    }

    /// An observer's log; if it is no good, it is fetched anew.
    private static func openCopy(
        at folder: String, _ fileSystem: any FileSystem
    ) throws(LogError) -> Log {
        let (log, report) = try Log.open(
            at: folder, fileSystem: fileSystem, afterCleanShutdown: false)
        if case .damaged = report.outcome {
            try log.delete()
            return try Log.open(
                at: folder, fileSystem: fileSystem, afterCleanShutdown: false
            ).0
        }
        return log
    }

    /// The log as the state machine sees it: ends, and where each epoch's records start.
    var state: LogState? {
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
            startOffset: log.logStartOffset, endOffset: log.logEndOffset, epochs: epochs)
    }

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
        guard let directory, log.durableOffset > noted,
            let checkpoint = log.checkpoint(highWatermark: highWatermark)
        else { return nil }
        noted = log.durableOffset
        return (directory, checkpoint)
    }

    func close(clean: Bool) throws(LogError) {
        if clean, let directory {
            try directory.closeLog(log)
        } else {
            try log.close(clean: clean)
        }
    }
}
