import Essentials
import Glibc
import NIOCore
import Records
import Storage
import Testing

private func reopen(
    _ directory: TemporaryDirectory, checkpoint: LogCheckpoint = LogCheckpoint(),
    clean: Bool = false
) throws -> (Log, RecoveryReport) {
    try Log.open(
        at: directory.path, config: smallSegments(), afterCleanShutdown: clean,
        checkpoint: checkpoint)
}

private func flip(_ directory: TemporaryDirectory, _ name: String, at index: Int) throws {
    var bytes = try directory.bytes(name)
    bytes[index] ^= 0x10
    try directory.write(bytes, to: name)
}

private func logFiles(_ directory: TemporaryDirectory) throws -> [String] {
    try directory.names().filter { $0.hasSuffix(".log") }
}

/// D1.
@Test func aCrashAtAnyByteOfTheLastBatchLeavesTheWholeBatchesBefore() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    for _ in 0..<4 { try log.append(2, epoch: 1) }
    try log.append(2, size: 5, epoch: 2)
    let name = "00000000000000000000.log"
    let whole = try directory.bytes(name)
    let last = makeBatch(2, size: 5, from: 8).readableBytes
    for cut in (whole.count - last)..<whole.count {
        // Cut off, or with the rest of the file's size there but its bytes never written.
        for filler in [0, last] {
            let crashed = try TemporaryDirectory()
            let torn = Array(whole[..<cut]) + [UInt8](repeating: 0, count: filler)
            // The last byte is a zero itself.
            if torn.starts(with: whole) { continue }
            try crashed.write(torn, to: name)
            let (log, report) = try reopen(
                crashed, checkpoint: LogCheckpoint(recoveryPoint: 8, highWatermark: 6))
            #expect(log.logEndOffset == 8, "cut at \(cut)")
            #expect(
                report.outcome
                    == .recovered(truncatedBytes: torn.count - (whole.count - last)))
            #expect(log.durableOffset == 8)
            #expect(log.latestEpoch == 1)
            try log.append(3, epoch: 3)
            #expect(try log.isWhole())
        }
    }
}

@Test func everythingIsCheckedWithoutARecoveryPoint() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    for _ in 0..<30 { try log.append(3, epoch: 1) }
    try log.close(clean: true)
    let files = try logFiles(directory)
    // In the middle of the third segment: what follows is given up, but nothing before.
    try flip(directory, files[2], at: 300)
    let (again, report) = try reopen(directory)
    #expect(report.outcome != .recovered(truncatedBytes: 0))
    #expect(!report.isDamaged)
    #expect(try logFiles(directory) == Array(files[...2]))
    #expect(try again.isWhole())
    #expect(again.logEndOffset < 90)
    try again.append(epoch: 1)
    #expect(try again.isWhole())
}

