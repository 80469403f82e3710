import Essentials
import Glibc
import NIOCore
import Records
import Storage
import Synchronization
import Testing

/// A directory for one test, removed afterwards.
final class TemporaryDirectory {
    let path: String

    init() throws {
        let name = String(UInt64.random(in: .min ... .max), radix: 36)
        path = "/tmp/millrace-storage-\(getpid())-\(name)"
        try LocalFileSystem().makeDirectories(path)
    }

    deinit {
        try? LocalFileSystem().removeRecursively(path)
    }

    /// The bytes of a file in it.
    func bytes(_ name: String) throws -> [UInt8] {
        try #require(try LocalFileSystem().readFile("\(path)/\(name)"))
    }

    func write(_ bytes: [UInt8], to name: String) throws {
        let file = try LocalFileSystem().open("\(path)/\(name)", .create)
        try bytes.withUnsafeBytes { try file.write($0, at: 0) }
    }

    func remove(_ name: String) throws {
        try LocalFileSystem().remove("\(path)/\(name)")
    }

    func names() throws -> [String] {
        try LocalFileSystem().contents(of: path)
    }

    /// Another directory with the same files in it: what a crash now would leave behind, if nothing
    /// was lost.
    func copy() throws -> TemporaryDirectory {
        let copy = try TemporaryDirectory()
        try Self.copy(from: path, to: copy.path)
        return copy
    }

    private static func copy(from old: String, to new: String) throws {
        let disk = LocalFileSystem()
        for name in try disk.contents(of: old) {
            if try disk.isDirectory("\(old)/\(name)") {
                try disk.makeDirectory("\(new)/\(name)")
                try copy(from: "\(old)/\(name)", to: "\(new)/\(name)")
            } else {
                let bytes = try #require(try disk.readFile("\(old)/\(name)"))
                let file = try disk.open("\(new)/\(name)", .create)
                try bytes.withUnsafeBytes { try file.write($0, at: 0) }
            }
        }
    }
}

/// A batch of `count` records whose values are `size` bytes long and tell the record's number.
func makeBatch(
    _ count: Int = 1, size: Int = 20, timestamp: Int64 = 1_000, from number: Int = 0
) -> ByteBuffer {
    var builder = RecordBatchBuilder()
    for index in 0..<count {
        let text = "record \(number + index) "
        builder.append(
            key: nil,
            value: Array(text.utf8)
                + [UInt8](repeating: 0x2e, count: max(0, size - text.utf8.count)),
            timestamp: timestamp + Int64(index))
    }
    return builder.finish()
}

extension Log {
    /// Appends a batch of so many records as the leader of `epoch`.
    @discardableResult
    func append(
        _ count: Int = 1, size: Int = 20, epoch: LeaderEpoch = 0, timestamp: Int64 = 1_000
    ) throws -> Range<Offset> {
        let batch = makeBatch(
            count, size: size, timestamp: timestamp, from: Int(logEndOffset.rawValue))
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 30)
        return try appendAsLeader(batch, headers: headers, leaderEpoch: epoch)
    }

    /// Every record from `start` on, as text; each read returns at most `maxBytes`.
    func texts(from start: Offset? = nil, maxBytes: Int = 1 << 20) throws -> [Offset: String] {
        var texts: [Offset: String] = [:]
        var offset = start ?? logStartOffset
        while offset < logEndOffset {
            let bytes = try read(from: offset, below: logEndOffset, maxBytes: maxBytes)
            var reader = RecordReader(bytes)
            while let record = try reader.next() {
                texts[record.offset] = record.value.map { String(buffer: $0) }
            }
            offset = try #require(reader.nextOffset)
        }
        return texts
    }

    /// Whether every record says that it is where it is, from the log start to the log end.
    func isWhole(maxBytes: Int = 1 << 20) throws -> Bool {
        let texts = try texts(maxBytes: maxBytes)
        var offset = logStartOffset
        while offset < logEndOffset {
            guard texts[offset]?.hasPrefix("record \(offset) ") ?? false else { return false }
            offset += 1
        }
        return true
    }
}

/// A small segment size, and nothing in memory, so that files are what is tested.
func smallSegments(_ bytes: Int = 1_000) -> LogConfig {
    var config = LogConfig()
    config.segmentBytes = bytes
    config.indexIntervalBytes = 200
    config.tailBytes = 0
    return config
}

