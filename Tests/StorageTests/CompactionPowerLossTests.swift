import Essentials
import NIOCore
import Records
import Storage
import Testing

/// One compacted log, driven at random through power failures.
private struct Run {
    let seed: UInt64
    let disk: SimulatedDisk
    var generator: SeededGenerator
    var directory: LogDirectory
    var log: Log
    var config: LogConfig

    // What the log must hold, by a simple account of the same calls.
    struct Entry {
        var record: Keyed
        var epoch: LeaderEpoch
    }

    /// All that was appended, and not truncated for sure.
    var entries: [Offset: Entry] = [:]
    /// What was to be there before, and may come back where it was not durable.
    var attempts: [Offset: [Entry]] = [:]
    /// What was removed for sure.
    var gone: Set<Offset> = []
    var durable: Offset = 0
    var committed: Offset = 0
    var start: Offset = 0
    var latestStart: Offset = 0
    /// Nothing from here on was ever compacted.
    var compactedEnd: Offset = 0
    var epoch: LeaderEpoch = 0
    var counter = 0
    /// Where the log is about to start anew when the power fails.
    var newStart: Offset?
    /// Whether an orderly restart is under way.
    var isRestarting = false

    init(seed: UInt64) throws {
        self.seed = seed
        disk = SimulatedDisk(seed: seed ^ 0xd15c)
        generator = SeededGenerator(seed: seed)
        config = LogConfig()
        config.segmentBytes = 900
        config.indexIntervalBytes = 150
        config.tailBytes = 0
        directory = try LogDirectory.open("/data", fileSystem: disk)
        log = try directory.openLog("t-0", config: config).0
    }

