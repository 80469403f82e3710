import Essentials
import Glibc
import NIOCore
import Records
import Storage
import Testing

/// What a log must hold, by a simple account of the same calls.
struct LogModel {
    struct Entry: Equatable {
        var value: String
        var epoch: LeaderEpoch
    }

    /// What was last appended at each offset, and not truncated for sure.
    var entries: [Offset: Entry] = [:]
    /// What has been there before, and may come back where it was not durable.
    var attempts: [Offset: [Entry]] = [:]
    /// The log must reach at least this far.
    var durable: Offset = 0
    /// What was noted of it, so that it has to be there or to be reported, whatever else fails.
    var noted: Offset = 0
    /// Nothing below may be readable any more.
    var start: Offset = 0
    /// Everything from here on that is there has to be readable.
    var latestStart: Offset = 0
    var epoch: LeaderEpoch = 0
    var counter = 0
}

/// One log, driven at random through power failures.
struct LogRun {
    let seed: UInt64
    let disk: SimulatedDisk
    var generator: SeededGenerator
    var model = LogModel()
    var directory: LogDirectory
    var log: Log
    var config: LogConfig
    /// Where the log is about to start anew when the power fails.
    var newStart: Offset?
    /// Whether an orderly restart is under way.
    var isRestarting = false

    init(seed: UInt64) throws {
        self.seed = seed
        disk = SimulatedDisk(seed: seed ^ 0xd15c)
        generator = SeededGenerator(seed: seed)
        config = LogConfig()
        config.segmentBytes = 700
        config.indexIntervalBytes = 150
        config.tailBytes = Bool.random(using: &generator) ? 0 : 2_000
        directory = try LogDirectory.open("/data", fileSystem: disk)
        log = try directory.openLog("t-0", config: config).0
    }

