import Essentials
import NIOCore
import Records
import Storage
import Testing

@Test func recordsAreReadBackAfterEveryAppendAndAfterReopening() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: "\(directory.path)/t-0", config: smallSegments(), afterCleanShutdown: false)
    for round in 0..<40 {
        let range = try log.append(round % 3 + 1)
        #expect(range.upperBound == log.logEndOffset)
    }
    #expect(try log.isWhole())
    #expect(try log.isWhole(maxBytes: 1))
    #expect(try log.isWhole(maxBytes: 333))
    try log.close(clean: true)
    #expect(throws: LogError.closed) { try log.append() }

    let (again, report) = try Log.open(
        at: "\(directory.path)/t-0", config: smallSegments(), afterCleanShutdown: true)
    #expect(report.outcome == .trusted)
    #expect(report.checkedBytes == 0)
    #expect(again.logEndOffset == log.logEndOffset)
    #expect(try again.isWhole())
    try again.append(2, epoch: 3)
    #expect(try again.isWhole())
}

@Test func segmentsRollAndNoBatchSpansTwo() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    for _ in 0..<30 { try log.append(2) }
    // One append of many batches goes to several segments too.
    var batches = ByteBuffer()
    for _ in 0..<20 { batches.writeImmutableBuffer(makeBatch()) }
    let headers = try RecordBatches.validateForAppend(batches, maxBatchBytes: 1_000)
    let range = try log.appendAsLeader(batches, headers: headers, leaderEpoch: 0)
    #expect(range == 60..<80)
    let segments = try directory.names().filter { $0.hasSuffix(".log") }
    #expect(segments.count > 5)
    #expect(segments.first == "00000000000000000000.log")
    for name in segments {
        let bytes = ByteBuffer(bytes: try directory.bytes(name))
        #expect(bytes.readableBytes <= 1_000)
        let headers = try RecordBatches.headers(of: bytes)
        let base = try #require(Int64(name.prefix(20)))
        #expect(headers.first?.baseOffset == Offset(base))
    }
    #expect(log.byteCount == (try segments.reduce(0) { $0 + (try directory.bytes($1).count) }))
}

@Test func aBatchLargerThanASegmentGetsOneOfItsOwn() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    try log.append()
    try log.append(1, size: 3_000)
    try log.append()
    #expect(try directory.names().filter { $0.hasSuffix(".log") }.count == 3)
    #expect(try log.texts().count == 3)
}

@Test(arguments: [0, 1 << 20]) func readsKeepToTheirBounds(tailBytes: Int) throws {
    let directory = try TemporaryDirectory()
    var config = smallSegments(1 << 20)
    config.tailBytes = tailBytes
    let (log, _) = try Log.open(at: directory.path, config: config, afterCleanShutdown: false)
    for _ in 0..<50 { try log.append(3) }
    let size = makeBatch(3).readableBytes

    func offsets(_ from: Offset, below: Offset, _ maxBytes: Int) throws -> [Offset] {
        let bytes = try log.read(from: from, below: below, maxBytes: maxBytes)
        return try RecordBatches.headers(of: bytes).map(\.baseOffset)
    }
    // The batch that contains the offset comes first, and at least one comes.
    #expect(try offsets(31, below: .max, 1) == [30])
    #expect(try offsets(32, below: .max, size * 2 + 4) == [30, 33])
    #expect(try offsets(0, below: 9, 1 << 20) == [0, 3, 6])
    #expect(try offsets(0, below: 8, 1 << 20) == [0, 3])
    #expect(try offsets(9, below: 9, 1 << 20) == [])
    #expect(try offsets(149, below: .max, 1 << 20) == [147])
    #expect(try offsets(150, below: .max, 1 << 20) == [])
    #expect(try offsets(0, below: .max, 1 << 20).count == 50)
    #expect(throws: LogError.offsetOutOfRange(151, valid: 0...150)) {
        try offsets(151, below: .max, 1)
    }
    #expect(throws: LogError.offsetOutOfRange(-1, valid: 0...150)) {
        try offsets(-1, below: .max, 1)
    }
}

@Test func theMemoryTailNeverLeavesBatchesOut() throws {
    let directory = try TemporaryDirectory()
    var config = LogConfig()
    config.tailBytes = 2_000
    let (log, _) = try Log.open(at: directory.path, config: config, afterCleanShutdown: false)
    var generator = SeededGenerator(seed: 4)
    for _ in 0..<300 {
        var batches = ByteBuffer()
        for _ in 0..<Int.random(in: 1...4, using: &generator) {
            batches.writeImmutableBuffer(
                makeBatch(2, size: Int.random(in: 10...200, using: &generator)))
        }
        let headers = try RecordBatches.validateForAppend(batches, maxBatchBytes: 10_000)
        try log.appendAsLeader(batches, headers: headers, leaderEpoch: 1)
        let from = Int64.random(in: 0..<log.logEndOffset.rawValue, using: &generator)
        let below = Int64.random(in: from...log.logEndOffset.rawValue, using: &generator)
        let maxBytes = Int.random(in: 1...3_000, using: &generator)
        let read = try log.read(from: Offset(from), below: Offset(below), maxBytes: maxBytes)
        var expected = Offset(from)
        for header in try RecordBatches.headers(of: read) {
            #expect(header.baseOffset <= expected && header.nextOffset > expected)
            expected = header.nextOffset
        }
        #expect(expected <= Offset(below) || read.readableBytes == 0)
        #expect(read.readableBytes > 0 || below - from < 2)
    }
}

