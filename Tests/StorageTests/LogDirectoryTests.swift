import Essentials
import Glibc
import Storage
import Testing

/// D14, S13.
@Test func aDirectoryIsUsedByOneAtATime() throws {
    let directory = try TemporaryDirectory()
    let first = try LogDirectory.open(directory.path)
    #expect(throws: LogError.inUse(directory: directory.path)) {
        try LogDirectory.open(directory.path)
    }
    try first.close(clean: false)
    try LogDirectory.open(directory.path).close(clean: false)
}

/// D11, S5.
@Test func onlyAStopInOrderLeavesAMarkAndTheNextStartTakesItAway() throws {
    let directory = try TemporaryDirectory()
    let first = try LogDirectory.open(directory.path)
    #expect(!first.wasCleanShutdown)
    let (log, _) = try first.openLog("t-0")
    try log.append(4)
    #expect(try first.close(clean: true) == false)  // a log is open

    let second = try LogDirectory.open(directory.path)
    #expect(!second.wasCleanShutdown)
    // A log was never looked at: the others may be trusted next time, that one not.
    #expect(try second.close(clean: true))

    let third = try LogDirectory.open(directory.path)
    #expect(third.wasCleanShutdown)
    let (again, report) = try third.openLog("t-0")
    #expect(report.outcome == .recovered(truncatedBytes: 0))
    #expect(report.checkedBytes > 0)
    try third.closeLog(again)
    #expect(try third.close(clean: true, brokerEpoch: BrokerEpoch(77)))

    let fourth = try LogDirectory.open(directory.path)
    #expect(fourth.wasCleanShutdown)
    #expect(fourth.lastBrokerEpoch == BrokerEpoch(77))
    #expect(try !directory.names().contains(".clean-shutdown"))
    #expect(try fourth.openLog("t-0").1.outcome == .trusted)
    try fourth.close(clean: false)  // as good as a crash
    #expect(try !LogDirectory.open(directory.path).wasCleanShutdown)
}

/// D11, S5.
@Test func aLogThatNobodyOpensStaysUntrustedAndKeepsNoOtherFromBeingTrusted() throws {
    let directory = try TemporaryDirectory()
    let first = try LogDirectory.open(directory.path)
    for folder in ["left-0", "used-0", "gone-0"] { try first.openLog(folder).0.append(4) }
    try first.close(clean: false)

    for round in 0..<3 {
        let logs = try LogDirectory.open(directory.path)
        #expect(logs.wasCleanShutdown == (round > 0))
        let (log, report) = try logs.openLog("used-0")
        #expect((report.outcome == .trusted) == (round > 0))
        try log.append()
        try logs.closeLog(log)
        #expect(try logs.close(clean: true))
        let text = String(decoding: try directory.bytes(".clean-shutdown"), as: UTF8.self)
        #expect(text.contains("unsettled=left-0\n"))
        #expect(text.contains("gone-0") == (round == 0))
        try? LocalFileSystem().removeRecursively("\(directory.path)/gone-0")
    }

    try directory.remove(".closed-logs")
    let last = try LogDirectory.open(directory.path)
    // Nor is one that can't be opened, and it is no reason to distrust the others either.
    try directory.write([1], to: "used-0/stranger.log")
    #expect(throws: LogError.self) { try last.openLog("used-0") }
    let (left, report) = try last.openLog("left-0")
    #expect(report.outcome == .recovered(truncatedBytes: 0))
    try last.closeLog(left)
    #expect(try last.close(clean: true))
    try directory.remove("used-0/stranger.log")
    let again = try LogDirectory.open(directory.path)
    #expect(try again.openLog("used-0").1.outcome != .trusted)
    #expect(try again.openLog("left-0").1.outcome == .trusted)
}

@Test func aStopBeforeABrokerIsRegisteredKeepsTheLastEpoch() throws {
    let directory = try TemporaryDirectory()
    try LogDirectory.open(directory.path).close(clean: true, brokerEpoch: BrokerEpoch(77))
    for _ in 0..<2 {
        let logs = try LogDirectory.open(directory.path)
        #expect(logs.lastBrokerEpoch == BrokerEpoch(77))
        try logs.close(clean: true)
    }
    // Not over a crash.
    try LogDirectory.open(directory.path).close(clean: false)
    try LogDirectory.open(directory.path).close(clean: true)
    #expect(try LogDirectory.open(directory.path).lastBrokerEpoch == BrokerEpoch.none)
}

@Test(arguments: ["", "version=1", "version=3\n", "version=1\nbroker.epoch=x\n", "\u{0}\n"])
func whatIsNoMarkOfACleanStopCountsAsNone(mark: String) throws {
    let directory = try TemporaryDirectory()
    try directory.write(Array(mark.utf8), to: ".clean-shutdown")
    #expect(try !LogDirectory.open(directory.path).wasCleanShutdown)
}