/// This machine's disk, on which chosen calls fail.
final class FaultyFileSystem: FileSystem {
    struct Call {
        var operation: String
        var path: String
    }

    private let disk = LocalFileSystem()
    private let state = Mutex<(rule: (@Sendable (Call) -> Int32?)?, calls: [String])>((nil, []))

    /// From now on, calls for which `rule` gives an `errno` fail with it; a write does half its work.
    func fail(_ rule: (@Sendable (Call) -> Int32?)?) {
        state.withLock { $0.rule = rule }
    }

    /// The calls so far, each as operation and file name; writes and syncs only.
    var calls: [String] { state.withLock { $0.calls } }

    fileprivate func failure(_ operation: String, _ path: String) -> FileError? {
        let rule = state.withLock { state in
            let name = path.split(separator: "/").last ?? ""
            state.calls.append("\(operation) \(name)")
            return state.rule
        }
        let code = rule?(Call(operation: operation, path: path))
        return code.map { FileError(operation, path, code: $0) }
    }

    private func check(_ operation: String, _ path: String) throws(FileError) {
        if let failure = failure(operation, path) { throw failure }
    }

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        try check(mode == .create ? "create" : "open", path)
        return FaultyFile(try disk.open(path, mode), path: path, fileSystem: self)
    }

    func size(of path: String) throws(FileError) -> Int? { try disk.size(of: path) }
    func contents(of directory: String) throws(FileError) -> [String] {
        try disk.contents(of: directory)
    }
    func isDirectory(_ path: String) throws(FileError) -> Bool { try disk.isDirectory(path) }
    func makeDirectory(_ path: String) throws(FileError) {
        try check("make", path)
        try disk.makeDirectory(path)
    }
    func rename(_ path: String, to newPath: String) throws(FileError) {
        try check("rename", newPath)
        try disk.rename(path, to: newPath)
    }
    func remove(_ path: String) throws(FileError) {
        try check("remove", path)
        try disk.remove(path)
    }
    func removeDirectory(_ path: String) throws(FileError) { try disk.removeDirectory(path) }
    func syncDirectory(_ path: String) throws(FileError) {
        try check("sync directory", path)
        try disk.syncDirectory(path)
    }
    func syncFileSystem(_ path: String) throws(FileError) -> Bool {
        try check("sync file system", path)
        return try disk.syncFileSystem(path)
    }
    func lock(_ path: String) throws(FileError) -> (any FileLock)? { try disk.lock(path) }
    func volume(of directory: String) throws(FileError) -> (any Volume)? {
        FaultyVolume(directory, fileSystem: self)
    }
}

/// A volume whose syncs are noted as "sync volume" and its directory, and may fail.
private final class FaultyVolume: Volume {
    private let path: String
    private let fileSystem: FaultyFileSystem

    init(_ path: String, fileSystem: FaultyFileSystem) {
        self.path = path
        self.fileSystem = fileSystem
    }

    func sync() throws(FileError) {
        if let failure = fileSystem.failure("sync volume", path) { throw failure }
    }
    func contains(_ directory: String) -> Bool { true }
}

private final class FaultyFile: File {
    private let file: any File
    private let path: String
    private let fileSystem: FaultyFileSystem

    init(_ file: any File, path: String, fileSystem: FaultyFileSystem) {
        self.file = file
        self.path = path
        self.fileSystem = fileSystem
    }

    private func check(_ operation: String) throws(FileError) {
        if let failure = fileSystem.failure(operation, path) { throw failure }
    }

    func size() throws(FileError) -> Int { try file.size() }
    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        try check("read")
        return try file.read(into: buffer, at: position)
    }
    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        if let failure = fileSystem.failure("write", path) {
            let half = UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count / 2)])
            try file.write(half, at: position)
            throw failure
        }
        try file.write(bytes, at: position)
    }
    func truncate(to size: Int) throws(FileError) {
        try check("truncate")
        try file.truncate(to: size)
    }
    func reserve(_ range: Range<Int>) {
        _ = fileSystem.failure("reserve", path)
        file.reserve(range)
    }
    func syncData() throws(FileError) {
        try check("sync")
        try file.syncData()
    }
    func sync() throws(FileError) {
        try check("sync")
        try file.sync()
    }
    func dropCache() {
        _ = fileSystem.failure("drop", path)
        file.dropCache()
    }
}
