import Essentials
import NIOCore
import Records
import Storage
import Testing

/// Producer state beside a log: kept, written, found again.
@Suite struct ProducerLogTests {
    private func open(
        _ directory: String, _ fileSystem: any FileSystem = .local
    ) throws -> (LogDirectory, Log, RecoveryReport) {
        let logs = try LogDirectory.open(directory, fileSystem: fileSystem)
        let (log, report) = try logs.openLog("t-0", config: smallSegments())
        return (logs, log, report)
    }

    private func names(_ directory: TemporaryDirectory, _ suffix: String) throws -> [String] {
        try LocalFileSystem().contents(of: directory.path + "/t-0")
            .filter { $0.hasSuffix(suffix) }.sorted()
    }

    /// A few segments with three producers, one of which has aborted a transaction.
    private func fill(_ log: Log) throws {
        for sequence in 0..<8 as Range<Int32> {
            try log.send(producerBatch(1, sequence: sequence * 2, count: 2))
            try log.append(3, size: 60)
            if sequence == 3 { try log.send(producerBatch(2, sequence: 0, transactional: true)) }
            if sequence == 5 { try log.send(.abort, 2, 1) }
        }
        try log.send(producerBatch(3, 4, sequence: 0, transactional: true))
    }

    private func checkKnown(_ log: Log) throws {
        let (states, aborted) = try log.replayed()
        #expect(log.logEndOffset == 43)
        var known = log.producerStates
        var replayed = states
        known.settle(highWatermark: .max)
        replayed.settle(highWatermark: .max)
        #expect(known == replayed)
        #expect(try log.abortedTransactions(from: 0, below: .max) == aborted)
        #expect(aborted.map(\.firstOffset) == [20])
        // The answers are the same as ever.
        #expect(try log.send(producerBatch(1, sequence: 6, count: 2)) == 15)
        #expect(try log.send(producerBatch(1, sequence: 14, count: 2)) == 37)
        #expect(log.lastStableOffset(highWatermark: .max) == 42)
        #expect(throws: LogError.self) { try log.send(producerBatch(2, sequence: 1)) }
    }

    @Test func aCleanStartReadsOnlyTheSnapshot() throws {
        let directory = try TemporaryDirectory()
        let (logs, log, _) = try open(directory.path)
        try fill(log)
        try checkKnown(log)
        try logs.closeLog(log)
        try logs.close(clean: true)
        #expect(try names(directory, ".snapshot").last == "00000000000000000043.snapshot")
        #expect(try names(directory, ".snapshot").count == 3)
        #expect(try names(directory, ".txnindex").count == 1)
        let (next, again, report) = try open(directory.path)
        #expect(report.outcome == .trusted)
        #expect(report.producersReplayedFrom == nil)
        try checkKnown(again)
        try next.closeLog(again)
        try next.close(clean: true)
    }

    @Test func logsWithoutProducersCostNothing() throws {
        let directory = try TemporaryDirectory()
        let files = FaultyFileSystem()
        let (logs, log, _) = try open(directory.path, files)
        try log.append(3)
        try logs.closeLog(log)
        try logs.close(clean: true)
        #expect(try names(directory, ".snapshot") == [])
        #expect(try names(directory, ".txnindex") == [])
        let (next, again, report) = try open(directory.path, files)
        #expect(report.producersReplayedFrom == nil)
        for _ in 0..<30 { try again.append(size: 100) }
        try next.closeLog(again)
        try next.close(clean: true)
        let calls = files.calls.count
        let (_, last, trusted) = try open(directory.path, files)
        #expect(trusted.outcome == .trusted)
        #expect(trusted.producersReplayedFrom == nil)
        #expect(last.producerStates.isEmpty)
        #expect(!files.calls[calls...].contains { $0.hasSuffix(".snapshot") })
        // Not after a crash either: older segments were free of producers when they were closed.
        let copy = try directory.copy()
        let (_, crashed, report2) = try open(copy.path)
        #expect(report2.producersReplayedFrom == nil)
        #expect(crashed.producerStates.isEmpty)
    }

