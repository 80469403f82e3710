import Essentials
import Glibc
import NIOCore
import Records
import Storage
import Synchronization
import Testing

@Test func onlyWhatWasFlushedIsDurable() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: disk, afterCleanShutdown: false)
    try log.append(3)
    #expect(log.durableOffset == 0)
    let ticket = log.prepareFlush()
    try log.append(3)
    try ticket.perform()
    #expect(log.completeFlush(ticket) == 3)
    try log.flush()
    #expect(log.durableOffset == 6)
    #expect(log.prepareFlush().isEmpty)
}

/// S8: where there is no room to set aside, things go on without.
@Test func roomIsSetAsideForWhatIsNotSyncedOftenAndGivenBack() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, fileSystem: disk, afterCleanShutdown: false)
    let path = "\(directory.path)/00000000000000000000.log"
    func bytesOnDisk() -> Int {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_blocks) * 512 : 0
    }
    func reserves() -> Int { disk.calls.count { $0.hasPrefix("reserve") } }
    for _ in 0..<24 {
        try log.append(1, size: 1 << 20)
        try log.flush()
    }
    #expect(reserves() == 0)
    for _ in 0..<12 { try log.append(1, size: 1 << 20) }
    #expect((1...3).contains(reserves()))
    // What others see of the file is what was written.
    #expect(try disk.size(of: path) == log.byteCount)
    #expect(try log.isWhole())
    try log.close(clean: true)
    #expect(try disk.size(of: path) == log.byteCount)
    #expect(bytesOnDisk() < log.byteCount + 1 << 20)
    let (again, report) = try Log.open(
        at: directory.path, fileSystem: disk, afterCleanShutdown: true)
    #expect(report.outcome == .trusted)
    #expect(again.logEndOffset == 36)
}

/// S7.
@Test func aFlushAfterARollSyncsBothFilesAndTheFolderFirst() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: disk, afterCleanShutdown: false)
    try log.append(5, size: 120)
    try log.flush()
    try log.append(1)
    try log.append(5, size: 120)
    let before = disk.calls.count
    try log.flush()
    let folder = try #require(directory.path.split(separator: "/").last)
    #expect(
        disk.calls[before...].filter { $0.hasPrefix("sync") } == [
            "sync directory \(folder)", "sync 00000000000000000000.log",
            "sync 00000000000000000006.log",
        ])
    #expect(log.durableOffset == 11)
}

@Test func aFlushThatEndsAfterATruncationCountsForNothing() throws {
    let directory = try TemporaryDirectory()
    let (log, _) = try Log.open(at: directory.path, afterCleanShutdown: false)
    for _ in 0..<5 { try log.append(2, epoch: 1) }
    let ticket = log.prepareFlush()
    try log.truncate(to: 4)
    for _ in 0..<5 { try log.append(2, epoch: 2) }
    try ticket.perform()
    #expect(log.completeFlush(ticket) <= 4)
    try log.flush()
    #expect(log.durableOffset == 14)
}

/// D7, S6.
@Test func aFailedSyncIsFinalForTheWholeDirectory() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let logs = try LogDirectory.open(directory.path, fileSystem: disk)
    let (log, _) = try logs.openLog("t-0")
    let (other, _) = try logs.openLog("t-1")
    try log.append()
    let ticket = log.prepareFlush()
    disk.fail { $0.operation == "sync" ? EIO : nil }
    #expect(throws: LogError.self) { try ticket.perform() }
    disk.fail(nil)
    #expect(log.durableOffset == 0)
    #expect(logs.health.failure != nil)
    // Never again as if it were good.
    #expect(throws: LogError.self) { try ticket.perform() }
    #expect(throws: LogError.self) { try log.flush() }
    #expect(throws: LogError.self) { try log.append() }
    #expect(throws: LogError.self) { try other.append() }
    #expect(throws: LogError.self) { try logs.checkpoint([:]) }
    #expect(try logs.close(clean: true) == false)
}

