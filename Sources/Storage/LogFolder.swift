import Synchronization

/// What several threads do with a log's folder as a whole, one at a time: a flush, and its owner.
final class LogFolder: Sendable {
    private let fileSystem: any FileSystem
    private let state: Mutex<State>

    private struct State {
        /// `nil` once the log is deleted.
        var path: String?
        /// The newest version of the leader epochs that is in their file, durably.
        var writtenEpochs: UInt64 = 0
        /// Segments that the log has no more, and whose files are still called as before.
        var retired: [SegmentName] = []
    }

    /// What the names of segments end in that are as good as gone.
    static let deletedSuffix = ".deleted"

    init(path: String, fileSystem: any FileSystem) {
        self.fileSystem = fileSystem
        state = Mutex(State(path: path))
    }

    var writtenEpochs: UInt64 { state.withLock { $0.writtenEpochs } }

    /// Replaces the file with the leader epochs, unless a newer version is there already.
    func writeEpochs(_ bytes: [UInt8], version: UInt64) throws(FileError) {
        try state.withLock { state throws(FileError) in
            guard let path = state.path, version > state.writtenEpochs else { return }
            try fileSystem.replaceFile(EpochCache.fileName, in: path, with: bytes)
            state.writtenEpochs = version
        }
    }

    /// Makes the names of the files in the folder durable.
    func sync() throws(FileError) {
        try state.withLock { state throws(FileError) in
            // A flush that was under way when the log was deleted.
            guard let path = state.path else { return }
            try fileSystem.syncDirectory(path)
        }
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