/// D6, S4.
@Test func damageBelowWhatIsKnownIsReportedAndNothingIsCut() throws {
    for checkpoint in [
        LogCheckpoint(recoveryPoint: 90, highWatermark: 0),
        LogCheckpoint(recoveryPoint: 0, highWatermark: 90),
        LogCheckpoint(recoveryPoint: 88, highWatermark: 80),
    ] {
        let directory = try TemporaryDirectory()
        let (log, _) = try reopen(directory)
        for _ in 0..<30 { try log.append(3, epoch: 1) }
        try log.close(clean: true)
        let files = try logFiles(directory)
        let last = try #require(files.last)
        try flip(directory, last, at: 100)
        let before = try files.map { try directory.bytes($0) }

        let (again, report) = try reopen(directory, checkpoint: checkpoint)
        let base = Offset(try #require(Int64(last.prefix(20))))
        guard case .damaged(at: base, let reason) = report.outcome else {
            Issue.record("\(report.outcome)")
            continue
        }
        #expect(reason.code == .kafkaStorageError)
        #expect(again.logEndOffset == base)
        #expect(try again.isWhole())
        #expect(throws: LogError.damaged(at: base)) { try again.append(epoch: 1) }
        #expect(again.checkpoint(highWatermark: 90) == nil)
        try again.close(clean: true)
        #expect(try files.map { try directory.bytes($0) } == before)

        // A clean stop in between does not make it sound.
        let (third, secondReport) = try reopen(directory, checkpoint: checkpoint, clean: true)
        #expect(secondReport.isDamaged)
        // Its owner gives up what follows, and goes on.
        try third.truncate(to: base)
        try third.append(3, epoch: 2)
        #expect(try third.isWhole())
        try third.close(clean: true)
        let (fourth, thirdReport) = try reopen(directory, clean: true)
        #expect(thirdReport.outcome == .trusted)
        #expect(try fourth.isWhole())
    }
}

/// D6: what a running process found is no torn tail, though nothing was noted as durable up to there.
@Test(arguments: [true, false])
func knownDamageAboveWhatIsNotedIsNotCutOff(isGap: Bool) throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    for _ in 0..<30 { try log.append(3, epoch: 1) }
    try log.flush()
    let files = try logFiles(directory)
    let last = try #require(files.last)
    let base = Offset(try #require(Int64(last.prefix(20))))
    try log.markDamaged(at: base)
    try log.close(clean: false)
    if isGap { try directory.remove(files[2]) } else { try flip(directory, last, at: 100) }
    let damaged = isGap ? Offset(try #require(Int64(files[2].prefix(20)))) : base
    let before = try logFiles(directory).map { try directory.bytes($0) }
    for _ in 0..<2 {
        let (again, report) = try reopen(directory)
        #expect(report.isDamaged)
        #expect(again.logEndOffset == damaged)
        try again.close(clean: false)
        #expect(try logFiles(directory).map { try directory.bytes($0) } == before)
    }
}

/// D6: what the disk does not give back is bad from there on, and opening the log goes on.
@Test func aSegmentThatCannotBeReadIsDamage() throws {
    let disk = SimulatedDisk(seed: 5)
    var directory = try LogDirectory.open("/d", fileSystem: disk)
    let (log, _) = try directory.openLog("t-0", config: smallSegments(400))
    for _ in 0..<20 { try log.append(2, epoch: 1) }
    try log.flush()
    let names = try disk.contents(of: "/d/t-0").filter { $0.hasSuffix(".log") }.sorted()
    let base = Offset(try #require(Int64(names[2].prefix(20))))
    disk.restart()
    directory = try LogDirectory.open("/d", fileSystem: disk)
    let name = names[2]
    disk.fail(
        DiskFault(
            code: EIO, count: .max,
            concerns: { operation, path in operation == "read" && path.hasSuffix(name) }))
    let (again, report) = try directory.openLog("t-0", config: smallSegments(400))
    guard case .damaged(at: base, .io) = report.outcome else {
        Issue.record("\(report.outcome)")
        return
    }
    disk.fail(nil)
    #expect(again.logEndOffset == base)
    #expect(try again.isWhole())
}

/// D6.
@Test func aBitFlipInASealedSegmentIsFoundByReadingOrChecking() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    for _ in 0..<30 { try log.append(3, epoch: 1) }
    try log.close(clean: true)
    let files = try logFiles(directory)
    try flip(directory, files[1], at: 200)
    let (again, report) = try reopen(
        directory, checkpoint: LogCheckpoint(recoveryPoint: 88, highWatermark: 88))
    #expect(!report.isDamaged)
    let finding = try #require(try again.verify())
    let base = Offset(try #require(Int64(files[1].prefix(20))))
    #expect(finding.at >= base && finding.at < base + 9)
    #expect(throws: (any Error).self) { try again.texts() }
    // In the header's own length, it is noticed without the checksum.
    try flip(directory, files[2], at: 8)
    let (third, _) = try reopen(directory, clean: true)
    let next = Offset(try #require(Int64(files[2].prefix(20))))
    #expect(throws: LogError.self) { try third.read(from: next, below: .max, maxBytes: 1) }
}

/// D3.
@Test func noGapBetweenSegmentsIsAccepted() throws {
    for floor: Offset in [0, 90] {
        let directory = try TemporaryDirectory()
        let (log, _) = try reopen(directory)
        for _ in 0..<30 { try log.append(3, epoch: 1) }
        try log.close(clean: true)
        let files = try logFiles(directory)
        try directory.remove(files[2])
        let gap = Offset(try #require(Int64(files[2].prefix(20))))
        let (again, report) = try reopen(
            directory, checkpoint: LogCheckpoint(recoveryPoint: 0, highWatermark: floor))
        #expect(again.logEndOffset == gap)
        #expect(try again.isWhole())
        #expect(report.isDamaged == (floor > 0))
        if floor > 0 {
            #expect(try logFiles(directory).count == files.count - 1)
            try again.truncate(to: again.logEndOffset)
        }
        #expect(try logFiles(directory) == Array(files[..<2]))
        try again.append(epoch: 1)
        #expect(try again.isWhole())
    }
}

@Test func aLogWhoseFilesAreAllGoneIsDamagedIfItIsKnownToHaveHadRecords() throws {
    let directory = try TemporaryDirectory()
    let (log, report) = try reopen(
        directory, checkpoint: LogCheckpoint(recoveryPoint: 10, highWatermark: 10))
    #expect(report.outcome == .damaged(at: 0, .missingRecords(from: 0, to: 10)))
    #expect(throws: LogError.damaged(at: 0)) { try log.append() }
    try log.truncate(to: 0)
    try log.append()
}

/// D4.
@Test(arguments: ["index", "timeindex", "both"]) func indexesMayVanishOrLie(which: String) throws {
    let original = try TemporaryDirectory()
    let (log, _) = try reopen(original)
    for round in 0..<60 { try log.append(3, epoch: 1, timestamp: Int64(round) * 10) }
    try log.close(clean: true)
    let expected = try Log.open(
        at: original.path, config: smallSegments(), afterCleanShutdown: true
    ).0.texts()
    let names = try original.names().filter { name in
        which == "both"
            ? name.hasSuffix("index") : name.hasSuffix(".\(which)")
    }
    #expect(names.count > 3)

    let another = try original.bytes(names[1])
    let damages: [(TemporaryDirectory, String) throws -> Void] = [
        { try $0.remove($1) },
        { try $0.write([], to: $1) },
        { try $0.write(Array(try $0.bytes($1).dropLast(5)), to: $1) },
        { try $0.write([UInt8](repeating: 0x5a, count: 64), to: $1) },
        { try $0.write(another, to: $1) },
        { try flip($0, $1, at: 3) },
    ]
    for (number, damage) in damages.enumerated() {
        for isClean in [true, false] {
            let directory = try original.copy()
            for name in names { try damage(directory, name) }
            let (log, report) = try reopen(
                directory,
                checkpoint: LogCheckpoint(recoveryPoint: 170, highWatermark: 170),
                clean: isClean)
            #expect(!report.isDamaged, "damage \(number)")
            #expect(try log.texts(maxBytes: 300) == expected)
            let found = try log.offset(forTimestamp: 123, below: .max)
            #expect(found?.0 == 39 && found?.1 == 130)
            try log.append(3, epoch: 1)
            #expect(try log.isWhole())
        }
    }
}

@Test func anIndexKeepsTheIntervalThatItWasMadeWith() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    for round in 0..<60 { try log.append(3, epoch: 1, timestamp: Int64(round) * 10) }
    try log.close(clean: true)
    let names = try directory.names().filter { $0.hasSuffix("index") }.sorted()
    let before = try names.dropLast(2).map { try directory.bytes($0) }
    for interval in [1, 1 << 30] {
        var config = smallSegments()
        config.indexIntervalBytes = interval
        let (log, report) = try Log.open(
            at: directory.path, config: config, afterCleanShutdown: true)
        #expect(!report.isDamaged)
        try log.append(3, epoch: 1, timestamp: 1_000)
        #expect(try log.isWhole(maxBytes: 300))
        let found = try log.offset(forTimestamp: 123, below: .max)
        #expect(found?.0 == 39 && found?.1 == 130)
        try log.close(clean: true)
        #expect(try names.dropLast(2).map { try directory.bytes($0) } == before)
    }
}

/// D4, S11.
@Test func theEpochFileMayVanishOrLie() throws {
    let original = try TemporaryDirectory()
    let (log, _) = try reopen(original)
    for round in 0..<60 { try log.append(3, epoch: LeaderEpoch(Int32(round / 15 * 2))) }
    let expected = (0..<9).map { log.endOffset(for: LeaderEpoch($0)) }
    try log.close(clean: true)
    let name = "leader-epoch-checkpoint"
    #expect(
        String(decoding: try original.bytes(name), as: UTF8.self)
            .hasPrefix("0\n4\n0 0\n2 45\n4 90\n6 135\ncrc32c "))
    let lies = [
        nil, "", "0\n4\n0 0\n2 45\n4 90\n6 135", "0\n4\n0 0\n2 45\n4 90\n", "garbage",
        "0\n1\n9 5\n", "0\n3\n0 0\n2 45\n4 90\n", "0\n2\n0 0\n6 20\n", "0\n1\n6 900\n",
        "0\n2\n2 0\n1 5\n", "0\n1\n-1 -5\n", "0\n99999999999999999999\n",
    ]
    for lie in lies {
        for isClean in [true, false] {
            let directory = try original.copy()
            if let lie {
                try directory.write(Array(lie.utf8), to: name)
            } else {
                try directory.remove(name)
            }
            let (log, report) = try reopen(directory, clean: isClean)
            #expect(report.rebuiltEpochs || !isClean, "\(lie ?? "none")")
            for (epoch, end) in expected.enumerated() {
                #expect(
                    log.endOffset(for: LeaderEpoch(Int32(epoch))) == end, "\(lie ?? "none")")
            }
        }
    }
}

@Test func anEmptyEpochWhoseLeaderCrashedIsForgotten() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    try log.append(3, epoch: 1)
    log.assignEpoch(6, startOffset: 3)
    try log.flush()
    let (again, report) = try reopen(directory)
    #expect(again.latestEpoch == 1)
    #expect(report.outcome == .recovered(truncatedBytes: 0))
}

@Test func leftoversAreRemovedAndStrangersReported() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try reopen(directory)
    try log.append()
    try log.close(clean: true)
    for name in ["leader-epoch-checkpoint.tmp", "00000000000000000009.index", "x.cleaned"] {
        try directory.write([1], to: name)
    }
    let (again, report) = try reopen(directory, clean: true)
    #expect(report.removedFiles.count == 3)
    #expect(again.logEndOffset == 1)
    try directory.write([1], to: "segment.log")
    #expect(throws: LogError.self) { try reopen(directory) }
    try directory.remove("segment.log")
    try LocalFileSystem().makeDirectory("\(directory.path)/00000000000000000005.log")
    #expect(throws: LogError.self) { try reopen(directory) }
}