    mutating func append() throws {
        if Int.random(in: 0..<8, using: &generator) == 0 { model.epoch = model.epoch.next }
        var batches = ByteBuffer()
        let end = log.logEndOffset
        var offset = end
        for _ in 0..<Int.random(in: 1...4, using: &generator) {
            var builder = RecordBatchBuilder()
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                model.counter += 1
                let value = "value \(model.counter)"
                builder.append(
                    key: nil, value: ByteBuffer(string: value), timestamp: Int64(model.counter))
                // Also if the append fails, since some of it may be there after a crash.
                if let other = model.entries[offset] {
                    model.attempts[offset, default: []].append(other)
                }
                model.entries[offset] = LogModel.Entry(value: value, epoch: model.epoch)
                offset += 1
            }
            batches.writeImmutableBuffer(builder.finish())
        }
        let headers = try RecordBatches.validateForAppend(batches, maxBatchBytes: 10_000)
        let range = try log.appendAsLeader(batches, headers: headers, leaderEpoch: model.epoch)
        #expect(range == end..<offset)
    }

    mutating func flush() throws {
        let ticket = log.prepareFlush()
        if Bool.random(using: &generator) { try append() }
        if Bool.random(using: &generator) {
            try ticket.perform()
        } else {
            let volume = try #require(try disk.volume(of: "/data"))
            try FlushTicket.perform([ticket], on: volume)
        }
        model.durable = log.completeFlush(ticket)
        model.attempts = model.attempts.filter { $0.key >= model.durable }
    }

    mutating func checkpoint() throws {
        let low = log.logStartOffset.rawValue
        let highWatermark = Int64.random(in: low...log.logEndOffset.rawValue, using: &generator)
        if let checkpoint = log.checkpoint(highWatermark: Offset(highWatermark)) {
            try directory.checkpoint(["t-0": checkpoint])
            model.noted = max(checkpoint.recoveryPoint, checkpoint.highWatermark)
        }
    }

    mutating func truncate() throws {
        let low = log.logStartOffset.rawValue
        let target = Int64.random(in: low...log.logEndOffset.rawValue, using: &generator)
        // A batch has at most three records, all of which may go.
        model.durable = min(model.durable, Offset(max(low, target - 3)))
        model.noted = min(model.noted, model.durable)
        model.epoch = model.epoch.next
        let isCut = Offset(target) < log.logEndOffset
        try log.truncate(to: Offset(target))
        #expect(log.logEndOffset <= Offset(target) && log.logEndOffset > Offset(target - 3))
        model.entries = model.entries.filter { $0.key < log.logEndOffset }
        model.attempts = model.attempts.filter { $0.key < log.logEndOffset }
        // Otherwise a new start that is on its way still holds.
        if isCut { model.latestStart = log.logStartOffset }
    }

    mutating func advanceStart() throws {
        let low = log.logStartOffset.rawValue
        guard log.durableOffset.rawValue >= low else { return }
        let target = Int64.random(in: low...log.durableOffset.rawValue, using: &generator)
        model.latestStart = max(model.latestStart, Offset(target))
        try log.advanceLogStart(to: Offset(target))
        model.start = Offset(target)
    }

    /// Retention, and all that may happen between its steps.
    mutating func retain() throws {
        let low = log.logStartOffset.rawValue
        guard log.durableOffset.rawValue >= low else { return }
        let limit = Int64.random(in: low...log.durableOffset.rawValue, using: &generator)
        var survey = log.survey(below: Offset(limit))
        try intervene()
        let policy = RetentionPolicy(
            maxAge: Bool.random(using: &generator) ? .milliseconds(10) : nil,
            minBytes: Bool.random(using: &generator)
                ? Int64.random(in: 0...2_000, using: &generator) : nil)
        guard let start = try survey.start(by: policy, now: Int64(model.counter)),
            let start = try log.settle(survey, start: start), start <= log.durableOffset
        else { return }
        #expect(start <= Offset(limit), "seed \(seed)")
        try intervene()
        guard start <= log.durableOffset, let ticket = try log.prepareStart(start) else { return }
        model.latestStart = max(model.latestStart, start)
        try intervene()
        try ticket.perform()
        try intervene()
        let retired = log.completeStart(ticket)
        if log.logStartOffset == start { model.start = start }
        try intervene()
        try retired?.rename()
        try intervene()
        try retired?.remove()
    }

    private mutating func intervene() throws {
        switch Int.random(in: 0..<12, using: &generator) {
        case 0..<3: try append()
        case 3: try flush()
        case 4: try checkpoint()
        case 5: try truncate()
        case 6: try startAnew()
        default: break
        }
    }

    mutating func startAnew() throws {
        let target = Offset(Int64.random(in: 0..<1_000, using: &generator))
        model.epoch = model.epoch.next
        model.noted = 0
        newStart = target
        try log.truncateFully(andStartAt: target)
        newStart = nil
        model.entries = [:]
        model.attempts = [:]
        model.start = target
        model.latestStart = target
        model.durable = target
    }

    mutating func step() throws {
        switch Int.random(in: 0..<41, using: &generator) {
        case 0..<20: try append()
        case 20..<28: try flush()
        case 28..<32: try checkpoint()
        case 32..<36: try truncate()
        case 36: try advanceStart()
        case 37, 38: try retain()
        case 39: try startAnew()
        default: try restartInOrder()
        }
    }

    mutating func restartInOrder() throws {
        isRestarting = true
        try directory.closeLog(log)
        let isMarked = try directory.close(clean: true)
        #expect(isMarked)
        model.durable = log.logEndOffset
        directory = try LogDirectory.open("/data", fileSystem: disk)
        let (log, report) = try directory.openLog("t-0", config: config)
        #expect(report.outcome == .trusted, "seed \(seed)")
        self.log = log
        isRestarting = false
        try check(log, exactly: model.durable)
    }

    mutating func recover() throws {
        disk.restart()
        // The power may fail again at any time.
        while true {
            if Int.random(in: 0..<3, using: &generator) == 0 {
                disk.failPower(after: Int.random(in: 0..<20, using: &generator))
            }
            do {
                try open()
                disk.failPower(after: nil)
                // It may have failed in something that does not matter.
                guard disk.isDown else { break }
            } catch {
                try #require(disk.isDown, "seed \(seed): \(error)")
            }
            disk.restart()
        }
        try checkRecovered()
    }

    mutating func open() throws {
        directory = try LogDirectory.open("/data", fileSystem: disk)
        let (log, report) = try directory.openLog("t-0", config: config)
        #expect(!report.isDamaged, "seed \(seed): \(report)")
        self.log = log
    }

    /// What is there is all that must be, and goes on from here.
    mutating func checkRecovered() throws {
        isRestarting = false
        // Old or new.
        if let newStart, log.logStartOffset == newStart, log.logEndOffset == newStart {
            model.start = newStart
            model.latestStart = newStart
            model.durable = newStart
        }
        newStart = nil
        try check(log, exactly: nil)
        model.entries = model.entries.filter { $0.key < log.logEndOffset }
        model.attempts = [:]
        model.durable = log.logEndOffset
        model.start = log.logStartOffset
        model.latestStart = log.logStartOffset
        model.epoch = model.epoch.next
        let names = try disk.contents(of: "/data/t-0")
        #expect(!names.contains { $0.hasSuffix(".deleted") }, "seed \(seed): \(names)")
    }

    /// Everything that must be there is there, and nothing else.
    func check(_ log: Log, exactly end: Offset?) throws {
        #expect(log.logEndOffset >= model.durable, "seed \(seed)")
        #expect(log.logStartOffset >= model.start, "seed \(seed)")
        #expect(log.logStartOffset <= model.latestStart, "seed \(seed)")
        if let end { #expect(log.logEndOffset == end, "seed \(seed)") }
        var offset = log.logStartOffset
        while offset < log.logEndOffset {
            let bytes = try log.read(from: offset, below: .max, maxBytes: 400)
            var reader = RecordReader(bytes)
            while let record = try reader.next() {
                let entry = LogModel.Entry(
                    value: record.value.map { String(buffer: $0) } ?? "",
                    epoch: reader.batch?.leaderEpoch ?? .none)
                #expect(
                    model.entries[record.offset] == entry
                        || model.attempts[record.offset]?.contains(entry) ?? false,
                    "seed \(seed), offset \(record.offset)")
                if record.offset >= log.logStartOffset {
                    #expect(log.epoch(at: record.offset) == entry.epoch, "seed \(seed)")
                }
            }
            offset = try #require(reader.nextOffset)
        }
        #expect(try log.verify() == nil)
    }
}

