import Foundation
import Glibc
import Storage
import Synchronization

/// This machine's disk, which can be told to be full, to fail when it is to sync, or to rot.
final class FaultyFileSystem: FileSystem {
    enum Fault {
        case full
        case syncFails
        /// That it is full shows only when it is to sync.
        case fullAtSync
        /// What is read is not what was written.
        case rots
    }

    private let local = LocalFileSystem()
    private let state = Mutex<Fault?>(nil)
    private let failures = Mutex(0)
    private let affected = Mutex("")
    private let made = Mutex<[String]>([])

    private let left = Mutex<Int?>(nil)
    private let gate = Mutex<DispatchSemaphore?>(nil)
    private let waits = Mutex(0)
    private let timeouts = Mutex(0)

    /// What every sync waits for.
    var syncGate: DispatchSemaphore? {
        get { gate.withLock { $0 } }
        set { gate.withLock { $0 = newValue } }
    }

    /// How many syncs came to the gate, and how many were let through only after a long time.
    var syncsHeld: (all: Int, tooLong: Int) {
        (waits.withLock { $0 }, timeouts.withLock { $0 })
    }

    /// How many more changes are made; `nil` for any number.
    ///
    /// Whoever makes them is dead then.
    var changesLeft: Int? {
        get { left.withLock { $0 } }
        set { left.withLock { $0 = newValue } }
    }

    fileprivate func checkChange(_ path: String) throws(FileError) {
        let isDead = left.withLock { left in
            guard let count = left else { return false }
            left = max(0, count - 1)
            return count == 0
        }
        if isDead { throw FileError("write", path, code: EIO) }
    }

    /// How often a write or a sync failed.
    var failureCount: Int { failures.withLock { $0 } }

    var fault: Fault? {
        get { state.withLock { $0 } }
        set { state.withLock { $0 = newValue } }
    }

    /// Other files are as good as ever.
    var onlyPathsContaining: String {
        get { affected.withLock { $0 } }
        set { affected.withLock { $0 = newValue } }
    }

    private func affects(_ path: String) -> Bool {
        let part = onlyPathsContaining
        return part.isEmpty || path.contains(part)
    }

    func checkWrite(_ path: String) throws(FileError) {
        try checkChange(path)
        guard fault == .full, affects(path) else { return }
        failures.withLock { $0 += 1 }
        throw FileError("write", path, code: ENOSPC)
    }

    func checkSync(_ path: String) throws(FileError) {
        try checkChange(path)
        if affects(path), let gate = syncGate {
            waits.withLock { $0 += 1 }
            // Whoever waits for this sync would wait forever.
            if gate.wait(timeout: .now() + 20) == .timedOut { timeouts.withLock { $0 += 1 } }
        }
        let fault = fault
        guard fault == .syncFails || fault == .fullAtSync, affects(path) else { return }
        failures.withLock { $0 += 1 }
        throw FileError("sync", path, code: fault == .fullAtSync ? ENOSPC : EIO)
    }

    /// The files that were made, in order, every time they were.
    var created: [String] { made.withLock { $0 } }

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        if case .create = mode {
            try checkChange(path)
            made.withLock { $0.append(path) }
        }
        return FaultyFile(try local.open(path, mode), path: path, system: self)
    }

    func size(of path: String) throws(FileError) -> Int? { try local.size(of: path) }

    func contents(of directory: String) throws(FileError) -> [String] {
        try local.contents(of: directory)
    }

    func isDirectory(_ path: String) throws(FileError) -> Bool { try local.isDirectory(path) }
    func makeDirectory(_ path: String) throws(FileError) {
        try checkChange(path)
        try local.makeDirectory(path)
    }

    func rename(_ path: String, to newPath: String) throws(FileError) {
        try checkChange(path)
        try local.rename(path, to: newPath)
    }

    func remove(_ path: String) throws(FileError) {
        try checkChange(path)
        try local.remove(path)
    }

    func removeDirectory(_ path: String) throws(FileError) {
        try checkChange(path)
        try local.removeDirectory(path)
    }

    func syncDirectory(_ path: String) throws(FileError) {
        try checkSync(path)
        try local.syncDirectory(path)
    }

    func lock(_ path: String) throws(FileError) -> (any FileLock)? { try local.lock(path) }
}

private final class FaultyFile: File {
    private let file: any File
    private let path: String
    private let system: FaultyFileSystem

    init(_ file: any File, path: String, system: FaultyFileSystem) {
        self.file = file
        self.path = path
        self.system = system
    }

    func size() throws(FileError) -> Int { try file.size() }

    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        let count = try file.read(into: buffer, at: position)
        if system.fault == .rots, count > 0 { buffer[count - 1] ^= 0x55 }
        return count
    }

    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        try system.checkWrite(path)
        try file.write(bytes, at: position)
    }

    func truncate(to size: Int) throws(FileError) {
        try system.checkChange(path)
        try file.truncate(to: size)
    }

    func syncData() throws(FileError) {
        try system.checkSync(path)
        try file.syncData()
    }

    func sync() throws(FileError) {
        try system.checkSync(path)
        try file.sync()
    }
}