/// S6: after a failed sync memory may have what the disk does not.
@Test func onlyWhatIsCheckedIsReadAnewFromTheDisk() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try reopen(directory)
    for _ in 0..<30 { try log.append(3, epoch: 1) }
    try log.close(clean: true)
    let last = try #require(try logFiles(directory).last)
    for isClean in [true, false] {
        let before = disk.calls.count
        _ = try Log.open(
            at: directory.path, config: smallSegments(), fileSystem: disk,
            afterCleanShutdown: isClean, checkpoint: LogCheckpoint(recoveryPoint: 88))
        let calls = disk.calls[before...]
        #expect(calls.filter { $0.hasPrefix("drop") } == (isClean ? [] : ["drop \(last)"]))
        let dropped = calls.firstIndex(of: "drop \(last)")
        let read = calls.firstIndex(of: "read \(last)")
        if let dropped { #expect(try dropped < #require(read)) }
    }
}

@Test func aFileThatCannotBeReadIsNoTornTail() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(at: directory.path, fileSystem: disk, afterCleanShutdown: false)
    try log.append()
    disk.fail { $0.operation == "read" && $0.path.hasSuffix(".log") ? EIO : nil }
    let (_, report) = try Log.open(
        at: directory.path, fileSystem: disk, afterCleanShutdown: false)
    #expect(report.isDamaged)
    disk.fail(nil)
    let (again, _) = try Log.open(at: directory.path, fileSystem: disk, afterCleanShutdown: false)
    #expect(again.logEndOffset == 1)
}