    @Test func afterACrashOnlyTheLastSegmentIsReplayed() throws {
        let directory = try TemporaryDirectory()
        let (_, log, _) = try open(directory.path)
        try fill(log)
        let crashed = try directory.copy()
        let segment = try #require(try names(directory, ".log").last)
        let (_, again, report) = try open(crashed.path)
        #expect(report.producersReplayedFrom.map { "\($0)" } == "\(Int64(segment.prefix(20)) ?? 0)")
        try checkKnown(again)
    }

    /// E3, D4, S1.
    @Test(arguments: [true, false])
    func snapshotsAndIndexesMayVanishOrLie(isClean: Bool) throws {
        let directory = try TemporaryDirectory()
        let (logs, log, _) = try open(directory.path)
        try fill(log)
        try log.flush()
        if isClean {
            try logs.closeLog(log)
            try logs.close(clean: true)
        }
        let other = try TemporaryDirectory()
        let (otherLogs, otherLog, _) = try open(other.path)
        for sequence in 0..<43 { try otherLog.send(producerBatch(1, 9, sequence: Int32(sequence))) }
        try otherLogs.closeLog(otherLog)
        let foreign = try other.bytes("t-0/00000000000000000043.snapshot")

        let files =
            try names(directory, ".snapshot") + names(directory, ".txnindex")
        #expect(files.count >= 3)
        func damage(_ name: String, _ number: Int, in copy: TemporaryDirectory) throws {
            let bytes = try copy.bytes("t-0/\(name)")
            switch number {
            case 0: try copy.remove("t-0/\(name)")
            case 1: try copy.write([], to: "t-0/\(name)")
            case 2: try copy.write([UInt8](bytes.dropLast()), to: "t-0/\(name)")
            case 3: try copy.write(bytes.map { $0 ^ 0x11 }, to: "t-0/\(name)")
            case 4: try copy.write(bytes + [0], to: "t-0/\(name)")
            case 5: try copy.write(foreign, to: "t-0/\(name)")
            default:
                let first = try names(copy, String(name.suffix(9)))[0]
                try copy.write(try copy.bytes("t-0/\(first)"), to: "t-0/\(name)")
            }
        }
        for number in 0...6 {
            for name in files {
                let copy = try directory.copy()
                try damage(name, number, in: copy)
                try checkKnown(try open(copy.path).1)
            }
            let copy = try directory.copy()
            for name in files { try damage(name, number, in: copy) }
            try checkKnown(try open(copy.path).1)
        }
        // Of an end that the log never had, and of a later one that it may get to.
        let copy = try directory.copy()
        try copy.write(foreign, to: "t-0/00000000000000000043.snapshot")
        try copy.write(foreign, to: "t-0/00000000000000000090.snapshot")
        let (_, again, _) = try open(copy.path)
        try checkKnown(again)
        #expect(try !names(copy, ".snapshot").contains("00000000000000000090.snapshot"))
    }

    /// 14.14.
    @Test func truncationGoesBackAndForgetsLaterSnapshots() throws {
        let directory = try TemporaryDirectory()
        let (_, log, _) = try open(directory.path)
        try fill(log)
        for end in [42, 41, 40, 33, 31, 30, 22, 20, 9, 3, 0] as [Offset] {
            try log.truncate(to: end)
            var known = log.producerStates
            var (replayed, aborted) = try log.replayed()
            known.settle(highWatermark: .max)
            replayed.settle(highWatermark: .max)
            #expect(known == replayed, "\(end)")
            #expect(try log.abortedTransactions(from: 0, below: .max) == aborted, "\(end)")
            for name in try names(directory, ".snapshot") {
                #expect(Offset(Int64(name.prefix(20)) ?? 0) <= log.logEndOffset)
            }
        }
        #expect(try names(directory, ".txnindex") == [])
        try fill(log)
        try checkKnown(log)
        try log.truncateFully(andStartAt: 100)
        #expect(log.producerStates.isEmpty)
        #expect(try names(directory, ".snapshot") == [])
        #expect(try names(directory, ".txnindex") == [])
        #expect(try log.send(producerBatch(1, sequence: 0)) == 100)
    }

    @Test func openTransactionsOutliveTheirRecords() throws {
        let directory = try TemporaryDirectory()
        let (logs, log, _) = try open(directory.path)
        try fill(log)
        try log.flush()
        try log.advanceLogStart(to: 43)
        #expect(log.lastStableOffset(highWatermark: 43) == 42)
        try logs.closeLog(log)
        try logs.close(clean: true)
        let (_, again, report) = try open(directory.path)
        #expect(report.producersReplayedFrom == nil)
        #expect(again.lastStableOffset(highWatermark: 43) == 42)
        #expect(try again.send(producerBatch(1, sequence: 14, count: 2)) == 37)
        #expect(try names(directory, ".txnindex") == [])
    }

