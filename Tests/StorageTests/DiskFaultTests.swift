import Essentials
import NIOCore
import Records
import Storage
import Testing

extension LogRun {
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
            if SimulatedDisk.isTracing {
                print(
                    "from \(log.logStartOffset) durable to \(log.durableOffset) of \(log.logEndOffset)"
                )
            }
            disk.fail(nil)
            if let failure { try #require(faults > 0, "seed \(seed): \(failure)") }
            if isRestarting || directory.health.failure != nil
                || log.checkpoint(highWatermark: 0) == nil
            {
                try recoverThroughFaults()
            } else {
                // It was made whole, or not at all.
                newStart = nil
                try check(log, exactly: nil)
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

    /// Stops somehow, has something go wrong that nobody tells of, and looks at what is said and served.
    mutating func rot() throws {
        disk.failPower(after: nil)
        var hit: String?
        if Int.random(in: 0..<4, using: &generator) == 0 {
            disk.misplaceNextWrite()
            for _ in 0..<5 { try step() }
            disk.restart()
        } else {
            switch Int.random(in: 0..<3, using: &generator) {
            case 0:
                try directory.closeLog(log)
                try directory.close(clean: true)
                model.durable = log.logEndOffset
                disk.restartProcess()
            case 1: disk.restartProcess()
            default: disk.restart()
            }
            hit = disk.flipBit()?.path
        }
        let report: RecoveryReport
        do {
            directory = try LogDirectory.open("/data", fileSystem: disk)
            (log, report) = try directory.openLog("t-0", config: config)
        } catch {
            // It is told.
            return
        }
        if case .damaged(let offset, _) = report.outcome {
            try checkServed()
            // What is good goes on.
            try log.truncate(to: max(log.logStartOffset, min(offset, log.logEndOffset)))
            model.epoch = max(model.epoch, log.latestEpoch).next
            try append()
            return
        }
        #expect(log.logEndOffset >= model.noted, "seed \(seed), \(hit ?? "misplaced")")
        #expect(log.logStartOffset <= model.latestStart, "seed \(seed), \(hit ?? "misplaced")")
        // A write that went elsewhere may have been any file's.
        if let hit, !hit.hasSuffix(".log") {
            #expect(log.logEndOffset >= model.durable, "seed \(seed), \(hit)")
        }
        // A start above all that is left can't be told from one that isn't true.
        if let hit, !hit.hasSuffix("log-start-offset-checkpoint"),
            log.logEndOffset >= model.start
        {
            #expect(log.logStartOffset >= model.start, "seed \(seed), \(hit)")
        }
        let isServed = try checkServed()
        if !isServed { #expect(try log.verify() != nil, "seed \(seed), \(hit ?? "misplaced")") }
    }

    /// What a reader that compares checksums takes for good is what was written; false if something is
    /// not good, and shows it.
    @discardableResult
    private func checkServed() throws -> Bool {
        var offset = log.logStartOffset
        while offset < log.logEndOffset {
            let bytes: ByteBuffer
            do {
                bytes = try log.read(from: offset, below: .max, maxBytes: 400)
                _ = try RecordBatches.headers(of: bytes)
            } catch {
                return false
            }
            var reader = RecordReader(bytes)
            while let record = try reader.next() {
                let value = record.value.map { String(buffer: $0) }
                let candidates =
                    [model.entries[record.offset]] + (model.attempts[record.offset] ?? [])
                #expect(
                    candidates.contains { $0?.value == value },
                    "seed \(seed), offset \(record.offset)")
            }
            offset = try #require(reader.nextOffset)
        }
        return true
    }
}

/// S6, S8, D7, D8.
@Test(arguments: logSeeds) func anyCallMayFail(seed: UInt64) throws {
    var run = try LogRun(seed: seed)
    try run.goThroughFaults(steps: 100)
}

/// S1, S4, D5, D6: what is not as it was written is found, and never passes for good.
@Test(arguments: logSeeds) func bytesMayRot(seed: UInt64) throws {
    for part: UInt64 in 0..<4 {
        var run = try LogRun(seed: seed &* 4 &+ part)
        try run.go(steps: 40)
        try run.rot()
    }
}