/// S2, R9.
@Test(arguments: 0..<20 as Range<UInt64>)
func theMetadataLogIsCheckedAfterACrashAlsoIfTheFirstStartFailed(seed: UInt64) throws {
    let disk = SimulatedDisk(seed: seed)
    let folder = LogDirectory.metadataFolder
    let first = try LogDirectory.open("/data", fileSystem: disk)
    let (log, _) = try first.openLog(folder)
    try log.append(4)
    try log.flush()
    try log.append(4)
    // The process dies; what it wrote last is in memory only.

    // The next start ends before it comes to the log, and stops in order.
    #expect(try LogDirectory.open("/data", fileSystem: disk).close(clean: true))
    for _ in 0..<2 {
        let next = try LogDirectory.open("/data", fileSystem: disk)
        #expect(next.wasCleanShutdown)
        #expect(try next.partitionFolders() == [])
        #expect(try next.close(clean: true))
    }
    let second = try LogDirectory.open("/data", fileSystem: disk)
    let (recovered, report) = try second.openLog(folder)
    #expect(report.outcome == .recovered(truncatedBytes: 0))
    #expect(recovered.durableOffset == 8)
    // It said that all of it was durable.
    disk.failPower(after: 0)
    #expect(throws: LogError.self) { try recovered.append() }
    disk.restart()
    let third = try LogDirectory.open("/data", fileSystem: disk)
    #expect(try third.openLog(folder).0.logEndOffset >= 8)
    // Once it was closed in order, it is trusted.
    let fourth = try LogDirectory.open("/data", fileSystem: disk)
    try fourth.closeLog(try fourth.openLog(folder).0)
    #expect(try fourth.close(clean: true))
    let last = try LogDirectory.open("/data", fileSystem: disk)
    #expect(try last.openLog(folder).1.outcome == .trusted)
}

@Test func noPartitionIsGivenTheMetadataLogsFolder() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let (log, _) = try logs.openLog(LogDirectory.metadataFolder)
    try log.append(3)
    let partition = try #require(PartitionFolder(LogDirectory.metadataFolder))
    #expect(throws: LogError.self) { try logs.createLog(partition, topicID: .random()) }
    #expect(throws: LogError.self) { try logs.deleteLog(inFolder: partition.name) }
    #expect(try directory.names().contains(partition.name))
    #expect(try logs.topicID(of: partition.name) == nil)
    #expect(try log.isWhole())
    try logs.closeLog(log)
}

@Test func aTopicWithTheLongestNameCanBeDeleted() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    for partition: Int32 in 0..<2 {
        let folder = PartitionFolder(
            topic: String(repeating: "x", count: 249), partition: partition)
        let log = try logs.createLog(folder, topicID: .random())
        let renamed: String
        if partition == 0 {
            renamed = try logs.deleteLog(log)
        } else {
            try logs.closeLog(log)
            renamed = try logs.deleteLog(inFolder: folder.name)
        }
        #expect(try logs.deletedFolders() == [renamed])
        try logs.removeDeleted(renamed)
    }
    #expect(try logs.partitionFolders() == [])
}

/// D8, C12.
@Test(arguments: [1, 230, 249])
func aDeletionThatIsCutShortIsFinishedByTheNextStart(nameLength: Int) throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let first = try LogDirectory.open(directory.path, fileSystem: disk)
    let name = String(repeating: "x", count: nameLength)
    // The second has vanished, which must not be taken for a deletion.
    let folders = (0..<3 as Range<Int32>).map { PartitionFolder(topic: name, partition: $0) }
    for folder in folders.reversed() {
        let log = try first.createLog(folder, topicID: .random())
        try log.append(3)
        try log.flush()
        try first.checkpoint([folder.name: try #require(log.checkpoint(highWatermark: 3))])
        try log.advanceLogStart(to: 2)
        if folder.partition == 1 { try log.delete() }
        guard folder.partition == 0 else { continue }
        // The power fails between the two: nothing is noted after the folder was renamed.
        disk.fail { $0.path.contains("checkpoint") ? EIO : nil }
        #expect(throws: LogError.self) { try first.deleteLog(log) }
        disk.fail(nil)
    }
    try first.close(clean: false)

    let second = try LogDirectory.open(directory.path)
    #expect(second.checkpoint(of: folders[0].name).highWatermark == 3)
    try second.forgetDeleted()
    #expect(second.checkpoint(of: folders[0].name) == LogCheckpoint())
    #expect(second.checkpoint(of: folders[1].name).highWatermark == 3)
    #expect(second.checkpoint(of: folders[2].name).logStartOffset == 2)
    try second.close(clean: false)
    #expect(
        try LogDirectory.open(directory.path).checkpoint(of: folders[0].name) == LogCheckpoint())
}

