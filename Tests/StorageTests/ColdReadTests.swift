import Essentials
import NIOCore
import Records
import Storage
import Synchronization
import Testing

/// This machine's disk, of which chosen reads would have to wait.
private final class ColdFileSystem: FileSystem {
    private let disk = LocalFileSystem()
    private let state: Mutex<(isCold: @Sendable () -> Bool, waits: Int)>

    init(_ isCold: @escaping @Sendable () -> Bool = { true }) {
        state = Mutex((isCold, 0))
    }

    /// How many reads have waited.
    var waits: Int { state.withLock { $0.waits } }

    fileprivate var isCold: Bool { state.withLock { $0.isCold }() }
    fileprivate func waited() { state.withLock { $0.waits += 1 } }

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        ColdFile(try disk.open(path, mode), fileSystem: self)
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
    func lock(_ path: String) throws(FileError) -> (any FileLock)? { try disk.lock(path) }
}

private final class ColdFile: File {
    private let file: any File
    private let fileSystem: ColdFileSystem

    init(_ file: any File, fileSystem: ColdFileSystem) {
        self.file = file
        self.fileSystem = fileSystem
    }

    func size() throws(FileError) -> Int { try file.size() }
    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        fileSystem.waited()
        return try file.read(into: buffer, at: position)
    }
    func readCached(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int? {
        fileSystem.isCold ? nil : try file.read(into: buffer, at: position)
    }
    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        try file.write(bytes, at: position)
    }
    func truncate(to size: Int) throws(FileError) { try file.truncate(to: size) }
    func syncData() throws(FileError) { try file.syncData() }
    func sync() throws(FileError) { try file.sync() }
}

/// A log of 20 batches of 3 records in several segments, of which nothing is in memory.
private func coldLog(
    in directory: TemporaryDirectory, _ fileSystem: ColdFileSystem = ColdFileSystem()
) throws -> Log {
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: fileSystem,
        afterCleanShutdown: false)
    for _ in 0..<20 { try log.append(3, epoch: 1) }
    try log.flush()
    return log
}

private struct NotCold: Error {}

extension LogRead {
    fileprivate func cold() throws -> ColdRead<Answer> {
        guard case .needsDisk(let read) = self else { throw NotCold() }
        return read
    }
}

extension Log {
    /// Performs reads until one is answered, each after `between`.
    fileprivate func settled<Answer>(
        _ read: LogRead<Answer>, between: () throws -> Void = {}
    ) throws -> Answer? {
        var read = read
        while true {
            switch read {
            case .found(let answer): return answer
            case .needsDisk(let cold):
                try between()
                read = try resume(cold.perform())
            }
        }
    }

    fileprivate func settledRead(
        from offset: Offset, below end: Offset = .max, maxBytes: Int = 300
    ) throws -> ByteBuffer {
        try settled(readCached(from: offset, below: end, maxBytes: maxBytes))?.bytes ?? ByteBuffer()
    }
}

@Test(arguments: [1, 2, 3, 4, 5] as [UInt64])
func aColdReadFindsWhatAWarmOneDoes(seed: UInt64) throws {
    let directory = try TemporaryDirectory()
    var generator = SeededGenerator(seed: seed)
    let coldness = Mutex(SeededGenerator(seed: seed &+ 100))
    let mixed = ColdFileSystem {
        coldness.withLock { Bool.random(using: &$0) }
    }
    var config = smallSegments(Int.random(in: 300...4_000, using: &generator))
    config.indexIntervalBytes = Int.random(in: 1...700, using: &generator)
    let (writer, _) = try Log.open(
        at: directory.path, config: config, afterCleanShutdown: false)
    for _ in 0..<60 {
        try writer.append(
            Int.random(in: 1...5, using: &generator),
            size: Int.random(in: 20...400, using: &generator),
            timestamp: Int64.random(in: 0...500, using: &generator))
    }
    try writer.flush()
    try writer.close(clean: true)
    func open(_ fileSystem: any FileSystem) throws -> Log {
        try Log.open(
            at: directory.path, config: config, fileSystem: fileSystem, afterCleanShutdown: true
        ).0
    }
    let logs = [try open(.local), try open(ColdFileSystem()), try open(mixed)]
    let end = logs[0].logEndOffset.rawValue
    for round in 0..<300 {
        let offset = Offset(Int64.random(in: 0...end, using: &generator))
        let below = Offset(Int64.random(in: 0...(end + 1), using: &generator))
        let maxBytes = Int.random(in: 0...3_000, using: &generator)
        let expected = try logs[0].read(from: offset, below: below, maxBytes: maxBytes)
        for log in logs {
            let found = try log.settledRead(from: offset, below: below, maxBytes: maxBytes)
            #expect(found == expected, "seed \(seed), round \(round), \(offset)..<\(below)")
        }
        let time = Int64.random(in: -1...510, using: &generator)
        let times = try logs.map { try $0.settled($0.findCached(timestamp: time, below: below)) }
        #expect(times.allSatisfy { $0 == times[0] }, "seed \(seed), round \(round), time \(time)")
    }
}

@Test func aReaderThatGoesOnGetsAllOfTheLogOnce() throws {
    let directory = try TemporaryDirectory()
    let log = try coldLog(in: directory)
    for maxBytes in [1, 200, 500, 5_000] {
        var offset = log.logStartOffset
        while offset < log.logEndOffset {
            let read = try log.settled(
                log.readCached(from: offset, below: .max, maxBytes: maxBytes))
            let batches = try #require(read)
            let headers = try RecordBatches.headers(of: batches.bytes)
            #expect(headers.first?.baseOffset == offset)
            #expect(headers.last?.nextOffset == batches.end)
            offset = batches.end
        }
        #expect(offset == 60)
    }
}