    mutating func append() throws {
        if Int.random(in: 0..<8, using: &generator) == 0 { epoch = epoch.next }
        var batches = ByteBuffer()
        var offset = log.logEndOffset
        for _ in 0..<Int.random(in: 1...3, using: &generator) {
            var records: [Keyed] = []
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                counter += 1
                let isTombstone = Int.random(in: 0..<5, using: &generator) == 0
                let record = Keyed(
                    key: "\(Int.random(in: 0..<12, using: &generator))",
                    value: isTombstone ? nil : "value \(counter)", timestamp: Int64(counter))
                records.append(record)
                // Also if the append fails, since some of it may be there after a crash.
                if let other = entries[offset] { attempts[offset, default: []].append(other) }
                entries[offset] = Entry(record: record, epoch: epoch)
                gone.remove(offset)
                offset += 1
            }
            let producer = Int64.random(in: -2..<3, using: &generator)
            batches.writeImmutableBuffer(
                keyedBatch(
                    records, producer: producer < 0 ? nil : (producer, Int32(counter))))
        }
        try log.append(batch: batches, epoch: epoch)
    }

    mutating func flush() throws {
        let ticket = log.prepareFlush()
        if Bool.random(using: &generator) { try append() }
        try ticket.perform()
        durable = log.completeFlush(ticket)
        if durable > committed {
            let range = committed.rawValue...durable.rawValue
            committed = Offset(Int64.random(in: range, using: &generator))
        }
    }

    mutating func checkpoint() throws {
        if let checkpoint = log.checkpoint(highWatermark: committed) {
            try directory.checkpoint(["t-0": checkpoint])
        }
    }

    /// Never below what is committed, and so never below what was compacted.
    mutating func truncate() throws {
        guard log.logEndOffset > committed + 3 else { return }
        let target = Offset(
            Int64.random(
                in: (committed.rawValue + 3)...log.logEndOffset.rawValue, using: &generator))
        durable = min(durable, target + -3)
        epoch = epoch.next
        let isCut = target < log.logEndOffset
        try log.truncate(to: target)
        entries = entries.filter { $0.key < log.logEndOffset }
        if isCut { latestStart = log.logStartOffset }
    }

    mutating func advanceStart() throws {
        let low = log.logStartOffset.rawValue
        guard committed.rawValue > low, Int.random(in: 0..<3, using: &generator) == 0 else {
            return
        }
        let target = Offset(Int64.random(in: low...committed.rawValue, using: &generator))
        guard let ticket = try log.prepareStart(target) else { return }
        latestStart = max(latestStart, target)
        try ticket.perform()
        let retired = log.completeStart(ticket)
        start = max(start, log.logStartOffset)
        try retired?.rename()
        try retired?.remove()
    }

    mutating func startAnew() throws {
        let target = Offset(Int64.random(in: 0..<300, using: &generator))
        epoch = epoch.next
        newStart = target
        try log.truncateFully(andStartAt: target)
        startedAnew(at: target)
    }

    private mutating func startedAnew(at target: Offset) {
        newStart = nil
        (entries, attempts, gone) = ([:], [:], [])
        (start, latestStart, durable, committed, compactedEnd) =
            (target, target, target, target, target)
    }

    private mutating func intervene() throws {
        switch Int.random(in: 0..<24, using: &generator) {
        case 0..<3: try append()
        case 3: try flush()
        case 4: try checkpoint()
        case 5: try truncate()
        case 6: try advanceStart()
        case 7: if Int.random(in: 0..<4, using: &generator) == 0 { try startAnew() }
        default: break
        }
    }

    mutating func compact() throws {
        if Bool.random(using: &generator) { try log.roll() }
        let low = log.logStartOffset.rawValue
        guard committed.rawValue >= low else { return }
        let limit = Offset(Int64.random(in: low...committed.rawValue, using: &generator))
        var policy = CompactionPolicy()
        policy.deleteRetention = .milliseconds(40)
        var options = CompactionOptions(now: Int64(counter))
        options.memory = [0, 100, 10_000].randomElement(using: &generator) ?? 0
        options.producerRetention = .milliseconds(100)
        let survey = log.compactionSurvey(below: limit)
        do {
            var compaction = try LogCompaction(survey, policy: policy, options: options)
            try intervene()
            guard try compaction.prepare() else { return }
            #expect(compaction.endOffset <= limit, "seed \(seed)")
            try intervene()
            compactedEnd = max(compactedEnd, limit)
            while let segment = try compaction.next() {
                try intervene()
                let retired = try log.install(segment)
                try intervene()
                try segment.settle()
                if retired != nil, !log.isOutdated(survey) {
                    let present = try log.keyed()
                    for offset in entries.keys
                    where offset < limit && offset >= log.logStartOffset
                        && present[offset] == nil
                    {
                        gone.insert(offset)
                    }
                }
                try intervene()
                try retired?.remove()
                guard retired != nil else { return }
            }
            try intervene()
            if try compaction.finish() {
                try intervene()
                log.compacted(to: compaction.endOffset, survey)
            }
        } catch let error as LogError {
            if disk.isDown { throw error }
            // The log has changed under it, unless a call has failed.
            #expect(log.isOutdated(survey) || disk.faultCount > 0, "seed \(seed): \(error)")
        }
    }

    mutating func step() throws {
        switch Int.random(in: 0..<44, using: &generator) {
        case 0..<18: try append()
        case 18..<26: try flush()
        case 26..<29: try checkpoint()
        case 29..<31: try truncate()
        case 31: try advanceStart()
        case 32..<42: try compact()
        case 42: if Int.random(in: 0..<3, using: &generator) == 0 { try startAnew() }
        default: try restartInOrder()
        }
    }

    mutating func restartInOrder() throws {
        isRestarting = true
        try directory.closeLog(log)
        let isMarked = try directory.close(clean: true)
        #expect(isMarked)
        durable = log.logEndOffset
        directory = try LogDirectory.open("/data", fileSystem: disk)
        let (log, report) = try directory.openLog("t-0", config: config)
        #expect(report.outcome == .trusted, "seed \(seed): \(report)")
        self.log = log
        isRestarting = false
        try check()
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
                disk.restart()
            } catch {
                try #require(disk.isDown, "seed \(seed): \(error)")
                disk.restart()
            }
        }
        try checkRecovered()
    }

    private mutating func open() throws {
        directory = try LogDirectory.open("/data", fileSystem: disk)
        let (log, report) = try directory.openLog("t-0", config: config)
        #expect(!report.isDamaged, "seed \(seed): \(report)")
        self.log = log
    }

    /// What is there is all that must be, and goes on from here.
    private mutating func checkRecovered() throws {
        isRestarting = false
        // Old, with all that was committed and may be compacted, or new.
        if let newStart, log.logStartOffset == newStart, log.logEndOffset == newStart {
            startedAnew(at: newStart)
        }
        newStart = nil
        for (offset, record) in try log.keyed() where entries[offset]?.record != record {
            let other = attempts[offset]?.last { $0.record == record }
            if offset >= durable, let other { entries[offset] = other }
        }
        attempts = [:]
        try check()
        entries = entries.filter { $0.key < log.logEndOffset }
        durable = log.logEndOffset
        start = log.logStartOffset
        committed = max(committed, start)
        latestStart = log.logStartOffset
        epoch = epoch.next
        let names = try disk.contents(of: "/data/t-0")
        for suffix in [".deleted", ".cleaned", ".swap"] {
            #expect(!names.contains { $0.hasSuffix(suffix) }, "seed \(seed): \(names)")
        }
    }

    /// For each key its last value, where it was, and nothing that was not there.
    func check() throws {
        #expect(log.logEndOffset >= durable, "seed \(seed)")
        #expect(log.logStartOffset >= start, "seed \(seed)")
        #expect(log.logStartOffset <= latestStart, "seed \(seed)")
        #expect(try log.verify() == nil, "seed \(seed)")
        var present = try log.keyed()
        let range = log.logStartOffset..<max(log.logStartOffset, log.logEndOffset)
        // A batch across the log start may come whole.
        present = present.filter { range.contains($0.key) }
        for (offset, record) in present {
            #expect(entries[offset]?.record == record, "seed \(seed), offset \(offset)")
            #expect(!gone.contains(offset), "seed \(seed), offset \(offset)")
        }
        let all = entries.filter { range.contains($0.key) }
        var last: [String: Offset] = [:]
        for (offset, entry) in all {
            #expect(log.epoch(at: offset) == entry.epoch, "seed \(seed), offset \(offset)")
            guard offset < compactedEnd, let key = entry.record.key else {
                #expect(present[offset] != nil, "seed \(seed), offset \(offset)")
                continue
            }
            last[key] = max(last[key] ?? offset, offset)
        }
        for offset in last.values where all[offset]?.record.value != nil {
            #expect(present[offset] != nil, "seed \(seed), offset \(offset)")
        }
        #expect(table(present) == table(all.mapValues(\.record)), "seed \(seed)")
    }

    mutating func go(steps: Int) throws {
        for _ in 0..<steps {
            if Int.random(in: 0..<6, using: &generator) == 0 {
                disk.failPower(after: Int.random(in: 0..<40, using: &generator))
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
        try check()
    }

    mutating func goThroughFaults(steps: Int) throws {
        for _ in 0..<steps {
            disk.fail(.random(oneIn: 5, using: &generator))
            var failure: (any Error)?
            do {
                try step()
            } catch {
                failure = error
            }
            let faults = disk.faultCount
            disk.fail(nil)
            if let failure { try #require(faults > 0, "seed \(seed): \(failure)") }
            if isRestarting || directory.health.failure != nil
                || log.checkpoint(highWatermark: 0) == nil
            {
                try recoverThroughFaults()
            } else {
                // It was made whole, or not at all.
                newStart = nil
                try check()
            }
        }
        disk.restart()
        try open()
        try checkRecovered()
    }

    private mutating func recoverThroughFaults() throws {
        while true {
            if Bool.random(using: &generator) { disk.restart() } else { disk.restartProcess() }
            disk.fail(.random(oneIn: 2, using: &generator))
            defer { disk.fail(nil) }
            do {
                try open()
                if directory.health.failure == nil { break }
            } catch {
                try #require(disk.faultCount > 0, "seed \(seed): \(error)")
            }
        }
        try checkRecovered()
    }
}

/// D9, S3, S4, S7, S9, S11.
@Test(arguments: logSeeds) func powerMayFailAtAnyCallOfACompaction(seed: UInt64) throws {
    var run = try Run(seed: seed)
    try run.go(steps: 120)
}

/// D9, S6, S8.
@Test(arguments: logSeeds) func anyCallOfACompactionMayFail(seed: UInt64) throws {
    var run = try Run(seed: seed)
    try run.goThroughFaults(steps: 100)
}
