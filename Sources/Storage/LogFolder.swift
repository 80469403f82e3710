import Synchronization

/// What several threads do with a log's folder as a whole, one at a time: a flush, and its owner.
final class LogFolder: Sendable {
    private let fileSystem: any FileSystem
    private let state: Mutex<State>

    struct State {
        /// `nil` once the log is deleted.
        var path: String?
        /// Whether the folder is there after a power failure, and says whose log is in it.
        var isSettled: Bool
        /// The newest version of the leader epochs that is in their file, durably.
        var writtenEpochs: UInt64 = 0
        /// A version that is written beside the file, and takes its place when it is durable.
        var staged: UInt64?
        /// A version that has taken the file's place, and has to become durable there.
        var installed: UInt64?
        /// Whether the folder is on the file system that its log directory is on.
        var isOnVolume: Bool?
        /// Segments that the log has no more, and whose files are still called as before.
        var retired: [SegmentName] = []
        /// Segments that are being replaced.
        var swap: Swap?
        /// Changes when whoever prepares a swap has to begin anew.
        var permit: UInt64 = 0
    }

    /// What the names of segments end in that are as good as gone.
    static let deletedSuffix = ".deleted"

    /// - Parameter isSettled: whether the folder's own name, and what it says of itself, are durable.
    init(path: String, fileSystem: any FileSystem, isSettled: Bool) {
        self.fileSystem = fileSystem
        state = Mutex(State(path: path, isSettled: isSettled))
    }

    var isSettled: Bool { state.withLock { $0.isSettled } }

    func withState<T>(
        _ body: (inout State, any FileSystem) throws(FileError) -> T
    ) throws(FileError) -> T {
        try state.withLock { state throws(FileError) in try body(&state, fileSystem) }
    }

    @discardableResult
    func withPermit<T>(_ body: (inout UInt64, Swap?) -> T) -> T {
        state.withLock { body(&$0.permit, $0.swap) }
    }

    var writtenEpochs: UInt64 { state.withLock { $0.writtenEpochs } }

    /// Replaces the file with the leader epochs, unless a newer version is there already.
    func writeEpochs(_ bytes: [UInt8], version: UInt64) throws(FileError) {
        try state.withLock { state throws(FileError) in
            guard let path = state.path, version > state.writtenEpochs else { return }
            try settle(&state)
            state.staged = nil
            state.installed = nil
            try fileSystem.replaceFile(EpochCache.fileName, in: path, with: bytes)
            state.writtenEpochs = version
        }
    }

    /// Writes the leader epochs beside their file; in its place they come by `installEpochs`.
    ///
    /// - Returns: whether they are to be installed; not if a newer version is there already.
    func stageEpochs(_ bytes: [UInt8], version: UInt64) throws(FileError) -> Bool {
        try state.withLock { state throws(FileError) in
            guard let path = state.path, version > state.writtenEpochs else { return false }
            state.staged = nil
            let temporary = "\(path)/\(Self.stagedEpochs)"
            do throws(FileError) {
                let file = try fileSystem.open(temporary, .create)
                try file.write(array: bytes, at: 0)
            } catch {
                try? fileSystem.remove(temporary)
                throw error
            }
            state.staged = version
            return true
        }
    }

    /// Replaces the file with the leader epochs by what was staged, and is durable by now.
    func installEpochs() throws(FileError) {
        try state.withLock { state throws(FileError) in
            // The log was deleted meanwhile, or has written something newer itself.
            guard let path = state.path, let staged = state.staged else { return }
            state.staged = nil
            // What was synced holds all that was written in the folder, and the folder itself.
            state.isSettled = true
            try fileSystem.rename(
                "\(path)/\(Self.stagedEpochs)", to: "\(path)/\(EpochCache.fileName)")
            state.installed = staged
        }
    }

    /// Takes note that everything in the folder is durable, what was installed among it.
    func noteSynced() {
        state.withLock { state in
            state.isSettled = true
            guard let installed = state.installed else { return }
            state.installed = nil
            state.writtenEpochs = max(state.writtenEpochs, installed)
        }
    }

    private static let stagedEpochs = "\(EpochCache.fileName).tmp"

    /// Whether `volume`, always the same one, is what has to be synced for this folder.
    func isOn(_ volume: any Volume) -> Bool {
        state.withLock { state in
            if let isOnVolume = state.isOnVolume { return isOnVolume }
            guard let path = state.path else { return true }
            let isOnVolume = volume.contains(path)
            state.isOnVolume = isOnVolume
            return isOnVolume
        }
    }

    /// Makes the names of the files in the folder durable.
    func sync() throws(FileError) {
        try state.withLock { state throws(FileError) in
            // A flush that was under way when the log was deleted.
            guard let path = state.path else { return }
            if try !settle(&state) { try fileSystem.syncDirectory(path) }
        }
    }

    /// Makes durable that the folder is there and whose it is, before anything in it counts.
    ///
    /// A new log's folder is made without waiting for the disk, since nothing is lost with an empty log.
    /// Before the leader epochs have a file this has been done: a folder without that file has never held
    /// a record that somebody relies on.
    /// - Returns: whether there was anything to do; the names in the folder are durable then, too.
    @discardableResult
    private func settle(_ state: inout State) throws(FileError) -> Bool {
        guard let path = state.path, !state.isSettled else { return false }
        let name = "\(path)/\(PartitionMetadata.fileName)"
        if let bytes = try fileSystem.readFile(name) {
            // Written again, since nobody waited for the first time, and a failure might not be told.
            let file = try fileSystem.open(name, .readWrite)
            try file.write(array: bytes, at: 0)
            try file.sync()
        }
        try fileSystem.syncDirectory(path)
        try fileSystem.syncDirectory(parentDirectory(of: path))
        state.isSettled = true
        return true
    }

    /// Takes note that the log has these segments no more, the oldest first.
    func retire(_ names: [SegmentName]) {
        state.withLock { $0.retired += names }
    }

    /// Renames the segments that were retired, whoever comes first, and returns how many.
    func renameRetired() throws(FileError) -> Int {
        try state.withLock { state throws(FileError) in
            guard let path = state.path else { return 0 }
            var count = 0
            // The oldest first: what is left is always without a gap.
            while let name = state.retired.first {
                try fileSystem.remove("\(path)/\(name.offsetIndex)")
                try fileSystem.remove("\(path)/\(name.timeIndex)")
                try fileSystem.rename(
                    "\(path)/\(name.log)", to: "\(path)/\(name.log)\(Self.deletedSuffix)")
                state.retired.removeFirst()
                count += 1
            }
            return count
        }
    }

    /// Removes the files of a segment that was retired and renamed.
    func removeRetired(_ name: SegmentName) throws(FileError) {
        guard let path = state.withLock({ $0.path }) else { return }
        try fileSystem.remove("\(path)/\(name.log)\(Self.deletedSuffix)")
    }

    /// Renames the folder, durably; nothing is written there under its old name afterwards.
    func delete(renamedTo newPath: String) throws(FileError) {
        try state.withLock { state throws(FileError) in
            guard let path = state.path else { return }
            try fileSystem.rename(path, to: newPath)
            state.path = nil
            try fileSystem.syncDirectory(parentDirectory(of: path))
        }
    }
}