    @Test func abortedTransactionsAreFoundInWhateverIsRead() throws {
        let directory = try TemporaryDirectory()
        let (logs, log, _) = try open(directory.path)
        var random = SeededGenerator(seed: 3)
        var sequences: [Int64: (epoch: Int16, sequence: Int32)] = [:]
        for _ in 0..<400 {
            let id = Int64.random(in: 1...5, using: &random)
            let (epoch, sequence) = sequences[id] ?? (0, 0)
            if sequence > 0, Int.random(in: 0..<4, using: &random) == 0 {
                try log.send(Bool.random(using: &random) ? .abort : .commit, id, epoch + 1)
                sequences[id] = (epoch + 1, 0)
            } else {
                try log.send(producerBatch(id, epoch, sequence: sequence, transactional: true))
                sequences[id] = (epoch, sequence + 1)
            }
        }
        let (_, all) = try log.replayed()
        #expect(all.count > 30)
        func check(_ log: Log, _ what: String) throws {
            for _ in 0..<200 {
                let start = Offset(Int64.random(in: 0..<400, using: &random))
                let end = Offset(Int64.random(in: 0...400, using: &random))
                let found = try log.abortedTransactions(from: start, below: end)
                let wanted = all.filter {
                    start < end && $0.lastOffset >= start && $0.firstOffset < end
                }
                #expect(found == wanted, "\(what), \(start) to \(end)")
            }
        }
        try check(log, "kept")
        #expect(try names(directory, ".txnindex").count > 10)
        let copy = try directory.copy()
        try check(try open(copy.path).1, "after a crash")
        try logs.closeLog(log)
        try logs.close(clean: true)
        try check(try open(directory.path).1, "after a clean stop")
    }

    /// Damage in these files costs time, and nothing else.
    @Test func badTransactionIndexesAreMadeAgainFromTheBatches() throws {
        let directory = try TemporaryDirectory()
        let (_, log, _) = try open(directory.path)
        for round in 0..<100 as Range<Int16> {
            for sequence in 0..<3 as Range<Int32> {
                try log.send(producerBatch(7, round, sequence: sequence, transactional: true))
            }
            try log.send(round % 3 == 0 ? .commit : .abort, 7, round + 1)
        }
        let (_, all) = try log.replayed()
        func spoil(_ directory: TemporaryDirectory) throws {
            let found = try names(directory, ".txnindex")
            #expect(found.count > 5)
            for name in found { try directory.write([1, 2, 3], to: "t-0/\(name)") }
        }
        let copy = try directory.copy()
        let (logs, again, _) = try open(copy.path)
        try spoil(copy)
        #expect(try again.abortedTransactions(from: 0, below: 400) == all)
        try spoil(copy)
        try again.truncate(to: 202)
        #expect(logs.health.failure == nil)
        #expect(
            try again.abortedTransactions(from: 0, below: 400) == all.filter { $0.lastOffset < 202 }
        )
        try again.send(producerBatch(7, 50, sequence: 2, transactional: true))
        let other = try directory.copy()
        try spoil(other)
        let (_, whole, _) = try open(other.path)
        #expect(try whole.abortedTransactions(from: 0, below: 400) == all)
    }

    /// A disk without room for these files costs time at the next start, and nothing else.
    @Test func appendsGoOnWithoutRoomForSnapshots() throws {
        let directory = try TemporaryDirectory()
        let files = FaultyFileSystem()
        let (logs, log, _) = try open(directory.path, files)
        files.fail { call in
            call.path.hasSuffix(".snapshot") || call.path.hasSuffix(".txnindex") ? 28 : nil
        }
        try fill(log)
        try checkKnown(log)
        try logs.closeLog(log)
        try logs.close(clean: true)
        files.fail(nil)
        #expect(try names(directory, ".snapshot") == [])
        let (_, again, report) = try open(directory.path, files)
        #expect(report.outcome == .trusted)
        #expect(report.producersReplayedFrom == 0)
        try checkKnown(again)
    }
}
