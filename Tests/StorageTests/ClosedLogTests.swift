import Essentials
import NIOCore
import Storage
import Testing

/// A directory that was closed in order, with a log of several segments and an empty one.
private func closedDirectory() throws -> TemporaryDirectory {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let log = try logs.createLog(
        PartitionFolder(topic: "t", partition: 0), topicID: TopicID(high: 1, low: 2),
        config: smallSegments())
    for epoch in 1..<4 {
        for _ in 0..<10 { try log.append(3, epoch: LeaderEpoch(Int32(epoch))) }
    }
    try log.flush()
    try log.advanceLogStart(to: 40)
    // A leader that never appended.
    log.assignEpoch(9, startOffset: log.logEndOffset)
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 50))])
    let empty = try logs.createLog(
        PartitionFolder(topic: "t", partition: 1), topicID: TopicID(high: 1, low: 2))
    for log in [log, empty] { try logs.closeLog(log) }
    #expect(try logs.close(clean: true))
    return directory
}

/// Opens the directory, and expects the logs to be what they were.
private func expectAll(in directory: TemporaryDirectory, _ comment: Comment) throws {
    let logs = try LogDirectory.open(directory.path)
    #expect(logs.wasCleanShutdown, comment)
    #expect(try logs.topicID(of: "t-0") == TopicID(high: 1, low: 2), comment)
    let (log, report) = try logs.openLog("t-0", config: smallSegments())
    #expect(!report.isDamaged, comment)
    #expect(log.logStartOffset == 40, comment)
    #expect(log.logEndOffset == 90, comment)
    #expect(log.durableOffset == 90, comment)
    #expect(log.endOffset(for: 1) == (.none, 40) || log.endOffset(for: 2).endOffset == 60, comment)
    #expect(log.endOffset(for: 2).endOffset == 60, comment)
    #expect(log.latestEpoch == 9, comment)
    #expect(log.lastBatchEpoch == 3, comment)
    #expect(try log.isWhole(), comment)
    try log.append(3, epoch: 9)
    #expect(try log.isWhole(), comment)
    try log.truncate(to: 70)
    #expect(try log.isWhole(), comment)
    let (empty, _) = try logs.openLog("t-1")
    #expect(empty.logEndOffset == 0, comment)
    try empty.append()
    #expect(try empty.isWhole(), comment)
}

@Suite("The list of closed logs") struct ClosedLogTests {
    @Test("Opens logs without a look into their folders") func opensLogs() throws {
        let directory = try closedDirectory()
        let disk = FaultyFileSystem()
        let logs = try LogDirectory.open(directory.path, fileSystem: disk)
        let before = disk.calls.count
        for folder in ["t-0", "t-1"] {
            #expect(try logs.topicID(of: folder) != nil)
            #expect(try logs.openLog(folder, config: smallSegments()).1.outcome == .trusted)
        }
        #expect(disk.calls.count == before)
        try expectAll(in: try closedDirectory(), "as it was")
    }

    @Test("Holds for the next stop, too, where a log was not opened") func isCarriedOn() throws {
        let directory = try closedDirectory()
        for _ in 0..<2 {
            let logs = try LogDirectory.open(directory.path)
            let (empty, report) = try logs.openLog("t-1")
            #expect(report.outcome == .trusted)
            try logs.closeLog(empty)
            #expect(try logs.close(clean: true))
        }
        try expectAll(in: directory, "carried on")
    }

    /// S1.
    @Test("May vanish, be damaged or be of another stop") func mayLie() throws {
        let original = try closedDirectory()
        let list = try original.bytes(".closed-logs")
        var flipped = list
        flipped[list.count / 2] ^= 0x10
        var lies: [[UInt8]?] = [nil, [], flipped, list + list, [UInt8](repeating: 0, count: 90)]
        for count in stride(from: 1, to: list.count, by: 13) { lies.append(Array(list[..<count])) }
        // That of the same logs when they had less.
        let old = try original.copy()
        let logs = try LogDirectory.open(old.path)
        let (log, _) = try logs.openLog("t-0", config: smallSegments())
        try log.append(3, epoch: 9)
        try logs.closeLog(log)
        #expect(try logs.close(clean: true))
        lies.append(try old.bytes(".closed-logs"))
        for (number, lie) in lies.enumerated() {
            let copy = try original.copy()
            if let lie {
                try copy.write(lie, to: ".closed-logs")
            } else {
                try copy.remove(".closed-logs")
            }
            try expectAll(in: copy, "lie \(number)")
        }
    }

    @Test("Does not count for a log that has changed since") func changedLogs() throws {
        let directory = try closedDirectory()
        let last = try #require(
            try LocalFileSystem().contents(of: "\(directory.path)/t-0").last {
                $0.hasSuffix(".log")
            })
        let bytes = try directory.bytes("t-0/\(last)")
        try directory.write(Array(bytes.dropLast(10)), to: "t-0/\(last)")
        let logs = try LogDirectory.open(directory.path)
        let (_, report) = try logs.openLog("t-0", config: smallSegments())
        #expect(report.outcome != .trusted)
        try LocalFileSystem().removeRecursively("\(directory.path)/t-1")
        #expect(try logs.openLog("t-1").1.outcome != .trusted)
    }

    @Test("Is of no use after a crash, nor a second time") func afterACrash() throws {
        let directory = try closedDirectory()
        let list = try directory.bytes(".closed-logs")
        let logs = try LogDirectory.open(directory.path)
        let (log, _) = try logs.openLog("t-0", config: smallSegments())
        try log.append(3, epoch: 9)
        try log.flush()
        #expect(try !directory.names().contains(".closed-logs"))
        try directory.write(list, to: ".closed-logs")
        try logs.close(clean: false)
        let next = try LogDirectory.open(directory.path)
        let (again, report) = try next.openLog("t-0", config: smallSegments())
        #expect(report.outcome != .trusted)
        #expect(again.logEndOffset == 93)
    }

    @Test("Leaves out a log in whose folder there is something else") func leftovers() throws {
        let directory = try closedDirectory()
        let logs = try LogDirectory.open(directory.path)
        let (log, _) = try logs.openLog("t-0", config: smallSegments())
        try directory.write([1], to: "t-0/00000000000000000000.log.deleted")
        try logs.closeLog(log)
        #expect(try logs.close(clean: true))
        let next = try LogDirectory.open(directory.path)
        let (_, report) = try next.openLog("t-0", config: smallSegments())
        #expect(report.removedFiles == ["00000000000000000000.log.deleted"])
    }
}