/// S8.
@Test(arguments: [true, false])
func onAFullDiskADeletedLogStillGivesItsSpaceBack(isOpen: Bool) throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let logs = try LogDirectory.open(directory.path, fileSystem: disk)
    let folder = PartitionFolder(topic: "t", partition: 0)
    let log = try logs.createLog(folder, topicID: .random())
    try log.append(3)
    try log.flush()
    try logs.checkpoint([folder.name: try #require(log.checkpoint(highWatermark: 3))])
    if !isOpen { try logs.closeLog(log) }
    disk.fail { $0.operation == "create" ? ENOSPC : nil }
    let leftover =
        isOpen ? try logs.deleteLog(log) : try logs.deleteLog(inFolder: folder.name)
    // There is no room even after that, so the folder remains to say that the log was deleted.
    #expect(throws: LogError.self) { try logs.removeDeleted(leftover) }
    #expect(try LocalFileSystem().contents(of: "\(directory.path)/\(leftover)") == [])
    let crashed = try directory.copy()
    let next = try LogDirectory.open(crashed.path)
    #expect(next.checkpoint(of: folder.name).highWatermark == 3)
    try next.forgetDeleted()
    #expect(next.checkpoint(of: folder.name) == LogCheckpoint())

    disk.fail(nil)
    try logs.removeDeleted(leftover)
    #expect(try logs.deletedFolders() == [])
    try logs.close(clean: false)
    #expect(
        try LogDirectory.open(directory.path).checkpoint(of: folder.name) == LogCheckpoint())
}

@Test func checkpointsAreKeptPerLogAndInKafkasForm() throws {
    let directory = try TemporaryDirectory()
    let first = try LogDirectory.open(directory.path)
    var logs: [String: Log] = [:]
    for folder in ["b-0", "a-1"] {
        let (log, _) = try first.openLog(folder)
        try log.append(5)
        try log.flush()
        try log.append(5)
        logs[folder] = log
    }
    try first.checkpoint(logs.compactMapValues { $0.checkpoint(highWatermark: 9) })
    let text = String(
        decoding: try directory.bytes("recovery-point-offset-checkpoint"), as: UTF8.self)
    #expect(text.hasPrefix("0\n2\na-1 5\nb-0 5\ncrc32c "))
    // Never above what is durable.
    #expect(try directory.bytes("replication-offset-checkpoint") == Array(text.utf8))
    try first.close(clean: false)
    let second = try LogDirectory.open(directory.path)
    #expect(second.checkpoint(of: "a-1").recoveryPoint == 5)
    #expect(second.checkpoint(of: "c-0") == LogCheckpoint())
}

@Test func aTruncationLowersWhatIsKnownFirstAndOlderCheckpointsAreIgnored() throws {
    let directory = try TemporaryDirectory()
    let first = try LogDirectory.open(directory.path)
    let (log, _) = try first.openLog("t-0", config: smallSegments())
    for _ in 0..<30 { try log.append(2, epoch: 1) }
    try log.flush()
    let old = try #require(log.checkpoint(highWatermark: 60))
    try first.checkpoint(["t-0": old])
    try log.truncate(to: 20)
    #expect(first.checkpoint(of: "t-0").recoveryPoint == 20)
    try first.checkpoint(["t-0": old])
    #expect(first.checkpoint(of: "t-0").recoveryPoint == 20)
    try log.append(2, epoch: 2)
    try first.close(clean: false)
    let second = try LogDirectory.open(directory.path)
    let (again, report) = try second.openLog("t-0", config: smallSegments())
    #expect(!report.isDamaged)
    #expect(again.logEndOffset == 22)
    try again.truncateFully(andStartAt: 500)
    #expect(second.checkpoint(of: "t-0").recoveryPoint == 0)
    // And one taken from a log that was in the same folder before.
    let stale = try #require(again.checkpoint(highWatermark: 500))
    try again.flush()
    _ = try second.deleteLog(again)
    let new = try second.createLog(PartitionFolder(topic: "t", partition: 0), topicID: .random())
    try second.checkpoint(["t-0": stale])
    #expect(second.checkpoint(of: "t-0").recoveryPoint == 0)
    #expect(new.logEndOffset == 0)
}