@Test func followersTakeOnlyWhatFollows() throws {
    let directory = try TemporaryDirectory()
    let (leader, _) = try Log.open(
        at: "\(directory.path)/a-0", config: smallSegments(), afterCleanShutdown: false)
    let (follower, _) = try Log.open(
        at: "\(directory.path)/b-0", config: smallSegments(700), afterCleanShutdown: false)
    try leader.append(2, epoch: 1)
    try leader.append(2, epoch: 2)
    try leader.append(2, epoch: 4)
    let all = try leader.read(from: 0, below: .max, maxBytes: 1 << 20)
    let second = try leader.read(from: 2, below: 4, maxBytes: 1)

    #expect(throws: LogError.notContiguous(expected: 0, found: 2)) {
        try follower.appendAsFollower(second)
    }
    #expect(throws: LogError.epochTooNew(4, limit: 3)) {
        try follower.appendAsFollower(all, leaderEpoch: 3)
    }
    #expect(throws: LogError.refused(.noBatches)) { try follower.appendAsFollower(ByteBuffer()) }
    var damaged = all
    damaged.setInteger(UInt8(0xaa), at: 70)
    let error = #expect(throws: LogError.self) { try follower.appendAsFollower(damaged) }
    #expect(error?.code == .corruptMessage)
    var cut = all
    cut.moveWriterIndex(to: all.writerIndex - 1)
    #expect(throws: LogError.self) { try follower.appendAsFollower(cut) }
    #expect(follower.logEndOffset == 0)

    #expect(try follower.appendAsFollower(all, leaderEpoch: 4) == 0..<6)
    #expect(follower.latestEpoch == 4)
    #expect(try follower.texts() == leader.texts())
    #expect(follower.endOffset(for: 3) == (2, 4))
    var old = makeBatch()
    RecordBatchHeader.stamp(&old, at: 0, baseOffset: 6, leaderEpoch: 3)
    #expect(throws: LogError.epochFell(from: 4, to: 3)) { try follower.appendAsFollower(old) }
}

@Test func aStaleLeaderCannotAppend() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(at: directory.path, afterCleanShutdown: false)
    log.assignEpoch(5, startOffset: 0)
    #expect(throws: LogError.epochFell(from: 5, to: 4)) { try log.append(epoch: 4) }
    try log.append(epoch: 5)
    #expect(log.lastBatchEpoch == 5)
}

/// S11.
@Test func epochsEndWhereTheNextBegins() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    #expect(log.endOffset(for: 3) == (.none, 0))
    #expect(log.latestEpoch == .none)
    try log.append(5, epoch: 2)
    try log.append(5, epoch: 2)
    try log.append(5, epoch: 4)
    log.assignEpoch(7, startOffset: 15)
    #expect(log.latestEpoch == 7)
    #expect(log.lastBatchEpoch == 4)
    #expect(log.endOffset(for: 1) == (.none, 0))
    #expect(log.endOffset(for: 2) == (2, 10))
    #expect(log.endOffset(for: 3) == (2, 10))
    #expect(log.endOffset(for: 4) == (4, 15))
    #expect(log.endOffset(for: 6) == (4, 15))
    #expect(log.endOffset(for: 7) == (7, 15))
    #expect(log.endOffset(for: 9) == (7, 15))
    #expect(log.epoch(at: 9) == 2)
    #expect(log.epoch(at: 10) == 4)

    // An empty epoch outlives a clean stop, and goes with a truncation to where it starts.
    try log.close(clean: true)
    let (again, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: true)
    #expect(again.latestEpoch == 7)
    try again.truncate(to: 15)
    #expect(again.latestEpoch == 4)
    try again.truncate(to: 12)
    #expect(again.logEndOffset == 10)
    #expect(again.latestEpoch == 2)
    #expect(again.lastBatchEpoch == 2)
    #expect(again.endOffset(for: 9) == (2, 10))
    try again.append(1, epoch: 5)
    #expect(again.endOffset(for: 4) == (2, 10))
}