@Test func whatIsInMemoryIsReadAtOnce() throws {
    let directory = try TemporaryDirectory()
    let warm = ColdFileSystem { false }
    let log = try coldLog(in: directory, warm)
    // Older segments' files are opened, and their indexes loaded, elsewhere: once.
    _ = try log.settledRead(from: 30)
    let waits = warm.waits
    let read = try log.readCached(from: 30, below: .max, maxBytes: 300)
    #expect(throws: NotCold.self) { try read.cold() }
    #expect(warm.waits == waits)
}

@Test func aColdReadOfALogThatWasCutIsNotBelieved() throws {
    for cutsFirst in [true, false] {
        let directory = try TemporaryDirectory()
        let log = try coldLog(in: directory)
        for offset: Offset in [30, 38, 0] {
            let cold = try log.readCached(from: offset, below: 60, maxBytes: 5_000).cold()
            func cut() throws {
                try log.truncate(to: 36)
                // Other records at the same offsets, and at other places.
                while log.logEndOffset < 60 { try log.append(2, size: 33, epoch: 2) }
            }
            if cutsFirst { try cut() }
            let outcome = cold.perform()
            if !cutsFirst { try cut() }
            let read = try log.settled(try log.resume(outcome))
            #expect(try read?.bytes == log.read(from: offset, below: 60, maxBytes: 5_000))
        }
        #expect(try log.isWhole())
    }
}

@Test func aColdReadBeyondTheNewEndIsRefused() throws {
    let directory = try TemporaryDirectory()
    let log = try coldLog(in: directory)
    let outcome = try log.readCached(from: 45, below: 60, maxBytes: 100).cold().perform()
    try log.truncate(to: 30)
    #expect(throws: LogError.offsetOutOfRange(45, valid: 0...30)) { try log.resume(outcome) }
    let other = try log.readCached(from: 12, below: 60, maxBytes: 100).cold()
    try log.truncateFully(andStartAt: 100)
    #expect(throws: LogError.offsetOutOfRange(12, valid: 100...100)) {
        try log.resume(other.perform())
    }
}

@Test func aColdReadOfARemovedSegmentIsRefused() throws {
    let directory = try TemporaryDirectory()
    let log = try coldLog(in: directory)
    let early = try log.readCached(from: 3, below: .max, maxBytes: 100).cold()
    let performed = try log.readCached(from: 4, below: .max, maxBytes: 100).cold().perform()
    let kept = try log.readCached(from: 57, below: .max, maxBytes: 100).cold()
    let byTime = try log.findCached(timestamp: 0, below: .max).cold()
    try log.advanceLogStart(to: 55)
    #expect(throws: LogError.offsetOutOfRange(3, valid: 55...60)) {
        try log.resume(early.perform())
    }
    #expect(throws: LogError.offsetOutOfRange(4, valid: 55...60)) { try log.resume(performed) }
    let batches = try log.settled(try log.resume(kept.perform()))
    #expect(batches?.end == 60)
    #expect(try log.settled(try log.resume(byTime.perform()))?.offset == 55)
}

@Test func aColdReadEndsWithItsLog() throws {
    let directory = try TemporaryDirectory()
    let log = try coldLog(in: directory)
    let read = try log.readCached(from: 0, below: .max, maxBytes: 100).cold()
    let byTime = try log.findCached(timestamp: 0, below: .max).cold()
    try log.close(clean: true)
    #expect(throws: LogError.closed) { try log.resume(read.perform()) }
    #expect(throws: LogError.closed) { try log.resume(byTime.perform()) }
}

@Test func whatIsAppendedMeanwhileDoesNotMatterToAColdRead() throws {
    let directory = try TemporaryDirectory()
    let log = try coldLog(in: directory)
    let read = try log.readCached(from: 57, below: .max, maxBytes: 5_000).cold()
    for _ in 0..<20 { try log.append(3, epoch: 1) }
    let batches = try log.settled(try log.resume(read.perform()))
    #expect(batches?.end == 60)
    #expect(try log.isWhole())
}

@Test func anIndexThatAColdReadHadToMakeIsKept() throws {
    let directory = try TemporaryDirectory()
    var log = try coldLog(in: directory)
    try log.close(clean: true)
    let name = "00000000000000000000.index"
    let index = try directory.bytes(name)
    try directory.remove(name)
    (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: ColdFileSystem(),
        afterCleanShutdown: true)
    _ = try log.settledRead(from: 6)
    #expect(try directory.bytes(name) == index)
}

@Test func aFileSaysWhatItCanReadAtOnce() throws {
    let directory = try TemporaryDirectory()
    let path = "\(directory.path)/file"
    let file = try LocalFileSystem().open(path, .create)
    let bytes = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    try bytes.withUnsafeBytes { try file.write($0, at: 0) }
    try file.sync()
    var read = [UInt8](repeating: 0, count: 60_000)
    for isDropped in [false, true] {
        if isDropped { file.dropCache() }
        let count = try read.withUnsafeMutableBytes { try file.readCached(into: $0, at: 50_000) }
        // Whether it is in memory is the system's business; that it is right is ours.
        if let count {
            #expect(count == 50_000)
            #expect(read[..<count].elementsEqual(bytes[50_000...]))
        }
    }
    let past = try read.withUnsafeMutableBytes { try file.readCached(into: $0, at: 100_000) }
    #expect(past == 0 || past == nil)
}
