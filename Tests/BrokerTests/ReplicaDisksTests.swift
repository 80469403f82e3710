import Essentials
import Foundation
import Glibc
import Logging
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

    private let topicID = TopicID.random()

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
    func makeDirectory(_ path: String) throws(FileError) { try disk.makeDirectory(path) }
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
