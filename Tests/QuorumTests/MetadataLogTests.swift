import Essentials
import Foundation
@testable import Quorum
import Raft
import Storage
import Testing

/// The log and its snapshots on disk, as one process leaves them to the next.
struct MetadataLogTests {
    private func withFolder(_ body: (String) throws -> Void) throws {
        let path = FileManager.default.temporaryDirectory
            .appending(path: "millrace-metadata-log-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(path)
    }

    private func open(
        _ path: String, _ disk: FaultyFileSystem
    ) throws -> (found: MetadataLog.Found, directory: LogDirectory) {
        let directory = try LogDirectory.open(path, fileSystem: disk)
        do {
            let found = try MetadataLog.open(
                directory: directory, path: path, segmentBytes: 1_000, fileSystem: disk)
            return (found, directory)
        } catch {
            try directory.close(clean: false)
            throw error
        }
    }

    /// Makes a log of `count` records in several segments.
    private func fill(_ found: MetadataLog.Found, count: Int64, epoch: LeaderEpoch) throws {
        for offset in 0..<count {
            try found.log.append(
                QuorumBatches.data([Array("record \(offset)".utf8)]), epoch: epoch,
                at: Offset(offset))
        }
        let ticket = try #require(found.log.prepareFlush())
        try ticket.perform()
        found.log.completeFlush(ticket)
    }

    private func write(_ id: SnapshotID, at path: String) throws {
        var writer = try SnapshotWriter(
            id, in: "\(path)/\(MetadataLog.folder)", voters: nil, timestamp: 1)
        try writer.append(Array("all of it".utf8))
        try writer.finish()
    }

    /// A leader that was cut off has records of epoch 3 where the others agreed on those of epoch 5.
    @Test func aResetThatIsBrokenOffAnywhereIsFinishedAtTheNextStart() throws {
        let id = SnapshotID(endOffset: 30, epoch: 5)
        var isDone = false
        var changes = 0
        while !isDone {
            try withFolder { path in
                let disk = FaultyFileSystem()
                let (found, directory) = try open(path, disk)
                try fill(found, count: 50, epoch: 3)
                try write(id, at: path)
                disk.changesLeft = changes
                do throws(LogError) {
                    try found.log.reset(to: id)
                    isDone = true
                } catch {}
                try directory.close(clean: false)
                disk.changesLeft = nil
                for _ in 1...2 {
                    let (found, directory) = try open(path, disk)
                    #expect(
                        found.state.startOffset == 30 && found.state.endOffset == 30
                            && found.state.lastEpoch == 5 && found.snapshot == id,
                        "after \(changes) changes: \(found.state)")
                    try directory.close(clean: false)
                }
            }
            changes += 1
        }
        #expect(changes > 5)
    }

    @Test func aLeftOverSnapshotIsNoReasonToDropTheLog() throws {
        try withFolder { path in
            let disk = FaultyFileSystem()
            var (found, directory) = try open(path, disk)
            try found.log.reset(to: SnapshotID(endOffset: 30, epoch: 3))
            try found.log.append(QuorumBatches.data([Array("kept".utf8)]), epoch: 3, at: 30)
            try found.log.close(clean: true)
            try directory.close(clean: false)
            try write(SnapshotID(endOffset: 10, epoch: 1), at: path)
            #expect(
                throws: QuorumError.missingSnapshot(
                    folder: "\(path)/\(MetadataLog.folder)", logStart: 30)
            ) {
                _ = try open(path, disk)
            }
            try write(SnapshotID(endOffset: 30, epoch: 3), at: path)
            (found, directory) = try open(path, disk)
            #expect(found.state.startOffset == 30 && found.state.endOffset == 31)
            try directory.close(clean: false)
        }
    }
}
