import Foundation
import Storage

/// This machine's disk, which keeps nothing in memory, and on which reads of logs can be held up.
final class SlowDisk: FileSystem, @unchecked Sendable {
    // Sendable: `isHeld` and `waiting` are touched between `lock` and `unlock` only.

    private let disk = LocalFileSystem()
    private let condition = NSCondition()
    private var isHeld = false
    private var waiting = 0
    private var readCount = 0

    /// Reads wait from now on, or go on.
    func hold(_ isHeld: Bool = true) {
        condition.withLock {
            self.isHeld = isHeld
            if !isHeld { condition.broadcast() }
        }
    }

    /// How many reads wait.
    var heldReads: Int { condition.withLock { waiting } }
    /// How many reads of logs there have been.
    var reads: Int { condition.withLock { readCount } }

    fileprivate func pass() {
        condition.withLock {
            readCount += 1
            waiting += 1
            while isHeld { condition.wait() }
            waiting -= 1
        }
    }

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        let file = try disk.open(path, mode)
        return path.hasSuffix(".log") ? SlowFile(file, disk: self) : file
    }

    func size(of path: String) throws(FileError) -> Int? { try disk.size(of: path) }
    func contents(of directory: String) throws(FileError) -> [String] {
        try disk.contents(of: directory)
    }
    func isDirectory(_ path: String) throws(FileError) -> Bool { try disk.isDirectory(path) }
    func makeDirectory(_ path: String) throws(FileError) { try disk.makeDirectory(path) }
    func rename(_ path: String, to newPath: String) throws(FileError) {
        try disk.rename(path, to: newPath)
    }
    func remove(_ path: String) throws(FileError) { try disk.remove(path) }
    func removeDirectory(_ path: String) throws(FileError) { try disk.removeDirectory(path) }
    func syncDirectory(_ path: String) throws(FileError) { try disk.syncDirectory(path) }
    func syncFileSystem(_ path: String) throws(FileError) -> Bool {
        try disk.syncFileSystem(path)
    }
    func lock(_ path: String) throws(FileError) -> (any FileLock)? { try disk.lock(path) }
}

private final class SlowFile: File {
    private let file: any File
    private let disk: SlowDisk

    init(_ file: any File, disk: SlowDisk) {
        self.file = file
        self.disk = disk
    }

    func size() throws(FileError) -> Int { try file.size() }
    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        disk.pass()
        return try file.read(into: buffer, at: position)
    }
    func readCached(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int? { nil }
    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        try file.write(bytes, at: position)
    }
    func truncate(to size: Int) throws(FileError) { try file.truncate(to: size) }
    func syncData() throws(FileError) { try file.syncData() }
    func sync() throws(FileError) { try file.sync() }
}
