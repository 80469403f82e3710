import Essentials
import Glibc
import Storage
import Synchronization
import Testing

@Suite("A log that moves to another directory")
struct LogCopyTests {
    private static let folder = PartitionFolder(topic: "t", partition: 0)
    private let topicID = TopicID.random()

    /// A log with two epochs and a log start above its first offset.
    private func makeLog(in directory: LogDirectory) throws -> Log {
        let log = try directory.createLog(
            Self.folder, topicID: topicID, brokerEpoch: 7, config: smallSegments(400))
        for round in 0..<20 { try log.append(2, epoch: round < 10 ? 1 : 2) }
        try log.flush()
        let ticket = try #require(try log.prepareStart(5))
        try ticket.perform()
        _ = log.completeStart(ticket)
        return log
    }

    private func open(_ path: String, on disk: any FileSystem) throws -> LogDirectory {
        let directory = try LogDirectory.open(path, fileSystem: disk)
        try directory.forgetDeleted()
        for name in try directory.futureFolders() { try directory.removeFuture(name) }
        return directory
    }

    private func copies(in directories: [LogDirectory]) throws -> [LogDirectory] {
        try directories.filter { try $0.partitionFolders().contains(Self.folder) }
    }

    @Test("It has every record, and all that is noted of it, in the new place")
    func moves() throws {
        let temporary = try TemporaryDirectory()
        let old = try open(temporary.path + "/a", on: .local)
        let new = try open(temporary.path + "/b", on: .local)
        let log = try makeLog(in: old)
        let copy = try LogCopy(of: Self.folder, from: old, to: new)
        try copy.copy(try #require(log.copyPlan()))
        #expect(copy.missing(of: try #require(log.copyPlan())) == 0)
        #expect(copy.progress.copied == log.byteCount && copy.progress.total == log.byteCount)
        // It goes on meanwhile.
        for _ in 0..<10 { try log.append(3, epoch: 3) }
        #expect(copy.missing(of: try #require(log.copyPlan())) > 0)
        let end = log.logEndOffset
        let leftover = try copy.finish(log, highWatermark: 30)
        #expect(try copies(in: [old, new]).map(\.path) == [new.path])
        #expect(try old.deletedFolders() == [try #require(leftover)])
        try old.removeDeleted(try #require(leftover))
        #expect(old.checkpoint(of: "t-0") == LogCheckpoint())
        let (moved, report) = try new.openLog("t-0", config: smallSegments(400))
        #expect(report.outcome == .trusted)
        #expect(moved.logStartOffset == 5 && moved.logEndOffset == end)
        #expect(try moved.isWhole())
        #expect(moved.endOffset(for: 1).endOffset == 20 && moved.endOffset(for: 2).endOffset == 40)
        #expect(try moved.verify()?.at == nil)
        let checkpoint = new.checkpoint(of: "t-0")
        #expect(checkpoint.recoveryPoint == end && checkpoint.highWatermark == 30)
        #expect(try new.topicID(of: "t-0") == topicID)
        try moved.append(1, epoch: 3)
        try new.closeLog(moved)
        // And back.
        let (again, _) = try new.openLog("t-0", config: smallSegments(400))
        let back = try LogCopy(of: Self.folder, from: new, to: old)
        _ = try back.finish(again, highWatermark: 30)
        let (returned, _) = try old.openLog("t-0", config: smallSegments(400))
        #expect(returned.logEndOffset == end + 1)
        #expect(try returned.isWhole())
        try old.closeLog(returned)
        #expect(try old.close(clean: true) && new.close(clean: true))
    }

    @Test("What a truncation or retention changes while it is copied is not in the copy")
    func changesMeanwhile() throws {
        let temporary = try TemporaryDirectory()
        let old = try open(temporary.path + "/a", on: .local)
        let new = try open(temporary.path + "/b", on: .local)
        let log = try makeLog(in: old)
        let copy = try LogCopy(of: Self.folder, from: old, to: new)
        try copy.copy(try #require(log.copyPlan()))
        try log.truncate(to: 24)
        for _ in 0..<3 { try log.append(2, epoch: 4) }
        try copy.copy(try #require(log.copyPlan()))
        try log.flush()
        let ticket = try #require(try log.prepareStart(17))
        try ticket.perform()
        if let retired = log.completeStart(ticket) {
            try retired.rename()
            try retired.remove()
        }
        _ = try copy.finish(log, highWatermark: 30)
        let (moved, _) = try new.openLog("t-0", config: smallSegments(400))
        #expect(moved.logStartOffset == 17 && moved.logEndOffset == 30)
        #expect(try moved.isWhole())
        #expect(moved.endOffset(for: 2).endOffset == 24)
    }

    @Test(
        "A copy of which a file is gone, or is not what was written, does not take the log's place")
    func whatIsThereIsLookedAt() throws {
        for breaks in ["all", "one"] {
            let disk = SimulatedDisk(seed: 7)
            let (old, new) = (try open("/a", on: disk), try open("/b", on: disk))
            let log = try makeLog(in: old)
            let copy = try LogCopy(of: Self.folder, from: old, to: new)
            try copy.copy(try #require(log.copyPlan()))
            let future = try #require(try new.futureFolders().first)
            if breaks == "all" {
                try new.removeFuture(future)
                try disk.makeDirectory("/b/\(future)")
            } else {
                let names = try disk.contents(of: "/b/\(future)")
                let name = try #require(names.filter { $0.hasSuffix(".log") }.min())
                try disk.open("/b/\(future)/\(name)", .readWrite).truncate(to: 1)
            }
            #expect(throws: LogError.self) { _ = try copy.finish(log, highWatermark: 30) }
            copy.abandon()
            #expect(try copies(in: [old, new]).map(\.path) == ["/a"])
            let (again, _) = try old.openLog("t-0", config: smallSegments(400))
            #expect(again.logEndOffset == 40)
            #expect(try again.isWhole())
        }
    }

    @Test("Damaged records are not moved")
    func checksums() throws {
        let temporary = try TemporaryDirectory()
        let old = try open(temporary.path + "/a", on: .local)
        let new = try open(temporary.path + "/b", on: .local)
        let log = try makeLog(in: old)
        let names = try LocalFileSystem().contents(of: temporary.path + "/a/t-0").sorted()
        let name = names.filter { $0.hasSuffix(".log") }[1]
        let file = try LocalFileSystem().open(temporary.path + "/a/t-0/" + name, .readWrite)
        let flipped: [UInt8] = [0xaa]
        try flipped.withUnsafeBytes { bytes in try file.write(bytes, at: 70) }
        let copy = try LogCopy(of: Self.folder, from: old, to: new)
        #expect(throws: LogError.self) { try copy.copy(try #require(log.copyPlan())) }
        copy.abandon()
        #expect(try new.futureFolders() == [])
    }

    @Test(
        "If neither of two copies can be told to count less, the old one's directory is out of use")
    func orderThatCannotBeNoted() throws {
        let disk = SimulatedDisk(seed: 3)
        let (old, new) = (try open("/a", on: disk), try open("/b", on: disk))
        let log = try makeLog(in: old)
        let copy = try LogCopy(of: Self.folder, from: old, to: new)
        try copy.copy(try #require(log.copyPlan()))
        // The copy has its name, and that is not synced; nor can anything be noted beside the old log.
        let isRenamed = Mutex(false)
        disk.fail(
            DiskFault(
                code: EIO, count: .max,
                concerns: { operation, path in
                    if operation == "rename", path.hasSuffix(".future") {
                        isRenamed.withLock { $0 = true }
                        return false
                    }
                    guard isRenamed.withLock({ $0 }) else { return false }
                    return path.hasPrefix("/a/t-0/")
                        || (operation == "sync directory" && path == "/b")
                }))
        #expect(throws: LogError.self) { _ = try copy.finish(log, highWatermark: 30) }
        #expect(disk.faultCount >= 2)
        #expect(old.health.failure != nil)
        #expect(new.health.failure != nil)
        disk.fail(nil)
    }

    @Test(
        "P1, S7: after a power failure at any step one copy counts, and has all that was durable",
        arguments: 1...4 as ClosedRange<UInt64>)
    func powerFailures(seed: UInt64) throws {
        var step = 0
        var isDone = false
        while !isDone {
            let disk = SimulatedDisk(seed: seed &* 1_000 &+ UInt64(step))
            var (old, new) = (try open("/a", on: disk), try open("/b", on: disk))
            let log = try makeLog(in: old)
            var durableEnd = log.durableOffset
            try old.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: durableEnd))])
            disk.failPower(after: step)
            do {
                let copy = try LogCopy(of: Self.folder, from: old, to: new)
                try copy.copy(try #require(log.copyPlan()))
                try log.append(2, epoch: 3)
                try log.flush()
                durableEnd = log.durableOffset
                let leftover = try copy.finish(log, highWatermark: durableEnd)
                let (moved, _) = try new.openLog("t-0", config: smallSegments(400))
                try moved.append(2, epoch: 3)
                try moved.flush()
                durableEnd = moved.durableOffset
                if let leftover { try old.removeDeleted(leftover) }
                isDone = !disk.isDown
            } catch {
                #expect(disk.isDown, "seed \(seed), step \(step): \(error)")
            }
            disk.restart()
            (old, new) = (try open("/a", on: disk), try open("/b", on: disk))
            let found = try copies(in: [old, new])
            let order = try found.map { try $0.copyOrder(of: "t-0") }
            #expect(!found.isEmpty, "seed \(seed), step \(step)")
            #expect(found.count < 2 || order[0] != order[1], "seed \(seed), step \(step)")
            let orders = try order.map { try #require($0) }
            let best = try #require(orders.indices.max { orders[$0] < orders[$1] })
            let winner = found[best]
            let (survivor, report) = try winner.openLog("t-0", config: smallSegments(400))
            #expect(!report.isDamaged, "seed \(seed), step \(step): \(report.outcome)")
            #expect(survivor.logEndOffset >= durableEnd, "seed \(seed), step \(step)")
            #expect(survivor.logStartOffset == 5, "seed \(seed), step \(step)")
            #expect(try survivor.isWhole(), "seed \(seed), step \(step)")
            step += 1
        }
        #expect(step > 20)
    }
}