/// D8.
@Test func aTruncationThatCannotBeNotedDoesNotHappen() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let logs = try LogDirectory.open(directory.path, fileSystem: disk)
    let (log, _) = try logs.openLog("t-0")
    for _ in 0..<5 { try log.append(2) }
    try log.flush()
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 10))])
    disk.fail { $0.path.contains("checkpoint") && $0.operation == "write" ? ENOSPC : nil }
    // A second try must not think that the first has done it.
    for _ in 0..<2 { #expect(throws: LogError.self) { try log.truncate(to: 4) } }
    #expect(log.logEndOffset == 10)
    disk.fail(nil)
    // Nor does it keep the log from being noted.
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 10))])
    #expect(logs.checkpoint(of: "t-0").recoveryPoint == 10)
    try log.truncate(to: 4)
    #expect(log.logEndOffset == 4)
    let text = String(
        decoding: try directory.bytes("recovery-point-offset-checkpoint"), as: UTF8.self)
    #expect(text.hasPrefix("0\n1\nt-0 4\ncrc32c "))
}

/// D5.
@Test func checkpointsMayVanishOrLieAndNothingIsLost() throws {
    let original = try TemporaryDirectory()
    let logs = try LogDirectory.open(original.path)
    let (log, _) = try logs.openLog("t-0", config: smallSegments())
    for _ in 0..<30 { try log.append(2, epoch: 1) }
    try log.flush()
    try log.advanceLogStart(to: 4)
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 50))])
    for name in [
        "recovery-point-offset-checkpoint", "replication-offset-checkpoint",
        "log-start-offset-checkpoint",
    ] {
        let lies: [String?] = [
            nil, "", "0\n", "0\n1\nt-0 ", "0\n1\nt-0 99999999999999999999999\n", "0\n1\nt-0 -4\n",
            "7\n1\nt-0 3\n", "0\n1\nt-0 100000\n", "\u{0}\u{0}\u{0}",
        ]
        for lie in lies {
            let copy = try original.copy()
            if let lie {
                try copy.write(Array(lie.utf8), to: name)
            } else {
                try copy.remove(name)
            }
            let logs = try LogDirectory.open(copy.path)
            let (log, report) = try logs.openLog("t-0", config: smallSegments())
            // Too high a recovery point or high watermark looks like lost records, and is reported;
            // all else changes nothing.
            let isTooHigh = lie == "0\n1\nt-0 100000\n" && !name.hasPrefix("log-start")
            #expect(report.isDamaged == isTooHigh, "\(name): \(lie ?? "none")")
            #expect(log.logEndOffset == 60)
            #expect(log.logStartOffset == (name.hasPrefix("log-start") ? 0 : 4))
            #expect(try log.isWhole())
        }
    }
}

@Test func topicIdsAndFoldersAreToldApart() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let id = TopicID.random()
    let log = try logs.createLog(PartitionFolder(topic: "a.b-c", partition: 12), topicID: id)
    try log.append()
    try LocalFileSystem().makeDirectory("\(directory.path)/lost+found")
    try LocalFileSystem().makeDirectory("\(directory.path)/x-01")
    try directory.write([1], to: "file-0")
    try LocalFileSystem().makeDirectory("\(directory.path)/__cluster_metadata-0")
    #expect(try logs.partitionFolders() == [PartitionFolder(topic: "a.b-c", partition: 12)])
    #expect(try logs.topicID(of: "a.b-c-12") == id)
    try directory.write(Array("nonsense".utf8), to: "a.b-c-12/partition.metadata")
    #expect(try logs.topicID(of: "a.b-c-12") == nil)
    #expect(try logs.topicID(of: "none-0") == nil)
    #expect(PartitionFolder("t") == nil)
    #expect(PartitionFolder("-1") == nil)
    #expect(PartitionFolder("t--1")?.topic == "t-")
    #expect(PartitionFolder("t-0.abc.delete") == nil)

    let renamed = try logs.deleteLog(log)
    #expect(try logs.deletedFolders() == [renamed])
    try logs.removeDeleted(renamed)
    #expect(try logs.deletedFolders() == [])
}

@Test func aFolderIsKnownToHoldRecordsWithoutItsTopicId() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let log = try logs.createLog(PartitionFolder(topic: "t", partition: 0), topicID: .random())
    #expect(!logs.hasRecords("t-0"))
    #expect(!logs.hasRecords("none-0"))
    try log.append()
    try logs.closeLog(log)
    try directory.remove("t-0/partition.metadata")
    #expect(try logs.topicID(of: "t-0") == nil)
    #expect(logs.hasRecords("t-0"))
}

@Test func aDirectoryThatCannotBeUsedSaysSo() throws {
    let directory = try TemporaryDirectory()
    try directory.write([1], to: "file")
    let error = #expect(throws: LogError.self) {
        try LogDirectory.open("\(directory.path)/file")
    }
    #expect(error.map { "\($0)" }?.contains("file") ?? false)
    try LocalFileSystem().makeDirectory("\(directory.path)/.lock")
    #expect(throws: LogError.self) { try LogDirectory.open(directory.path) }
}