extension LogRun {
    mutating func go(steps: Int) throws {
        for _ in 0..<steps {
            if Int.random(in: 0..<10, using: &generator) == 0 {
                disk.failPower(after: Int.random(in: 0..<12, using: &generator))
            }
            do {
                try step()
            } catch {
                try #require(disk.isDown, "seed \(seed): \(error)")
            }
            if disk.isDown { try recover() }
        }
        // Looking at it may write an index.
        disk.failPower(after: nil)
        try check(log, exactly: log.logEndOffset)
    }
}

/// As many as `SEEDS` in the environment says, for a longer look, or the one that `SEED` says.
let logSeeds: Range<UInt64> = {
    func number(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }
    if let one = number("SEED") { return one..<(one + 1) }
    return 0..<(number("SEEDS") ?? 60)
}()

/// D1, D2, D3, D10, D11, S3, S4, S5, S7, S11.
@Test(arguments: logSeeds) func powerMayFailAtAnyCall(seed: UInt64) throws {
    var run = try LogRun(seed: seed)
    try run.go(steps: 120)
}

/// Whatever a seed has found can be looked at again.
@Test(arguments: 0..<8 as Range<UInt64>) func aRunFollowsFromItsSeedAlone(seed: UInt64) throws {
    let histories = try (0..<3).map { _ in
        var run = try LogRun(seed: seed)
        try run.go(steps: 120)
        return run.disk.history
    }
    #expect(Set(histories).count == 1, "seed \(seed): \(histories)")
}
