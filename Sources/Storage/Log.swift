package import Essentials
import NIOCore
import Records

/// The append-only log of one partition: segments of record batches in a folder of their own.
///
/// A log has one owner at a time, a thread or an event loop, which makes every call. Only flushing
/// happens elsewhere: `prepareFlush` makes a ticket, which may be performed on any thread, and
/// `completeFlush` takes it back. Appending never waits for the disk to have written; opening,
/// truncating, moving the log start and closing do.
///
/// What may be relied on:
/// - an append is there whole or not at all, and one write for each segment it goes to;
/// - what was appended is durable once below `durableOffset`, and not before;
/// - offsets rise without a gap (unless the configuration allows for compaction), epochs never fall;
/// - after a crash the log ends at a whole, valid batch, and nothing below the recovery point is
///   missing without `RecoveryReport.damaged`.
package final class Log {
    /// The partition's folder.
    package private(set) var directory: String
    package var config: LogConfig
    let fileSystem: any FileSystem
    let health: StorageHealth
    let store: (any LogCheckpointStore)?

    /// In the order of their offsets, the last being the one that is written; never empty.
    var segments: [Segment]
    var epochs: EpochCache
    let files: LogFolder
    /// Counts the changes of `epochs`.
    var epochsVersion: UInt64 = 0
    var recent: RecentBatches
    var producers: LogProducers

    /// The offset of the first record that may be read.
    package internal(set) var logStartOffset: Offset
    /// The offset that the next record will get.
    package internal(set) var logEndOffset: Offset
    /// Everything below is on stable storage.
    package internal(set) var durableOffset: Offset
    /// The epoch of the last batch; `none` while there is none since the log was last emptied.
    package internal(set) var lastBatchEpoch: LeaderEpoch

    /// Counts truncations, so that what was under way before one is recognised after it.
    var generation: UInt64
    /// Counts changes to the folder that are not yet durable, and those that are.
    var directoryChanges: (made: UInt64, durable: UInt64) = (0, 0)
    /// Segments above damage, which are removed when the log is truncated below them.
    var setAside: [SegmentName]
    /// Why the log takes nothing; `nil` while it does.
    var refusal: LogError?
    /// A log start that is being noted, or was in vain, and isn't in force.
    var startBeingNoted: Offset?
    /// Up to where the log was compacted, as it was noted last.
    var compactedTo: Offset?
    /// The older segments that were read last, and keep their index in memory.
    var recentlyRead: [Segment] = []
    var readPlaces = ReadPlaces()

    private init(
        recovered recovery: LogRecovery, health: StorageHealth,
        store: (any LogCheckpointStore)?
    ) {
        directory = recovery.directory
        config = recovery.config
        fileSystem = recovery.fileSystem
        self.health = health
        self.store = store
        segments = recovery.segments
        epochs = recovery.epochs
        producers = recovery.producers
        files = LogFolder(
            path: recovery.directory, fileSystem: recovery.fileSystem,
            isSettled: recovery.isSynced)
        // So that the first flush makes the folder durable, with what is in it.
        if !recovery.isSynced { directoryChanges.made = 1 }
        recent = RecentBatches(maxBytes: recovery.config.tailBytes)
        logStartOffset = recovery.logStartOffset
        logEndOffset = recovery.logEndOffset
        durableOffset = recovery.logEndOffset
        lastBatchEpoch = recovery.lastBatchEpoch
        setAside = recovery.setAside
        generation = recovery.checkpoint.generation
        compactedTo = recovery.checkpoint.compactedTo
        if case .damaged(let offset, _) = recovery.report.outcome {
            refusal = .damaged(at: offset)
        }
        if recovery.report.rebuiltEpochs { epochsVersion += 1 }
    }

    /// Opens the log in a folder, which is made if it isn't there, and recovers what needs it.
    ///
    /// Logs of a `LogDirectory` are opened through that, which knows the last three parameters.
    ///
    /// - Parameters:
    ///   - afterCleanShutdown: whether the last owner closed the log in order.
    ///   - isNew: the folder was just made, and it need not be durable before there are records.
    ///   - isSynced: all that is there was made durable since it was written.
    ///   - checkpoint: what is known about the log; without it, all of it is checked.
    ///   - store: where to note what must not be forgotten.
    ///   - health: turns bad when the disk fails.
    package static func open(
        at directory: String, config: LogConfig = LogConfig(),
        fileSystem: any FileSystem = .local, afterCleanShutdown: Bool, isNew: Bool = false,
        isSynced: Bool = false, checkpoint: LogCheckpoint = LogCheckpoint(),
        store: (any LogCheckpointStore)? = nil, health: StorageHealth = StorageHealth()
    ) throws(LogError) -> (Log, RecoveryReport) {
        try open(
            at: directory, config: config, fileSystem: fileSystem,
            afterCleanShutdown: afterCleanShutdown, isNew: isNew, isSynced: isSynced, closed: nil,
            checkpoint: checkpoint, store: store, health: health)
    }

    /// - Parameter closed: what the log was when it was closed, if nothing has been changed since.
    static func open(
        at directory: String, config: LogConfig, fileSystem: any FileSystem,
        afterCleanShutdown: Bool, isNew: Bool, isSynced: Bool, closed: ClosedLog?,
        checkpoint: LogCheckpoint, store: (any LogCheckpointStore)?, health: StorageHealth
    ) throws(LogError) -> (Log, RecoveryReport) {
        try health.check()
        var recovery = LogRecovery(
            directory: directory, config: config, fileSystem: fileSystem, checkpoint: checkpoint,
            isClean: afterCleanShutdown, isNew: isNew, isSynced: isSynced || afterCleanShutdown)
        do throws(LogError) {
            try recovery.run(closed: closed)
        } catch {
            throw health.noting(error)
        }
        let log = Log(recovered: recovery, health: health, store: store)
        // What was found counts from here on.
        if !log.files.isSettled, log.byteCount > 0 { try log.flush() }
        // Before anything is appended, or records would be taken for removed later.
        if recovery.isLogStartUntrue { try store?.setLogStart(log.folder, to: nil) }
        if let compactedTo = log.compactedTo, compactedTo > log.logEndOffset {
            log.compactedTo = nil
            _ = try store?.noteCompacted(log.folder, to: nil, generation: log.generation)
        }
        return (log, recovery.report)
    }

    /// The name of the log's folder, under which a log directory knows it.
    package var folder: String {
        String(directory.split(separator: "/").last ?? "")
    }

    /// The bytes of all segments.
    package var byteCount: Int { segments.reduce(0) { $0 + $1.size } }

    package var segmentCount: Int { segments.count }

    /// The segment that is written.
    var active: Segment {
        invariant(!segments.isEmpty, "the log in \(directory) has no segment")
        return segments[segments.count - 1]
    }

    func checkWritable() throws(LogError) {
        if let refusal { throw refusal }
        try health.check()
    }

    /// The state of the files can't be told any more: nothing is taken until the next start.
    ///
    /// Nor by any other log on the disk that did this, so that whoever leads from it hears of it.
    func goOffline(_ error: LogError) -> LogError {
        let reason = if case .offline(let reason) = error { reason } else { "\(error)" }
        if refusal != .closed { refusal = .offline(reason) }
        health.fail(reason)
        return .offline(reason)
    }

    /// The index of the segment that a batch with `offset` lies in, if there is one.
    func segmentIndex(for offset: Offset) -> Int {
        max(0, segments.partitioningIndex { $0.baseOffset > offset } - 1)
    }

    /// Keeps open what reading `segment` opened, and lets go of the one not read for longest.
    func noteRead(_ segment: Segment) {
        guard segment !== active else { return }
        if let index = recentlyRead.firstIndex(where: { $0 === segment }) {
            recentlyRead.remove(at: index)
        }
        recentlyRead.append(segment)
        guard recentlyRead.count > 4 else { return }
        let oldest = recentlyRead.removeFirst()
        // A truncation may have made it the one that is written.
        if oldest !== active { oldest.release() }
    }

    // MARK: Leader epochs

    /// The epoch of the last batch, or of a leader that has begun and not yet appended.
    package var latestEpoch: LeaderEpoch { epochs.latest }

    /// Notes that the leader of `epoch` begins at `startOffset`, the log end offset.
    package func assignEpoch(_ epoch: LeaderEpoch, startOffset: Offset) {
        if epochs.assign(epoch, startOffset: startOffset) { epochsVersion += 1 }
    }

    /// The largest epoch in this log not above `epoch`, and where it ends (KIP-101, KIP-279).
    ///
    /// The epoch is `none` when everything in the log is newer, or the log is empty.
    package func endOffset(for epoch: LeaderEpoch) -> (epoch: LeaderEpoch, endOffset: Offset) {
        epochs.end(for: epoch, logEnd: logEndOffset) ?? (.none, logStartOffset)
    }

    /// The epoch of the record at `offset`; `none` where that is not known.
    package func epoch(at offset: Offset) -> LeaderEpoch {
        offset >= logEndOffset ? .none : epochs.epoch(at: offset)
    }

    // MARK: The end

    /// Closes the log; nothing works afterwards.
    ///
    /// - Parameter clean: whether all is made durable first, so that the next start can trust it.
    package func close(clean: Bool) throws(LogError) {
        guard refusal != .closed else { return }
        defer {
            refusal = .closed
            recent.removeAll()
        }
        guard clean else { return files.cancelSwaps() }
        if let refusal {
            // Damage has its own marker; anything else is looked at when the log is next opened.
            guard case .damaged = refusal else { throw refusal }
        }
        try flush()
        try health.watch { () throws(FileError) in try files.resolveSwap() }
        if active.hasReserve { active.giveBackReserve() }
        active.writeIndex()
        closeProducers()
    }

    /// Removes the log for good: renamed first, so that a crash leaves all of it or a leftover.
    package func delete() throws(LogError) {
        let renamed = try markDeleted()
        try io { () throws(FileError) in try fileSystem.removeRecursively(renamed) }
    }

    /// Renames the folder so that it counts as deleted, and returns its new path; what removes it
    /// can take its time on another thread.
    package func markDeleted() throws(LogError) -> String {
        refusal = .closed
        recent.removeAll()
        files.cancelSwaps()
        let renamed = "\(parentDirectory(of: directory))/\(LogDirectory.deletedName(of: folder))"
        try health.watch { () throws(FileError) in try files.delete(renamedTo: renamed) }
        directory = renamed
        return renamed
    }
}

// One owner at a time makes every call; whoever hands a log over orders what happens before and after.
extension Log: @unchecked Sendable {}