/// D15.
@Test(arguments: 0..<30) func anyBytesInTheFilesGiveAnErrorOrAValidPrefix(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let original = try TemporaryDirectory()
    let (log, _) = try reopen(original)
    for round in 0..<30 { try log.append(3, epoch: LeaderEpoch(Int32(round / 10))) }
    try log.close(clean: true)
    for _ in 0..<10 {
        let directory = try original.copy()
        for _ in 0..<Int.random(in: 1...3, using: &generator) {
            let name = try #require(try directory.names().randomElement(using: &generator))
            var bytes = try directory.bytes(name)
            switch Int.random(in: 0..<4, using: &generator) {
            case 0:
                bytes.removeLast(Int.random(in: 0...bytes.count, using: &generator))
            case 1:
                bytes += (0..<Int.random(in: 1..<200, using: &generator)).map { _ in
                    UInt8.random(in: 0...255, using: &generator)
                }
            default:
                for _ in 0..<Int.random(in: 1...8, using: &generator) where !bytes.isEmpty {
                    let index = Int.random(in: 0..<bytes.count, using: &generator)
                    bytes[index] = UInt8.random(in: 0...255, using: &generator)
                }
            }
            try directory.write(bytes, to: name)
        }
        let floor = Offset(Int64.random(in: 0...100, using: &generator))
        let isClean = Bool.random(using: &generator)
        guard
            let (log, report) = try? reopen(
                directory, checkpoint: LogCheckpoint(recoveryPoint: floor, highWatermark: floor),
                clean: isClean)
        else { continue }
        #expect(log.logEndOffset >= floor || report.isDamaged, "seed \(seed)")
        if !isClean, floor == 0 { #expect(try log.isWhole(), "seed \(seed)") }
        _ = try? log.texts(maxBytes: 500)
        _ = try? log.offset(forTimestamp: 1_001, below: .max)
        _ = try? log.verify()
        try? log.truncate(to: 10)
        _ = try? log.append(epoch: 9)
    }
}

/// S4, D10.
@Test func damageBelowTheLogStartBringsNothingBackThatWasDeleted() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let (log, _) = try logs.openLog("t-0")
    for _ in 0..<30 { try log.append(size: 100) }
    try log.flush()
    try log.advanceLogStart(to: 20)
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 30))])
    try logs.close(clean: false)
    let path = "t-0/00000000000000000000.log"
    var bytes = try directory.bytes(path)
    bytes[bytes.count / 3] ^= 1
    try directory.write(bytes, to: path)
    for _ in 0..<2 {
        let logs = try LogDirectory.open(directory.path)
        let (log, report) = try logs.openLog("t-0")
        #expect(report.isDamaged)
        #expect(log.logStartOffset == log.logEndOffset)
        #expect(logs.checkpoint(of: "t-0").logStartOffset == 20)
        try logs.close(clean: false)
    }
    // Once what is left is cut off it goes on there, or wherever the leader says.
    let again = try LogDirectory.open(directory.path)
    let (damaged, _) = try again.openLog("t-0")
    try damaged.truncate(to: damaged.logEndOffset)
    #expect(again.checkpoint(of: "t-0").logStartOffset == damaged.logEndOffset)
    try damaged.append()
}
