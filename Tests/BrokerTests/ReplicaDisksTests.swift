import Essentials
import Foundation
import Glibc
import Logging
import NIOCore
import Records
import Storage
import Synchronization
import Testing

@testable import Broker

@Suite("A broker's disks")
struct ReplicaDisksTests {
    private let path = NSTemporaryDirectory() + "replica-disks-tests-\(UniqueID.random())"
    private let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private func disks(_ fileSystem: any FileSystem = .local) throws -> ReplicaDisks {
        try ReplicaDisks(paths: [path], fileSystem: fileSystem, logger: logger)
    }

    @Test("C12: a topic of any name can be made again after a deletion that a crash cut short")
    func aDeletionCutShortDoesNotHaunt() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        for length in [1, 249] {
            let folder = PartitionFolder(
                topic: String(repeating: "x", count: length), partition: 0)
            let fullDisk = FullDisk()
            var disks = try disks(fullDisk)
            try writeRecords(to: folder, on: disks)
            // All that is on disk of the deletion is the folder's new name.
            fullDisk.isFull = true
            let opened = try disks.openLog(folder, topicID: topicID, config: LogConfig())
            _ = try disks.disks[0].directory.deleteLog(opened.log)
            disks.close(clean: false, brokerEpoch: .none)
            // There is no room yet when the broker starts again.
            disks = try self.disks(fullDisk)
            fullDisk.isFull = false
            let new = try disks.openLog(folder, topicID: .random(), config: LogConfig())
            #expect(new.log.logEndOffset == 0)
            disks.removeLeftovers()
            #expect(try disks.disks[0].directory.deletedFolders() == [])
            disks.close(clean: false, brokerEpoch: .none)
        }
    }

    @Test("S8: deleting a topic on a full disk frees its space")
    func deletingOnAFullDiskFreesSpace() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let folder = PartitionFolder(topic: "t", partition: 0)
        let fullDisk = FullDisk()
        let disks = try disks(fullDisk)
        try writeRecords(to: folder, on: disks)
        let (log, disk, _) = try disks.openLog(folder, topicID: topicID, config: LogConfig())
        fullDisk.isFull = true
        fullDisk.onRemoval = { fullDisk.isFull = false }
        try disks.delete(log, folder: folder, on: disk)
        #expect(
            try !FileManager.default.contentsOfDirectory(atPath: path).contains {
                $0.hasSuffix("delete")
            })
        #expect(disk.directory.checkpoint(of: folder.name) == LogCheckpoint())
        disks.close(clean: false, brokerEpoch: .none)
        #expect(try self.disks().disks[0].directory.checkpoint(of: folder.name) == LogCheckpoint())
    }

    @Test("S8: a log that a full disk had no room for at all is made, or deleted, later")
    func notEvenAFolder() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let fullDisk = FullDisk()
        let disks = try disks(fullDisk)
        for partition in 0..<2 as Range<Int32> {
            fullDisk.isFull = true
            let folder = PartitionFolder(topic: "t", partition: partition)
            for _ in 0..<2 {
                #expect(throws: LogError.self) {
                    try disks.openLog(folder, topicID: topicID, config: LogConfig())
                }
            }
            try disks.deleteUnopened(folder, topicID: topicID)
            fullDisk.isFull = false
            let new = try disks.openLog(folder, topicID: topicID, config: LogConfig())
            #expect(new.log.logEndOffset == 0)
        }
        disks.close(clean: false, brokerEpoch: .none)
    }

    // MARK: Several directories

    private func several(
        _ names: [String] = ["a", "b"], _ disk: BrokenDisk = BrokenDisk(), required: String? = nil
    ) throws -> ReplicaDisks {
        try ReplicaDisks(
            paths: names.map { "\(path)/\($0)" }, required: required.map { "\(path)/\($0)" },
            fileSystem: disk, logger: logger)
    }

    private func folder(_ partition: Int32) -> PartitionFolder {
        PartitionFolder(topic: "t", partition: partition)
    }

    @Test(
        "New logs go where there are the fewest, or where there is more room when one is nearly full"
    )
    func placement() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let disk = BrokenDisk()
        disk.set(FileSystemSpace(free: 500, total: 1_000), at: path + "/a")
        disk.set(FileSystemSpace(free: 300, total: 1_000), at: path + "/b")
        let disks = try several(["a", "b"], disk)
        func place(_ partition: Int32) throws -> String {
            let opened = try disks.openLog(folder(partition), topicID: topicID, config: LogConfig())
            return String(opened.disk.directory.path.suffix(1))
        }
        #expect(try (0..<4).map { try place($0) } == ["a", "b", "a", "b"])
        disk.set(FileSystemSpace(free: 49, total: 1_000), at: path + "/a")
        #expect(try (4..<7).map { try place($0) } == ["b", "b", "b"])
        disk.set(FileSystemSpace(free: 48, total: 1_000), at: path + "/b")
        #expect(try place(7) == "a")
        disks.disks[0].directory.health.fail("broken")
        #expect(try place(8) == "b")
        disks.close(clean: false, brokerEpoch: .none)
    }

    @Test(
        "C5: a stop is proven by every directory that is open, and one that was out of use is no hindrance"
    )
    func proofOfACleanStop() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let disk = BrokenDisk()
        try several(["a", "b"], disk).close(clean: true, brokerEpoch: 5)
        disk.kill(path + "/b")
        var disks = try several(["a", "b"], disk)
        #expect(disks.previousBrokerEpoch == 5)
        #expect(disks.unusable.map(\.path) == [path + "/b"])
        disks.close(clean: true, brokerEpoch: 6)
        disk.kill(path + "/b", false)
        disks = try several(["a", "b"], disk)
        #expect(disks.previousBrokerEpoch == 6)
        disks.disks[1].directory.health.fail("broken")
        disks.close(clean: true, brokerEpoch: 7)
        // It is back without having stopped in order.
        disks = try several(["a", "b"], disk)
        #expect(disks.previousBrokerEpoch == .none)
        disks.close(clean: true, brokerEpoch: 8)
        #expect(throws: LogError.self) {
            disk.kill(path + "/a")
            _ = try several(["a", "b"], disk, required: "a")
        }
    }

    @Test("D14: a directory that another process uses is no broken one")
    func inUse() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let other = try LogDirectory.open(path + "/b")
        #expect(throws: LogError.inUse(directory: path + "/b")) { _ = try several() }
        _ = try other.close(clean: true)
    }

    @Test("Of two copies of a log, the one made under the later registration counts")
    func copies() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let (old, new) = (try several(["a"]), try several(["b"]))
        for (disks, epoch) in [(old, BrokerEpoch(5)), (new, BrokerEpoch(6))] {
            let opened = try disks.openLog(
                folder(0), topicID: topicID, brokerEpoch: epoch, config: LogConfig())
            // Of another topic of that name, which is no more.
            _ = try disks.openLog(
                folder(1), topicID: epoch == 6 ? .random() : topicID, brokerEpoch: epoch,
                config: LogConfig())
            try opened.disk.directory.closeLog(opened.log)
            disks.close(clean: false, brokerEpoch: .none)
        }
        for names in [["a", "b"], ["b", "a"]] {
            let disks = try several(names)
            disks.deleteStrays { $0.topic == topicID }
            let placed = try (0..<2).map { partition in
                try disks.openLog(
                    folder(Int32(partition)), topicID: topicID, config: LogConfig(),
                    mayCreate: false
                ).disk.directory.path
            }
            #expect(placed == [path + "/b", path + "/a"])
            #expect(!FileManager.default.fileExists(atPath: path + "/a/t-0"))
            #expect(!FileManager.default.fileExists(atPath: path + "/b/t-1"))
            disks.close(clean: false, brokerEpoch: .none)
        }
    }

    @Test(
        "P1: while nobody else leads, an older copy with records is kept, and used if the newer is empty"
    )
    func emptyCopies() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let old = try several(["a"])
        for partition in 0..<2 as Range<Int32> {
            try write(to: folder(partition), on: old, epoch: 5)
        }
        old.close(clean: true, brokerEpoch: 5)
        // The directory was left out.
        let new = try several(["b"])
        try write(to: folder(0), on: new, epoch: 6)
        _ = try new.openLog(folder(1), topicID: topicID, brokerEpoch: 6, config: LogConfig())
        new.close(clean: false, brokerEpoch: .none)
        let disks = try several(["a", "b"])
        disks.deleteStrays(isAssigned: { _ in true }, isLedElsewhere: { _ in false })
        #expect(FileManager.default.fileExists(atPath: path + "/a/t-0"))
        let used = try (0..<2 as Range<Int32>).map { partition in
            let opened = try disks.openLog(
                folder(partition), topicID: topicID, config: LogConfig())
            #expect(opened.log.logEndOffset == 1)
            return opened.disk.directory.path
        }
        #expect(used == [path + "/b", path + "/a"])
        disks.close(clean: false, brokerEpoch: .none)
    }

    @Test("Of two copies of which one's order can't be read, none is used")
    func unreadableOrder() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        for name in ["a", "b"] {
            let disks = try several([name])
            try write(to: folder(0), on: disks, epoch: name == "a" ? 5 : 6)
            disks.close(clean: false, brokerEpoch: .none)
        }
        try Data("?".utf8).write(to: URL(fileURLWithPath: path + "/b/t-0/partition.metadata"))
        let disks = try several(["a", "b"])
        disks.deleteStrays { _ in true }
        #expect(throws: LogError.self) {
            _ = try disks.openLog(folder(0), topicID: topicID, config: LogConfig())
        }
        for name in ["a", "b"] {
            #expect(FileManager.default.fileExists(atPath: path + "/\(name)/t-0"))
        }
        disks.close(clean: false, brokerEpoch: .none)
    }

    @Test(
        "A log that is gone, though records were committed, is a damaged one, also after a restart")
    func missingLog() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        var disks = try several(["a"])
        try write(to: folder(0), on: disks, epoch: 5)
        let opened = try disks.openLog(folder(0), topicID: topicID, config: LogConfig())
        let checkpoint = try #require(opened.log.checkpoint(highWatermark: 1))
        try opened.disk.directory.checkpoint(["t-0": checkpoint])
        try opened.disk.directory.closeLog(opened.log)
        disks.close(clean: true, brokerEpoch: 5)
        try FileManager.default.removeItem(atPath: path + "/a/t-0")
        for _ in 0..<2 {
            disks = try several(["a"])
            let (log, disk, report) = try disks.openLog(
                folder(0), topicID: topicID, config: LogConfig())
            #expect(report?.isDamaged == true)
            try disk.directory.closeLog(log)
            disks.close(clean: true, brokerEpoch: 6)
        }
        disks = try several(["a"])
        let (log, _, _) = try disks.openLog(folder(0), topicID: topicID, config: LogConfig())
        try log.cutDamage(at: 0)
        log.assignEpoch(1, startOffset: 0)
        disks.close(clean: false, brokerEpoch: .none)
    }

    @Test("What a move that runs is copying is not taken for what an earlier one left")
    func leftoversOfMoves() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let left = "\(path)/a/t-0.1.future"
        try FileManager.default.createDirectory(
            atPath: left, withIntermediateDirectories: true)
        let disks = try several(["a", "b"])
        try write(to: folder(0), on: disks, epoch: 5)
        let (log, disk, _) = try disks.openLog(folder(0), topicID: topicID, config: LogConfig())
        let target = try #require(disks.disks.first { $0 !== disk })
        let copy = try LogCopy(of: folder(0), from: disk.directory, to: target.directory)
        try copy.copy(try #require(log.copyPlan()))
        disks.removeLeftovers()
        #expect(!FileManager.default.fileExists(atPath: left))
        _ = try copy.finish(log, highWatermark: 1)
        #expect(try target.directory.openLog("t-0").0.logEndOffset == 1)
        disks.close(clean: false, brokerEpoch: .none)
    }

    private let topicID = TopicID.random()

    /// Leaves the partition's log with a record.
    private func write(
        to folder: PartitionFolder, on disks: ReplicaDisks, epoch: BrokerEpoch
    ) throws {
        let (log, disk, _) = try disks.openLog(
            folder, topicID: topicID, brokerEpoch: epoch, config: LogConfig())
        log.assignEpoch(0, startOffset: 0)
        var builder = RecordBatchBuilder()
        builder.append(key: nil, value: ByteBuffer(string: "x"), timestamp: 1)
        let batch = builder.finish()
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 20)
        _ = try log.appendAsLeader(batch, headers: headers, leaderEpoch: 0)
        try log.flush()
        try disk.directory.closeLog(log)
    }

    /// Leaves the partition's log with what a checkpoint notes of it.
    private func writeRecords(to folder: PartitionFolder, on disks: ReplicaDisks) throws {
        let (log, disk, _) = try disks.openLog(folder, topicID: topicID, config: LogConfig())
        try log.truncateFully(andStartAt: 5)
        let checkpoint = try #require(log.checkpoint(highWatermark: 5))
        try disk.directory.checkpoint([folder.name: checkpoint])
        try disk.directory.closeLog(log)
    }
}