@Test func truncationCutsToABatchAndAppendsGoOnThere() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    for _ in 0..<30 { try log.append(3, epoch: 1) }
    try log.flush()
    for cut: Int64 in [88, 60, 59, 3, 1, 0] {
        try log.truncate(to: Offset(cut))
        #expect(log.logEndOffset == Offset(cut / 3 * 3))
        #expect(log.durableOffset == log.logEndOffset)
        #expect(try log.isWhole())
        try log.append(3, epoch: 2)
        #expect(log.durableOffset == Offset(cut / 3 * 3))
        #expect(try log.isWhole())
        let copy = try directory.copy()
        let (reopened, _) = try Log.open(
            at: copy.path, config: smallSegments(), afterCleanShutdown: false)
        #expect(reopened.logEndOffset == log.logEndOffset)
        #expect(try reopened.isWhole())
        #expect(reopened.endOffset(for: 1) == log.endOffset(for: 1))
    }
    #expect(throws: LogError.self) { try log.truncate(to: -1) }
}

@Test func anEmptiedLogStartsWhereItIsTold() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    for _ in 0..<20 { try log.append(3, epoch: 1) }
    try log.truncateFully(andStartAt: 1_000)
    #expect(log.logStartOffset == 1_000)
    #expect(log.logEndOffset == 1_000)
    #expect(log.latestEpoch == .none)
    #expect(log.endOffset(for: 1) == (.none, 1_000))
    try log.append(2, epoch: 4)
    #expect(try log.isWhole())
    #expect(try directory.names().filter { $0.hasSuffix(".log") } == ["00000000000000001000.log"])
    let (again, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    #expect(again.logStartOffset == 1_000)
    #expect(again.logEndOffset == 1_002)
    #expect(again.latestEpoch == 4)
}

@Test func timestampsAreFoundAcrossSegmentsAndAfterReopening() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: false)
    // Times that rise on the whole, with steps back.
    var times: [Int64] = []
    var generator = SeededGenerator(seed: 9)
    for round in 0..<60 {
        let time = Int64(round * 10) + Int64.random(in: 0..<40, using: &generator)
        try log.append(2, timestamp: time)
        times += [time, time + 1]
    }
    func check(_ log: Log, below: Int) throws {
        for wanted: Int64 in stride(from: -5, through: 700, by: 7) {
            let expected = times[..<below].firstIndex { $0 >= wanted }
            let found = try log.offset(forTimestamp: wanted, below: Offset(Int64(below)))
            #expect(found?.0.rawValue == expected.map { Int64($0) }, "time \(wanted)")
            #expect(found?.1 == expected.map { times[$0] })
        }
    }
    try check(log, below: 120)
    try check(log, below: 50)
    try log.close(clean: true)
    let (again, _) = try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: true)
    try check(again, below: 120)
    try again.truncate(to: 80)
    try check(again, below: 80)
}

@Test func recordsBelowTheLogStartAreGoneAndStayGone() throws {
    let directory = try TemporaryDirectory()
    let disk = try LogDirectory.open(directory.path)
    let (log, _) = try disk.openLog("t-0", config: smallSegments())
    for _ in 0..<30 { try log.append(3, epoch: 1) }
    #expect(throws: LogError.self) { try log.advanceLogStart(to: 50) }
    try log.flush()
    try log.advanceLogStart(to: 50)
    #expect(log.logStartOffset == 50)
    #expect(try log.isWhole())
    #expect(throws: LogError.offsetOutOfRange(49, valid: 50...90)) {
        try log.read(from: 49, below: .max, maxBytes: 1)
    }
    #expect(log.endOffset(for: 1) == (1, 90))
    try disk.close(clean: false)
    let next = try LogDirectory.open(directory.path)
    let (again, report) = try next.openLog("t-0", config: smallSegments())
    #expect(report.outcome == .recovered(truncatedBytes: 0))
    #expect(again.logStartOffset == 50)
    #expect(try again.isWhole())
    #expect(throws: LogError.self) { try again.truncate(to: 49) }
}

@Test func aDeletedLogIsGone() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(at: "\(directory.path)/t-0", afterCleanShutdown: false)
    try log.append()
    try log.delete()
    #expect(try directory.names().isEmpty)
    #expect(throws: LogError.closed) { try log.append() }
    #expect(throws: LogError.closed) { try log.read(from: 0, below: .max, maxBytes: 1) }
}

@Test func aFollowerMayStartWithinABatch() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let (leader, _) = try logs.openLog("a-0", config: smallSegments())
    for _ in 0..<10 { try leader.append(3, epoch: 1) }
    try leader.flush()
    try leader.advanceLogStart(to: 13)
    let (follower, _) = try logs.openLog("b-0", config: smallSegments())
    try follower.truncateFully(andStartAt: leader.logStartOffset)
    let batches = try leader.read(from: 13, below: .max, maxBytes: 1 << 20)
    #expect(try follower.appendAsFollower(batches, leaderEpoch: 1).upperBound > 13)
    #expect(follower.logStartOffset == 13)
    #expect(try follower.isWhole())
    #expect(throws: LogError.self) { try follower.read(from: 12, below: .max, maxBytes: 1) }
    // Cut back to within that batch, it starts over where it did.
    try follower.truncate(to: 14)
    #expect(follower.logStartOffset == 13)
    #expect(follower.logEndOffset == 13)
    try follower.appendAsFollower(batches)
    #expect(try follower.isWhole())
}