/// D8, S8.
@Test func aFullDiskFailsAppendsWholeAndWorkResumes() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: disk, afterCleanShutdown: false)
    for round in 0..<30 {
        try log.append(3, epoch: LeaderEpoch(Int32(round / 10)))
        let before = log.byteCount
        let end = log.logEndOffset
        for failing in ["write", "create"] {
            disk.fail { [failing] in
                $0.operation == failing && $0.path.hasSuffix(".log") ? ENOSPC : nil
            }
            // Many batches, so that some go to a segment that is not made yet.
            var batches = makeBatch(2)
            for _ in 0..<12 { batches.writeImmutableBuffer(makeBatch(2)) }
            let headers = try RecordBatches.validateForAppend(batches, maxBatchBytes: 1_000)
            let error = #expect(throws: LogError.self) {
                try log.appendAsLeader(batches, headers: headers, leaderEpoch: 5)
            }
            guard case .io(let cause)? = error else {
                Issue.record("\(String(describing: error))")
                continue
            }
            #expect(cause.isOutOfSpace)
        }
        disk.fail(nil)
        #expect(log.byteCount == before)
        #expect(log.logEndOffset == end)
        #expect(log.latestEpoch == LeaderEpoch(Int32(round / 10)))
    }
    #expect(try log.isWhole())
    // Index files and the epoch file do not matter.
    disk.fail {
        $0.path.hasSuffix("index") || $0.path.contains("leader-epoch") ? ENOSPC : nil
    }
    for _ in 0..<30 { try log.append(3, epoch: 7) }
    try log.flush()
    #expect(log.durableOffset == log.logEndOffset)
    disk.fail(nil)
    try log.flush()
    let (again, report) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: disk, afterCleanShutdown: false)
    #expect(report.outcome == .recovered(truncatedBytes: 0))
    #expect(again.logEndOffset == log.logEndOffset)
    #expect(try again.isWhole())
    #expect(again.endOffset(for: 6) == log.endOffset(for: 6))
}

@Test func aLogThatCannotBeCutBackGoesOfflineWithItsDirectory() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let health = StorageHealth()
    let failures = Mutex<[LogError]>([])
    health.onFailure { error in failures.withLock { $0.append(error) } }
    let (log, _) = try Log.open(
        at: directory.path, fileSystem: disk, afterCleanShutdown: false, health: health)
    try log.append(2)
    disk.fail { ["write", "truncate"].contains($0.operation) ? EIO : nil }
    let error = try #require(throws: LogError.self) { try log.append() }
    disk.fail(nil)
    #expect(failures.withLock { $0 } == [error])
    #expect(throws: error) { try log.append() }
    #expect(throws: error) { try log.truncate(to: 0) }
    #expect(try log.isWhole())
    let (again, _) = try Log.open(at: directory.path, afterCleanShutdown: false)
    #expect(again.logEndOffset == 2)
}

/// S6, D7.
@Test(arguments: ["truncate", "start anew", "advance", "recover", "checkpoint", "delete"])
func aSyncThatFailsOutsideAFlushIsFinalToo(during: String) throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let logs = try LogDirectory.open(directory.path, fileSystem: disk)
    let (log, _) = try logs.openLog("t-0", config: smallSegments())
    for _ in 0..<30 { try log.append(2, epoch: 1) }
    try log.flush()
    let (other, _) = try logs.openLog("t-1")
    if during == "recover" { try log.close(clean: false) }
    let checkpoint = log.checkpoint(highWatermark: 60)

    disk.fail { $0.operation.hasPrefix("sync") ? EIO : nil }
    let error = #expect(throws: LogError.self) {
        switch during {
        case "truncate": try log.truncate(to: 20)
        case "start anew": try log.truncateFully(andStartAt: 100)
        case "advance": try log.advanceLogStart(to: 50)
        case "recover": _ = try logs.openLog("t-0", config: smallSegments())
        case "checkpoint": try logs.checkpoint(["t-0": try #require(checkpoint)])
        default: _ = try logs.deleteLog(log)
        }
    }
    disk.fail(nil)
    #expect(logs.health.failure != nil)
    #expect(logs.health.failure == error)
    #expect(throws: LogError.self) { try other.append() }
    #expect(try logs.close(clean: true) == false)
}