/// This machine's disk, on which no file can be made while it is full.
private final class FullDisk: FileSystem {
    private struct State {
        var isFull = false
        var onRemoval: (@Sendable () -> Void)?
    }
    private let disk = LocalFileSystem()
    private let state = Mutex(State())

    var isFull: Bool {
        get { state.withLock { $0.isFull } }
        set { state.withLock { $0.isFull = newValue } }
    }

    /// Called when a log's file has been removed.
    var onRemoval: (@Sendable () -> Void)? {
        get { state.withLock { $0.onRemoval } }
        set { state.withLock { $0.onRemoval = newValue } }
    }

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        if mode == .create, isFull { throw FileError("create", path, code: ENOSPC) }
        return try disk.open(path, mode)
    }
    func size(of path: String) throws(FileError) -> Int? { try disk.size(of: path) }
    func contents(of directory: String) throws(FileError) -> [String] {
        try disk.contents(of: directory)
    }
    func isDirectory(_ path: String) throws(FileError) -> Bool { try disk.isDirectory(path) }
    func makeDirectory(_ path: String) throws(FileError) {
        if isFull, try !isDirectory(path) { throw FileError("make", path, code: ENOSPC) }
        try disk.makeDirectory(path)
    }
    func rename(_ path: String, to newPath: String) throws(FileError) {
        try disk.rename(path, to: newPath)
    }
    func remove(_ path: String) throws(FileError) {
        try disk.remove(path)
        if path.hasSuffix(".log") { onRemoval?() }
    }
    func removeDirectory(_ path: String) throws(FileError) { try disk.removeDirectory(path) }
    func syncDirectory(_ path: String) throws(FileError) { try disk.syncDirectory(path) }
    func lock(_ path: String) throws(FileError) -> (any FileLock)? { try disk.lock(path) }
}
