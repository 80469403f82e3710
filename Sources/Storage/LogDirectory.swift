package import Essentials
import Synchronization

/// One of a node's log directories: a lock, the marks of a clean stop, what is known of each log in
/// it, and the logs' folders.
///
/// May be used from any thread; the calls that write block until that is durable.
package final class LogDirectory: LogCheckpointStore {
    package static let lockFile = ".lock"
    package static let cleanShutdownFile = ".clean-shutdown"
    /// What the name of a folder ends in whose log is deleted and whose files may still be there.
    package static let deletedSuffix = ".delete"
    /// What the name of a folder ends in that is to become a log, moved here from another directory.
    package static let futureSuffix = ".future"

    /// The folder of the metadata log, which is nobody's partition and looks after itself.
    package static let metadataFolder = "__cluster_metadata-0"

    package let path: String
    package let fileSystem: any FileSystem
    /// Turns bad when the directory's disk fails; nothing in it takes records then.
    package let health = StorageHealth()
    /// Whether the last process that used the directory stopped in order.
    package let wasCleanShutdown: Bool
    /// The broker epoch that the last process noted when it stopped in order.
    package let lastBrokerEpoch: BrokerEpoch?
    /// Whether all that an earlier process left is durable.
    private let isSynced: Bool
    /// Where that is so; `nil` for everywhere.
    private let syncedVolume: (any Volume)?
    private let lock: any FileLock
    private let state: Mutex<State>

    private struct State {
        var checkpoints: DirectoryCheckpoints
        /// Logs whose state on disk may not be that of a clean stop, and which nobody has opened.
        var unsettled: Set<String>
        /// Folders that an earlier process has left, and nobody has deleted since: what is known of how
        /// it left them is true of no other.
        var inherited: Set<String>
        /// Logs that were opened, and not yet closed in order.
        var open: Set<String> = []
        /// Logs that something was known of producers in when they were closed, or may have been.
        var withProducers: Set<String>
        /// What logs were when the last process closed them, of those that were not opened since.
        var listed: [String: ClosedLog]
        /// What logs are that this process has closed.
        var closedAs: [String: ClosedLog] = [:]
        /// Checkpoint files that are not, or not certainly, what `checkpoints` says.
        var unwritten: Set<DirectoryCheckpoints.Kind> = []
        /// What an open log's checkpoints are of: its opening, and its truncations since.
        var generations: [String: UInt64] = [:]
        /// Logs that this process has closed in order, or brought here so.
        var closed: Set<String> = []
        var isClosed = false

        /// Nothing is left of the log whose state could matter.
        mutating func settle(_ folder: String) {
            unsettled.remove(folder)
            inherited.remove(folder)
            open.remove(folder)
            withProducers.remove(folder)
            closed.remove(folder)
            listed[folder] = nil
            closedAs[folder] = nil
        }
    }

    private init(
        path: String, fileSystem: any FileSystem, lock: any FileLock,
        mark: CleanShutdownMark?, isSynced: Bool, syncedVolume: (any Volume)?,
        listed: [String: ClosedLog],
        checkpoints: DirectoryCheckpoints, folders: [String]
    ) {
        self.path = path
        self.fileSystem = fileSystem
        self.lock = lock
        self.isSynced = isSynced
        self.syncedVolume = syncedVolume
        wasCleanShutdown = mark != nil
        lastBrokerEpoch = mark?.brokerEpoch
        let folders = Set(folders)
        state = Mutex(
            State(
                checkpoints: checkpoints,
                unsettled: mark.map { folders.intersection($0.unsettled) } ?? folders,
                inherited: folders,
                withProducers: mark?.withProducers.map { folders.intersection($0) } ?? folders,
                listed: listed))
    }

    /// Opens the directory, making it if need be, and locks it against all others.
    ///
    /// The mark of a clean stop is taken away, durably, before this returns.
    /// - Throws: `LogError.inUse` when another process, or another part of this one, has it open.
    package static func open(
        _ path: String, fileSystem: any FileSystem = .local
    ) throws(LogError) -> LogDirectory {
        try io { () throws(FileError) in try fileSystem.makeDirectories(path) }
        let lock = try io { () throws(FileError) in try fileSystem.lock("\(path)/\(lockFile)") }
        guard let lock else { throw .inUse(directory: path) }
        return try io { () throws(FileError) in
            let marker = try fileSystem.readFile("\(path)/\(cleanShutdownFile)")
            try fileSystem.remove("\(path)/\(cleanShutdownFile)")
            for name in try fileSystem.contents(of: path) where name.hasSuffix(".tmp") {
                if try !fileSystem.isDirectory("\(path)/\(name)") {
                    try fileSystem.remove("\(path)/\(name)")
                }
            }
            // Of no use without the mark, nor a second time.
            let list = try fileSystem.readFile(
                "\(path)/\(ClosedLog.fileName)", limit: ClosedLog.maxBytes)
            try fileSystem.remove("\(path)/\(ClosedLog.fileName)")
            try fileSystem.syncDirectory(path)
            let mark = marker.flatMap { CleanShutdownMark(decoding: $0) }
            var isSynced = mark?.unsettled.isEmpty ?? false
            // After a crash memory may be ahead of the disk. All at once, since it may be so anywhere.
            var syncedVolume: (any Volume)?
            if !isSynced {
                isSynced = try fileSystem.syncFileSystem(path)
                syncedVolume = try fileSystem.volume(of: path)
            }
            let checkpoints = try DirectoryCheckpoints(reading: path, fileSystem: fileSystem)
            return LogDirectory(
                path: path, fileSystem: fileSystem, lock: lock,
                mark: mark, isSynced: isSynced, syncedVolume: syncedVolume,
                listed: mark?.listChecksum.flatMap { checksum in
                    list.map { ClosedLog.decode($0, checksum: checksum) }
                } ?? [:], checkpoints: checkpoints,
                folders: try logFolders(in: path, fileSystem))
        }
    }

    // MARK: Logs

    /// The folders that hold a partition's log, sorted; the metadata log's is none of them.
    package func partitionFolders() throws(LogError) -> [PartitionFolder] {
        try io { () throws(FileError) in
            try Self.logFolders(in: path, fileSystem).filter { $0 != Self.metadataFolder }
                .compactMap { PartitionFolder($0) }
        }
    }

    /// The folders that hold a log, the metadata log's among them: a crash spares none.
    private static func logFolders(
        in path: String, _ fileSystem: any FileSystem
    ) throws(FileError) -> [String] {
        var folders: [String] = []
        for name in try fileSystem.contents(of: path)
        where PartitionFolder(name) != nil {
            if try fileSystem.isDirectory("\(path)/\(name)") { folders.append(name) }
        }
        return folders
    }

    /// Opens the log in a folder of this directory, making it if it isn't there.
    ///
    /// Several logs may be opened at a time, on different threads.
    package func openLog(
        _ folder: String, config: LogConfig = LogConfig()
    ) throws(LogError) -> (Log, RecoveryReport) {
        try openLog(folder, config: config, isNew: false)
    }

    private func openLog(
        _ folder: String, config: LogConfig, isNew: Bool
    ) throws(LogError) -> (Log, RecoveryReport) {
        // Someone may have put the folder on another disk, by a link.
        let isCovered = syncedVolume?.contains("\(path)/\(folder)") ?? true
        let (checkpoint, isTrusted, isSynced, listed) = state.withLock { state in
            let listed = isNew ? nil : state.listed[folder]
            state.listed[folder] = nil
            state.closedAs[folder] = nil
            let isInherited = !isNew && state.inherited.contains(folder)
            // Unless it was written to by this process.
            let isSynced =
                self.isSynced && isInherited && isCovered
                && state.generations[folder] == nil
            let wasClosed = state.closed.remove(folder) != nil && !isNew
            let isTrusted =
                wasClosed
                || wasCleanShutdown && isInherited && !state.unsettled.contains(folder)
                    && !state.open.contains(folder)
            state.unsettled.remove(folder)
            // From here on, until it is closed in order.
            state.open.insert(folder)
            // So that a checkpoint of another log, once in the same folder, isn't taken for this one's.
            var checkpoint = state.checkpoints[folder]
            checkpoint.generation = openings.add(1, ordering: .relaxed).newValue << 32
            checkpoint.hasProducers = state.withProducers.contains(folder)
            state.generations[folder] = checkpoint.generation
            return (checkpoint, isTrusted, isSynced, isTrusted ? listed : nil)
        }
        do throws(LogError) {
            return try Log.open(
                at: "\(path)/\(folder)", config: config, fileSystem: fileSystem,
                afterCleanShutdown: isTrusted, isNew: isNew, isSynced: isSynced,
                closed: listed, checkpoint: checkpoint, store: self, health: health)
        } catch {
            // Nobody will close it: it is for the next who opens it to look at.
            state.withLock { state in
                state.open.remove(folder)
                state.unsettled.insert(folder)
            }
            throw error
        }
    }

    /// Makes the folder of a new log, with the id of the topic it belongs to, and opens it.
    ///
    /// Waits for no disk: after a power failure the log may be missing, in part or as a whole, until its
    /// first flush is done. Nobody can have relied on anything in it before.
    ///
    /// - Parameter brokerEpoch: the registration under which it is made; see `copyOrder`.
    package func createLog(
        _ folder: PartitionFolder, topicID: TopicID, brokerEpoch: BrokerEpoch = .none,
        config: LogConfig = LogConfig()
    ) throws(LogError) -> Log {
        let directory = "\(path)/\(folder.name)"
        try checkIsPartition(folder.name)
        try health.watch { () throws(FileError) in
            try fileSystem.makeDirectory(directory)
            // Not what an earlier process has left; and if this fails, nobody knows what is in it.
            state.withLock { state in
                state.settle(folder.name)
                state.unsettled.insert(folder.name)
            }
            let file = try fileSystem.open(
                "\(directory)/\(PartitionMetadata.fileName)", .create)
            try file.write(
                array: PartitionMetadata(topicID: topicID, brokerEpoch: brokerEpoch).encoded,
                at: 0)
        }
        try forget(folder.name)
        return try openLog(folder.name, config: config, isNew: true).0
    }

    /// Makes a log of which all that is left is what was noted of it, and opens it: damaged, from its start.
    ///
    /// Unlike a new one it is not taken for one that never had records.
    package func createMissingLog(
        _ folder: PartitionFolder, topicID: TopicID, brokerEpoch: BrokerEpoch = .none,
        config: LogConfig = LogConfig()
    ) throws(LogError) -> (Log, RecoveryReport) {
        let directory = "\(path)/\(folder.name)"
        try checkIsPartition(folder.name)
        try health.watch { () throws(FileError) in
            try fileSystem.makeDirectories(directory)
            try fileSystem.replaceFile(
                PartitionMetadata.fileName, in: directory,
                with: PartitionMetadata(topicID: topicID, brokerEpoch: brokerEpoch).encoded)
        }
        return try openLog(folder.name, config: config, isNew: false)
    }

    private func checkIsPartition(_ folder: String) throws(LogError) {
        guard folder == Self.metadataFolder else { return }
        throw .unexpectedFile(
            "\(path)/\(folder)", reason: "that folder is the metadata log's, not a partition's")
    }

    /// The topic that the log in `folder` belongs to; `nil` when its file is missing or no good.
    package func topicID(of folder: String) throws(LogError) -> TopicID? {
        try metadata(of: folder)?.topicID
    }

    /// Tells which of a partition's logs in several directories counts: the one of the highest order.
    ///
    /// `nil` when that can't be told. A log that was made under a later registration of the broker is newer: its directory could not
    /// be used when the broker registered, or was not the broker's.
    package func copyOrder(of folder: String) throws(LogError) -> LogCopyOrder? {
        try metadata(of: folder).map {
            LogCopyOrder(brokerEpoch: $0.brokerEpoch, moves: $0.moves)
        }
    }

    func metadata(of folder: String) throws(LogError) -> PartitionMetadata? {
        if let listed = state.withLock({ $0.listed[folder]?.metadata }), !listed.isEmpty {
            return PartitionMetadata(decoding: listed)
        }
        return try io { () throws(FileError) in
            try fileSystem.readFile("\(path)/\(folder)/\(PartitionMetadata.fileName)")
        }.flatMap { PartitionMetadata(decoding: $0) }
    }

    /// Whether a folder holds records that somebody may rely on, whatever else may be missing from it or
    /// be no good.
    ///
    /// In one whose first flush a crash has cut short there may be records which nobody can rely on; see
    /// `LogFolder.settle`. A folder that can't be looked into counts as one that does: nobody may take it for empty.
    package func hasRecords(_ folder: String) -> Bool {
        let directory = "\(path)/\(folder)"
        do throws(FileError) {
            guard try fileSystem.isDirectory(directory) else { return false }
            let names = try fileSystem.contents(of: directory)
            guard checkpoint(of: folder).floor > 0 || names.contains(EpochCache.fileName) else {
                return false
            }
            for name in names where name.hasSuffix(".log") {
                if try fileSystem.size(of: "\(directory)/\(name)") ?? 0 > 0 { return true }
            }
            return false
        } catch {
            return true
        }
    }

    /// Whether there is such a folder, or may be.
    package func hasFolder(_ folder: String) -> Bool {
        (try? fileSystem.isDirectory("\(path)/\(folder)")) ?? true
    }

    /// How many bytes have to be read and checked before the log in `folder` can be used, about.
    package func bytesToCheck(_ folder: String) -> Int {
        let (isTrusted, checkpoint) = state.withLock { state in
            (wasCleanShutdown && !state.unsettled.contains(folder), state.checkpoints[folder])
        }
        let directory = "\(path)/\(folder)"
        guard !isTrusted, let names = try? fileSystem.contents(of: directory) else { return 0 }
        let segments = names.filter { $0.hasSuffix(".log") }.compactMap { SegmentName($0) }
        let known = max(checkpoint.recoveryPoint, checkpoint.logStartOffset ?? 0)
        let first = segments.lastIndex { $0.baseOffset <= known } ?? 0
        return segments.dropFirst(first).reduce(0) { sum, segment in
            sum + (((try? fileSystem.size(of: "\(directory)/\(segment.log)")) ?? nil) ?? 0)
        }
    }

    /// Closes a log in order: all of it is durable afterwards, and the next start can trust it.
    package func closeLog(_ log: Log) throws(LogError) {
        let isDamaged = log.refusal != nil
        try log.close(clean: true)
        // Without it the next start looks for itself.
        let closed = isDamaged ? nil : try? ClosedLog(log)
        state.withLock { state in
            state.open.remove(log.folder)
            state.closed.insert(log.folder)
            state.closedAs[log.folder] = closed
            if log.hasProducers {
                state.withProducers.insert(log.folder)
            } else {
                state.withProducers.remove(log.folder)
            }
        }
    }

    /// Deletes a log; returns what its folder is called now, for `removeDeleted` to remove.
    package func deleteLog(_ log: Log) throws(LogError) -> String {
        let folder = log.folder
        let renamed = try log.markDeleted()
        state.withLock { $0.settle(folder) }
        try forgetIfThereIsRoom(folder)
        return String(renamed.split(separator: "/").last ?? "")
    }

    /// Deletes the log in a folder that is not open.
    package func deleteLog(inFolder folder: String) throws(LogError) -> String {
        try checkIsPartition(folder)
        let renamed = Self.deletedName(of: folder)
        try health.watch { () throws(FileError) in
            try fileSystem.rename("\(path)/\(folder)", to: "\(path)/\(renamed)")
            try fileSystem.syncDirectory(path)
        }
        state.withLock { $0.settle(folder) }
        try forgetIfThereIsRoom(folder)
        return renamed
    }

    /// What a deleted log's folder is called from then on.
    static func deletedName(of folder: String) -> String {
        let unique = String(UInt64.random(in: .min ... .max), radix: 36)
        return "\(deletedStem(of: folder)).\(unique)\(deletedSuffix)"
    }

    /// What the names of a folder's deleted logs begin with, and those of no other.
    ///
    /// A long name is cut, or it would be longer than a name may be; what is cut off, and with it at
    /// least the partition, is told by a hash.
    private static func deletedStem(of folder: String) -> String {
        guard folder.utf8.count > 200 else { return folder }
        // FNV-1a; it has to be the same in every process.
        let hash = folder.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { hash, byte in
            (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        var name = folder
        while name.utf8.count > 200 { name.removeLast() }
        // No topic has this character in its name.
        return "\(name)~\(String(hash, radix: 36))"
    }

    /// The folders of deleted logs whose files are still there.
    package func deletedFolders() throws(LogError) -> [String] {
        try io { () throws(FileError) in
            try fileSystem.contents(of: path).filter { $0.hasSuffix(Self.deletedSuffix) }
        }
    }

    // MARK: Moving

    /// What a log's folder is called that is being copied here.
    static func futureName(of folder: String) -> String {
        let unique = String(UInt64.random(in: .min ... .max), radix: 36)
        return "\(deletedStem(of: folder)).\(unique)\(futureSuffix)"
    }

    /// The folders of logs that never got here as a whole.
    package func futureFolders() throws(LogError) -> [String] {
        try io { () throws(FileError) in
            try fileSystem.contents(of: path).filter { $0.hasSuffix(Self.futureSuffix) }
        }
    }

    /// Removes a copy that was given up.
    package func removeFuture(_ name: String) throws(LogError) {
        guard name.hasSuffix(Self.futureSuffix) else { return }
        try io { () throws(FileError) in
            guard try fileSystem.isDirectory("\(path)/\(name)") else { return }
            try fileSystem.removeRecursively("\(path)/\(name)")
        }
    }

    /// Makes a folder that is durable with all in it the log of a partition.
    func adopt(
        _ future: String, as folder: String, _ checkpoint: LogCheckpoint
    ) throws(LogError) {
        do throws(LogError) {
            // First, or a crash would leave a log of which nothing is known to be durable.
            try update { state in
                var changed = state.checkpoints.remove(folder)
                let offsets: [(DirectoryCheckpoints.Kind, Offset?)] = [
                    (.recoveryPoint, checkpoint.recoveryPoint),
                    (.highWatermark, checkpoint.highWatermark),
                    (.logStart, checkpoint.logStartOffset), (.compacted, checkpoint.compactedTo),
                ]
                for (kind, offset) in offsets where state.checkpoints.set(kind, folder, offset) {
                    changed.insert(kind)
                }
                return changed
            }
            try health.watch { () throws(FileError) in
                try fileSystem.rename("\(path)/\(future)", to: "\(path)/\(folder)")
                try fileSystem.syncDirectory(path)
            }
        } catch {
            try? forget(folder)
            throw error
        }
        state.withLock { state in
            state.closed.insert(folder)
            state.listed[folder] = nil
            state.closedAs[folder] = nil
            if checkpoint.hasProducers {
                state.withProducers.insert(folder)
            } else {
                state.withProducers.remove(folder)
            }
        }
    }

    /// Removes the files of a deleted log, however many there are.
    ///
    /// Nothing is noted of the log any more when this returns. If that fails the folder remains, empty:
    /// it is what tells the next start that the log is not missing.
    package func removeDeleted(_ folder: String) throws(LogError) {
        guard folder.hasSuffix(Self.deletedSuffix) else { return }
        let directory = "\(path)/\(folder)"
        try io { () throws(FileError) in
            for name in try fileSystem.contents(of: directory) {
                if try fileSystem.isDirectory("\(directory)/\(name)") {
                    try fileSystem.removeRecursively("\(directory)/\(name)")
                } else {
                    try fileSystem.remove("\(directory)/\(name)")
                }
            }
        }
        // What there may have been no room for.
        try update { _ in [] }
        try io { () throws(FileError) in try fileSystem.removeDirectory(directory) }
    }

    private func forgetIfThereIsRoom(_ folder: String) throws(LogError) {
        do throws(LogError) {
            try forget(folder)
        } catch {
            // Deleting is what makes room: `removeDeleted` does it then.
            guard case .io(let cause) = error, cause.isOutOfSpace else { throw error }
        }
    }

    private func forget(_ folder: String) throws(LogError) {
        try update { state in
            state.generations[folder] = nil
            return state.checkpoints.remove(folder)
        }
    }

    /// Takes back what is still noted of logs that were deleted when the last process died.
    package func forgetDeleted() throws(LogError) {
        let stems = Set(
            try (deletedFolders() + futureFolders()).map { name in
                name.split(separator: ".", omittingEmptySubsequences: false)
                    .dropLast(2).joined(separator: ".")
            })
        guard !stems.isEmpty else { return }
        let present = Set(try partitionFolders().map(\.name))
        try update { state in
            var changed = Set<DirectoryCheckpoints.Kind>()
            for folder in state.checkpoints.folders
            where !present.contains(folder) && stems.contains(Self.deletedStem(of: folder)) {
                changed.formUnion(state.checkpoints.remove(folder))
            }
            return changed
        }
    }

    // MARK: Checkpoints

    /// Notes, durably, up to where logs are durable, and their high watermarks.
    ///
    /// Take each from `Log.checkpoint`; the folder is the key. One that was taken before a truncation
    /// of its log is ignored.
    package func checkpoint(_ logs: [String: LogCheckpoint]) throws(LogError) {
        try update { state in
            var changed = Set<DirectoryCheckpoints.Kind>()
            for (folder, checkpoint) in logs
            where state.generations[folder] == checkpoint.generation {
                if state.checkpoints.set(.recoveryPoint, folder, checkpoint.recoveryPoint) {
                    changed.insert(.recoveryPoint)
                }
                if state.checkpoints.set(.highWatermark, folder, checkpoint.highWatermark) {
                    changed.insert(.highWatermark)
                }
            }
            return changed
        }
    }

    /// What is known of the log in `folder`.
    package func checkpoint(of folder: String) -> LogCheckpoint {
        state.withLock { $0.checkpoints[folder] }
    }

    package func willTruncate(
        _ folder: String, to end: Offset, generation: UInt64
    ) throws(LogError) {
        let before = state.withLock { $0.generations[folder] }
        do throws(LogError) {
            try update { state in
                state.generations[folder] = generation
                var changed = Set<DirectoryCheckpoints.Kind>()
                // What takes the place of compacted records is not.
                for kind in [DirectoryCheckpoints.Kind.recoveryPoint, .highWatermark, .compacted]
                where state.checkpoints.lower(kind, folder, to: end) {
                    changed.insert(kind)
                }
                return changed
            }
        } catch {
            // The log stays as it is, and what it says of itself is to be noted again.
            state.withLock { $0.generations[folder] = before }
            throw error
        }
    }

    package func setLogStart(_ folder: String, to offset: Offset?) throws(LogError) {
        try updateStart(of: folder) { state in
            state.checkpoints.set(.logStart, folder, offset) ? [.logStart] : []
        }
    }

    /// Like `update`; a log start that couldn't be noted isn't noted later with something else either,
    /// since it is not in force.
    private func updateStart(
        of folder: String, _ change: (inout State) -> Set<DirectoryCheckpoints.Kind>
    ) throws(LogError) {
        var before: Offset?
        try update { state in
            before = state.checkpoints[folder].logStartOffset
            return change(&state)
        } undo: { state in
            _ = state.checkpoints.set(.logStart, folder, before)
        }
    }

    package func raiseLogStart(
        _ folder: String, to offset: Offset, generation: UInt64
    ) throws(LogError) -> Bool {
        var isCurrent = false
        try updateStart(of: folder) { state in
            // Whatever truncated the log has noted a start of its own, which may be lower.
            isCurrent = state.generations[folder] == generation
            guard isCurrent, offset > state.checkpoints[folder].logStartOffset ?? -1 else {
                return []
            }
            return state.checkpoints.set(.logStart, folder, offset) ? [.logStart] : []
        }
        return isCurrent
    }

    package func noteCompacted(
        _ folder: String, to offset: Offset?, generation: UInt64
    ) throws(LogError) -> Bool {
        var isCurrent = false
        try update { state in
            isCurrent = state.generations[folder] == generation
            guard isCurrent else { return [] }
            return state.checkpoints.set(.compacted, folder, offset) ? [.compacted] : []
        }
        return isCurrent
    }

    /// Notes, durably, that a log is to start at `offset`, for `Log.moveLogStart` to follow.
    ///
    /// - Parameter generation: the log's, by its `checkpoint`.
    /// - Returns: whether that was noted; it is not when the log was truncated since.
    package func noteLogStart(
        _ folder: String, to offset: Offset, generation: UInt64
    ) throws(LogError) -> Bool {
        var isCurrent = false
        try updateStart(of: folder) { state in
            isCurrent = state.generations[folder] == generation
            guard isCurrent else { return [] }
            return state.checkpoints.set(.logStart, folder, offset) ? [.logStart] : []
        }
        return isCurrent
    }

    /// Changes what is known, and writes the files that this changes before anyone else goes on.
    private func update(
        _ change: (inout State) -> Set<DirectoryCheckpoints.Kind>,
        undo: (inout State) -> Void = { _ in }
    ) throws(LogError) {
        try health.check()
        do throws(LogError) {
            try state.withLock { state throws(LogError) in
                guard !state.isClosed else { throw .closed }
                state.unwritten.formUnion(change(&state))
                do throws(LogError) {
                    for kind in state.unwritten.sorted() {
                        try io { () throws(FileError) in
                            try state.checkpoints.write(kind, to: path, fileSystem: fileSystem)
                        }
                        state.unwritten.remove(kind)
                    }
                } catch {
                    undo(&state)
                    throw error
                }
            }
        } catch {
            // Without the lock, since whoever hears of it may come back here.
            throw health.noting(error)
        }
    }

    // MARK: The end

    /// Gives the directory back.
    ///
    /// With `clean`, the mark of a clean stop is left if every log that was opened was closed with
    /// `closeLog`. It names the logs that were not opened although they needed a look: the next start
    /// doesn't trust those.
    ///
    /// - Parameter brokerEpoch: `none` if there was none in this run; the last one stays then.
    /// - Returns: whether the mark was left.
    @discardableResult
    package func close(clean: Bool, brokerEpoch: BrokerEpoch = .none) throws(LogError) -> Bool {
        defer { lock.unlock() }
        return try state.withLock { state throws(LogError) in
            guard !state.isClosed else { return false }
            state.isClosed = true
            guard clean, state.open.isEmpty, health.failure == nil else { return false }
            let (list, checksum) = ClosedLog.encode(
                state.listed.merging(state.closedAs) { _, closed in closed })
            var isListed = true
            do throws(FileError) {
                try fileSystem.replaceFile(ClosedLog.fileName, in: path, with: list)
            } catch {
                guard !error.isFailedSync else { throw .io(error) }
                isListed = false
            }
            let mark = CleanShutdownMark(
                brokerEpoch: brokerEpoch == .none ? lastBrokerEpoch ?? .none : brokerEpoch,
                unsettled: state.unsettled, withProducers: state.withProducers,
                listChecksum: isListed ? checksum : nil)
            guard let bytes = mark.encoded else { return false }
            try io { () throws(FileError) in
                try fileSystem.replaceFile(Self.cleanShutdownFile, in: path, with: bytes)
            }
            return true
        }
    }
}

/// Counts the logs that this process has opened, in whichever directory: what was under way in one of
/// them is recognised in every other.
private let openings = Atomic<UInt64>(0)