/// D8, S8.
@Test(arguments: [
    ".anew", "log-start-offset-checkpoint.tmp", "recovery-point-offset-checkpoint.tmp",
])
func aFullDiskThatKeepsALogFromStartingAnewDoesNotTakeItOffline(file: String) throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let logs = try LogDirectory.open(directory.path, fileSystem: disk)
    let (log, _) = try logs.openLog("t-0", config: smallSegments())
    for _ in 0..<30 { try log.append() }
    try log.flush()
    try log.advanceLogStart(to: 3)
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 0))])
    disk.fail { $0.operation == "create" && $0.path.hasSuffix(file) ? ENOSPC : nil }
    for start: Offset in [50, 20, 1] {
        #expect(throws: LogError.self) { try log.truncateFully(andStartAt: start) }
        #expect(logs.health.failure == nil)
        #expect(try log.isWhole() && log.logStartOffset == 3 && log.logEndOffset == 30)
    }
    disk.fail(nil)
    // Whatever is noted next, the start that was in vain is not.
    try logs.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 25))])
    #expect(logs.checkpoint(of: "t-0").logStartOffset == 3)
    let copy = try directory.copy()
    let (other, report) = try LogDirectory.open(copy.path).openLog("t-0", config: smallSegments())
    #expect(!report.isDamaged)
    #expect(try other.isWhole() && other.logStartOffset == 3 && other.logEndOffset == 30)
    try log.truncateFully(andStartAt: 50)
    #expect(log.logStartOffset == 50 && log.logEndOffset == 50)
}

@Test func theFlusherServesAllWhoWaitTogether() async throws {
    let directory = try TemporaryDirectory()
    let flusher = LogFlusher()
    var logs: [Log] = []
    for partition in 0..<6 {
        logs.append(
            try Log.open(at: "\(directory.path)/t-\(partition)", afterCleanShutdown: false).0)
    }
    for _ in 0..<20 {
        await withTaskGroup(of: Void.self) { group in
            for log in logs {
                for _ in 0..<3 {
                    _ = try? log.append(2)
                    let ticket = log.prepareFlush()
                    group.addTask {
                        let result = await withCheckedContinuation { done in
                            flusher.submit(ticket) { done.resume(returning: $0) }
                        }
                        #expect(throws: Never.self) { try result.get() }
                    }
                }
            }
        }
    }
    flusher.stop()
    #expect(throws: LogError.closed) {
        let result = Mutex<Result<Void, LogError>?>(nil)
        flusher.submit(logs[0].prepareFlush()) { outcome in result.withLock { $0 = outcome } }
        try result.withLock { $0 }?.get()
    }
}

@Test func deletingALogDoesNotDisturbItsFlush() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let log = try logs.createLog(PartitionFolder(topic: "t", partition: 0), topicID: .random())
    log.assignEpoch(1, startOffset: 0)
    try log.append(epoch: 1)
    let ticket = log.prepareFlush()
    let renamed = try logs.deleteLog(log)
    try ticket.perform()
    try logs.removeDeleted(renamed)
    #expect(logs.health.failure == nil)
    #expect(try logs.partitionFolders() == [])
}

@Test func aFlushAfterATruncationSyncsTheSegmentsBeforeTheCutToo() throws {
    let directory = try TemporaryDirectory()
    let disk = FaultyFileSystem()
    let (log, _) = try Log.open(
        at: directory.path, config: smallSegments(), fileSystem: disk, afterCleanShutdown: false)
    for _ in 0..<4 { try log.append(5, size: 100, epoch: 1) }
    try log.truncate(to: 15)
    for _ in 0..<2 { try log.append(5, size: 100, epoch: 2) }
    let before = disk.calls.count
    try log.flush()
    let synced = disk.calls[before...].filter { $0.hasPrefix("sync 0") }
    #expect(synced.contains("sync 00000000000000000000.log"))
    #expect(log.durableOffset == 25)
}
