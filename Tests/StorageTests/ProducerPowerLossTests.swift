import Essentials
import NIOCore
import Records
import Storage
import Testing

/// Producers that repeat, overtake and interrupt themselves, on a log that loses power at any time.
///
/// What the log says is read back from its batches each time, and everything is measured by that: no
/// batch is in it twice, none is missing before another, and what is known of producers, at any time and
/// after every start, is what the batches say.
private struct ProducerRun {
    /// One batch in the log.
    struct Entry {
        var header: RecordBatchHeader
        var marker: TransactionMarker?
    }

    let seed: UInt64
    let disk: SimulatedDisk
    var generator: SeededGenerator
    var directory: LogDirectory
    var log: Log
    var config = LogConfig()
    var leaderEpoch: LeaderEpoch = 0
    /// What may be lost is above.
    var durable: Offset = 0

    init(seed: UInt64) throws {
        self.seed = seed
        disk = SimulatedDisk(seed: seed ^ 0xd15c)
        generator = SeededGenerator(seed: seed)
        config.segmentBytes = 900
        config.indexIntervalBytes = 150
        config.tailBytes = 0
        directory = try LogDirectory.open("/data", fileSystem: disk)
        log = try directory.openLog("t-0", config: config).0
    }

    func entries() throws -> [Entry] {
        var entries: [Entry] = []
        var offset = log.logStartOffset
        while offset < log.logEndOffset {
            let bytes = try log.read(from: offset, below: .max, maxBytes: 1)
            let header = try RecordBatchHeader(bytes, at: bytes.readerIndex)
            entries.append(
                Entry(
                    header: header,
                    marker: header.isControl ? TransactionMarker(ofBatch: bytes) : nil))
            offset = header.nextOffset
        }
        return entries
    }

    private mutating func random(_ range: ClosedRange<Int>) -> Int {
        .random(in: range, using: &generator)
    }

