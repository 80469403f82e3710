import Essentials
import Glibc
import NIOCore
import Storage
import Testing

/// S8, D8.
@Test(arguments: ["write", "create", "note"])
func anAppendThatStartsWithinABatchFailsWhole(what: String) throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let logs = try LogDirectory.open(directory.path, fileSystem: disk)
    let batch = try batchesOfALeader()
    let (follower, _) = try logs.openLog("t-0", config: smallSegments())
    try follower.truncateFully(andStartAt: 13)
    follower.assignEpoch(3, startOffset: 13)
    try follower.flush()
    try logs.checkpoint(["t-0": try #require(follower.checkpoint(highWatermark: 13))])
    let names = try LocalFileSystem().contents(of: "\(directory.path)/t-0")
    disk.fail { call in
        switch what {
        case "write": call.operation == "write" && call.path.hasSuffix(".log") ? ENOSPC : nil
        case "create": call.operation == "create" && call.path.hasSuffix(".log") ? ENOSPC : nil
        default: call.operation == "create" && call.path.hasSuffix(".tmp") ? ENOSPC : nil
        }
    }
    for _ in 0..<2 {
        #expect(throws: LogError.self) { try follower.appendAsFollower(batch, leaderEpoch: 4) }
        #expect(follower.logStartOffset == 13)
        #expect(follower.logEndOffset == 13)
        #expect(follower.latestEpoch == 3)
        #expect(try LocalFileSystem().contents(of: "\(directory.path)/t-0") == names)
        #expect(logs.health.failure == nil)
    }
    disk.fail(nil)
    // Space again; what was noted of the log in between is of no consequence.
    try logs.checkpoint(["t-0": try #require(follower.checkpoint(highWatermark: 13))])
    try follower.appendAsFollower(batch, leaderEpoch: 4)
    #expect(follower.logStartOffset == 13)
    #expect(follower.logEndOffset == 15)
    #expect(try follower.isWhole())
    try follower.flush()
    try logs.checkpoint(["t-0": try #require(follower.checkpoint(highWatermark: 15))])
    try logs.close(clean: false)
    let again = try LogDirectory.open(directory.path)
    let (log, report) = try again.openLog("t-0", config: smallSegments())
    #expect(!report.isDamaged)
    #expect(log.logStartOffset == 13)
    #expect(log.logEndOffset == 15)
    #expect(try log.isWhole())
}

/// D2, S3.
@Test(arguments: 0..<60 as Range<UInt64>)
func anAppendThatStartsWithinABatchOutlivesAPowerFailureWholeOrNotAtAll(seed: UInt64) throws {
    let disk = SimulatedDisk(seed: seed)
    let logs = try LogDirectory.open("/data", fileSystem: disk)
    let batch = try batchesOfALeader()
    let (follower, _) = try logs.openLog("t-0", config: smallSegments())
    try follower.truncateFully(andStartAt: 13)
    try follower.flush()
    try logs.checkpoint(["t-0": try #require(follower.checkpoint(highWatermark: 13))])
    disk.failPower(after: Int(seed % 30))
    var isDurable = false
    do {
        try follower.appendAsFollower(batch)
        // Whatever is noted before the flush must not be more than there is.
        try logs.checkpoint(["t-0": try #require(follower.checkpoint(highWatermark: 13))])
        try follower.flush()
        isDurable = true
        try logs.checkpoint(["t-0": try #require(follower.checkpoint(highWatermark: 15))])
    } catch is LogError {
        #expect(disk.isDown)
    }
    disk.failPower(after: 0)
    disk.restart()
    let again = try LogDirectory.open("/data", fileSystem: disk)
    let (log, report) = try again.openLog("t-0", config: smallSegments())
    #expect(!report.isDamaged, "\(report.outcome)")
    if log.logEndOffset == 15 {
        #expect(log.logStartOffset == 13)
        #expect(try log.isWhole())
    } else {
        #expect(!isDurable)
        #expect(log.logStartOffset == log.logEndOffset)
    }
    // It goes on from there.
    try log.truncateFully(andStartAt: 13)
    try log.appendAsFollower(batch)
    #expect(try log.isWhole())
}

/// P18.
@Test func aLogThatStartsWithinABatchDoesNotStartLaterBeforeThatIsDurable() throws {
    let directory = try TemporaryDirectory()
    let (follower, _) = try Log.open(at: directory.path, afterCleanShutdown: false)
    try follower.truncateFully(andStartAt: 13)
    try follower.appendAsFollower(try batchesOfALeader())
    let error = LogError.offsetOutOfRange(14, valid: 13...13)
    #expect(throws: error) { try follower.prepareStart(14) }
    #expect(throws: error) { try follower.advanceLogStart(to: 14) }
    try follower.flush()
    try follower.advanceLogStart(to: 14)
    #expect(follower.logStartOffset == 14)
}

/// One batch of the records 12 to 14, as a leader has it.
private func batchesOfALeader() throws -> ByteBuffer {
    let directory = try TemporaryDirectory()
    let (leader, _) = try Log.open(at: directory.path, afterCleanShutdown: false)
    for _ in 0..<5 { try leader.append(3, epoch: 4) }
    return try leader.read(from: 13, below: .max, maxBytes: 1 << 20)
}

/// S8.
@Test func aTruncationIsDoneAlsoWithoutRoomToWriteItsEpochsDown() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, fileSystem: disk, afterCleanShutdown: false)
    for epoch: LeaderEpoch in [1, 2, 3] { try log.append(2, epoch: epoch) }
    try log.flush()
    disk.fail { call in
        call.operation == "create" && call.path.contains("leader-epoch") ? ENOSPC : nil
    }
    try log.truncate(to: 4)
    #expect(log.logEndOffset == 4)
    #expect(log.latestEpoch == 2)
    try log.truncateFully(andStartAt: 20)
    #expect(log.logEndOffset == 20)
    #expect(log.latestEpoch == .none)
    try log.append(2, epoch: 4)
    disk.fail(nil)
    // The next flush does it.
    try log.flush()
    let text = String(decoding: try directory.bytes("leader-epoch-checkpoint"), as: UTF8.self)
    #expect(text.hasPrefix("0\n1\n4 20\ncrc32c "))
}

/// S6.
@Test(arguments: ["truncate", "start anew"])
func aTruncationWhoseEpochsCannotBeWrittenForAnotherReasonEndsTheLog(what: String) throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, fileSystem: disk, afterCleanShutdown: false)
    for epoch: LeaderEpoch in [1, 2, 3] { try log.append(2, epoch: epoch) }
    try log.flush()
    disk.fail { call in
        call.operation == "create" && call.path.contains("leader-epoch") ? EIO : nil
    }
    let error = try #require(throws: LogError.self) {
        if what == "truncate" {
            try log.truncate(to: 4)
        } else {
            try log.truncateFully(andStartAt: 9)
        }
    }
    guard case .offline = error else {
        Issue.record("\(error)")
        return
    }
    disk.fail(nil)
    #expect(throws: error) { try log.append() }
}

/// S3, S8: of an append that found no room nothing comes back in a segment that is full since.
@Test(arguments: 0..<40 as Range<UInt64>)
func nothingOfAFailedAppendIsLeftBehindWhatIsDurable(seed: UInt64) throws {
    let disk = SimulatedDisk(seed: seed)
    let logs = try LogDirectory.open("/data", fileSystem: disk)
    let (log, _) = try logs.openLog("t-0", config: smallSegments())
    try log.append(2, epoch: 1)
    try log.flush()
    var fault = DiskFault.full(after: 0)
    fault.concerns = { operation, _ in operation == "write" }
    disk.fail(fault)
    #expect(throws: LogError.self) { try log.append(3, epoch: 1) }
    disk.fail(nil)
    try log.roll()
    try log.append(1, epoch: 1)
    try log.flush()
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 3))])
    disk.restart()
    let (again, report) = try LogDirectory.open("/data", fileSystem: disk).openLog("t-0")
    #expect(!report.isDamaged, "seed \(seed)")
    #expect(again.logEndOffset == 3, "seed \(seed)")
    #expect(try again.verify() == nil, "seed \(seed)")
}
