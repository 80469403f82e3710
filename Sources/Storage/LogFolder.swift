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
    }

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