    /// Sends one batch or several, of which some may have been sent before.
    mutating func send() throws {
        let id = Int64(random(1...4))
        let isTransactional = id > 2
        var epoch: Int16 = 0
        var next: Int32 = 0
        var sent: [RecordBatchHeader] = []
        for entry in try entries() where entry.header.producerID == id {
            if entry.header.producerEpoch != epoch {
                (epoch, next, sent) = (entry.header.producerEpoch, 0, [])
            }
            if entry.header.isControl { continue }
            sent.append(entry.header)
            next = entry.header.baseSequence + entry.header.recordCount
        }
        let end = log.logEndOffset
        switch random(0...9) {
        case 0:
            // Something was left out, or an older epoch comes late.
            #expect(throws: LogError.self, "seed \(seed)") {
                try log.send(
                    producerBatch(id, epoch, sequence: next + 2, transactional: isTransactional))
            }
            if epoch > 0 {
                #expect(throws: LogError.self, "seed \(seed)") {
                    try log.send(producerBatch(id, epoch - 1, sequence: 0))
                }
            }
            #expect(log.logEndOffset == end)
        case 1...4 where !sent.isEmpty:
            let old = sent[max(0, sent.count - random(1...5))]
            let offset = try log.send(
                producerBatch(
                    id, epoch, sequence: old.baseSequence, count: Int(old.recordCount),
                    transactional: isTransactional), epoch: leaderEpoch)
            #expect(offset == old.baseOffset, "seed \(seed)")
            #expect(log.logEndOffset == end)
        case 5 where !isTransactional:
            try log.send(
                producerBatch(id, epoch + 1, sequence: 0, count: random(1...3)), epoch: leaderEpoch)
        case 6 where isTransactional:
            try log.send(
                Bool.random(using: &generator) ? .abort : .commit, id, epoch + 1, epoch: leaderEpoch
            )
        default:
            var batches = ByteBuffer()
            // The last one again, in front of what is new.
            if let last = sent.last, random(0...3) == 0 {
                batches.writeImmutableBuffer(
                    producerBatch(
                        id, epoch, sequence: last.baseSequence, count: Int(last.recordCount),
                        transactional: isTransactional))
            }
            for _ in 0..<random(1...3) {
                let count = random(1...3)
                batches.writeImmutableBuffer(
                    producerBatch(
                        id, epoch, sequence: next, count: count, transactional: isTransactional))
                next += Int32(count)
            }
            try log.send(batches, epoch: leaderEpoch)
        }
    }

    mutating func step() throws {
        switch random(0...19) {
        case 0: try log.append(random(1...3), epoch: leaderEpoch)
        case 1...3:
            try log.flush()
            durable = log.logEndOffset
        case 4:
            let range = log.logStartOffset.rawValue...log.logEndOffset.rawValue
            let highWatermark = Offset(.random(in: range, using: &generator))
            if let checkpoint = log.checkpoint(highWatermark: highWatermark) {
                try directory.checkpoint(["t-0": checkpoint])
            }
        case 5:
            let end = max(0, log.logEndOffset.rawValue - Int64(random(0...40)))
            durable = min(durable, Offset(max(0, end - 3)))
            try log.truncate(to: Offset(end))
            leaderEpoch = leaderEpoch.next
        case 6: try log.roll()
        case 7: try restartInOrder()
        default: try send()
        }
    }

    mutating func restartInOrder() throws {
        try directory.closeLog(log)
        try #require(try directory.close(clean: true) || disk.isDown)
        durable = log.logEndOffset
        try loseFiles()
        directory = try LogDirectory.open("/data", fileSystem: disk)
        let (log, report) = try directory.openLog("t-0", config: config)
        #expect(report.outcome == .trusted, "seed \(seed)")
        self.log = log
        try check()
    }

    /// Some of what may be missing is (E3).
    private mutating func loseFiles() throws {
        guard random(0...2) == 0 else { return }
        for name in try disk.contents(of: "/data/t-0")
        where name.hasSuffix(".snapshot") || name.hasSuffix(".txnindex") {
            if random(0...2) == 0 { try disk.remove("/data/t-0/\(name)") }
        }
    }

    mutating func recover() throws {
        disk.restart()
        while true {
            do {
                try loseFiles()
                if random(0...2) == 0 { disk.failPower(after: random(0...19)) }
                directory = try LogDirectory.open("/data", fileSystem: disk)
                log = try directory.openLog("t-0", config: config).0
                disk.failPower(after: nil)
                guard disk.isDown else { break }
                disk.restart()
            } catch {
                try #require(disk.isDown, "seed \(seed): \(error)")
                disk.restart()
            }
        }
        #expect(log.logEndOffset >= durable, "seed \(seed)")
        durable = log.logEndOffset
        leaderEpoch = leaderEpoch.next
        try check()
    }

    /// T1, T2, T4, T10.
    func check() throws {
        let entries = try entries()
        var rebuilt = ProducerStates()
        var aborted: [AbortedTransaction] = []
        var next: [Int64: (epoch: Int16, sequence: Int32)] = [:]
        for entry in entries {
            let header = entry.header
            if let transaction = rebuilt.apply(header, marker: entry.marker) {
                aborted.append(transaction)
            }
            guard header.producerID >= 0 else { continue }
            let known = next[header.producerID] ?? (-1, 0)
            let expected = known.epoch == header.producerEpoch ? known.sequence : 0
            #expect(header.producerEpoch >= known.epoch, "seed \(seed)")
            if !header.isControl { #expect(header.baseSequence == expected, "seed \(seed)") }
            next[header.producerID] = (
                header.producerEpoch, header.isControl ? 0 : expected + header.recordCount
            )
        }
        #expect(rebuilt.contradictions == 0, "seed \(seed)")
        var known = log.producerStates
        for highWatermark in [log.logStartOffset, log.logEndOffset] {
            let stable = rebuilt.lastStableOffset(highWatermark: highWatermark)
            #expect(known.lastStableOffset(highWatermark: highWatermark) == stable, "seed \(seed)")
        }
        known.settle(highWatermark: .max)
        rebuilt.settle(highWatermark: .max)
        #expect(known == rebuilt, "seed \(seed)")
        #expect(try log.abortedTransactions(from: 0, below: .max) == aborted, "seed \(seed)")
    }

    mutating func go(steps: Int) throws {
        for _ in 0..<steps {
            if random(0...14) == 0 { disk.failPower(after: random(0...11)) }
            do {
                try step()
                // Looking at it may write an index.
                if !disk.isDown { try check() }
            } catch {
                try #require(disk.isDown, "seed \(seed): \(error)")
            }
            if disk.isDown { try recover() }
        }
    }
}

/// E1, E2, E3, S1, S3, and 14.14.
@Test(arguments: logSeeds) func producersAreKnownAfterAnyPowerFailure(seed: UInt64) throws {
    var run = try ProducerRun(seed: seed)
    try run.go(steps: 120)
}
