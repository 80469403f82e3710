import Essentials
import NIOCore
import Records
import Storage
import Testing

/// S9.
@Suite("Compaction")
struct CompactionTests {
    private let temporary: TemporaryDirectory
    private let directory: LogDirectory
    private let log: Log

    init() throws {
        temporary = try TemporaryDirectory()
        directory = try LogDirectory.open(temporary.path)
        log = try directory.openLog("t-0", config: smallSegments(400)).0
    }

    private func reopened(clean: Bool) throws -> (Log, RecoveryReport) {
        if clean { try directory.closeLog(log) } else { try log.close(clean: false) }
        try directory.close(clean: clean)
        return try LogDirectory.open(temporary.path)
            .openLog("t-0", config: smallSegments(400))
    }

    @Test("The last value of each key stays where it is")
    func lastValues() throws {
        for number in 0..<60 {
            try log.put(
                Keyed(key: "\(number % 7)", value: "a\(number)"),
                Keyed(key: "\(number % 5)", value: "b\(number)"), epoch: number < 30 ? 2 : 3)
        }
        try log.roll()
        try log.put(Keyed(key: "open", value: "1"), epoch: 3)
        try log.flush()
        let before = try log.keyed()
        let segments = log.segmentCount
        let summary = try #require(try log.compact())
        let after = try log.keyed()
        #expect(table(after) == table(before))
        #expect(after.count == 8)
        for (offset, record) in after { #expect(before[offset] == record) }
        #expect(log.logEndOffset == 121 && log.logStartOffset == 0)
        #expect(log.segmentCount < segments)
        #expect(summary.keptRecords == 7)
        #expect(summary.supersededRecords == 113)
        #expect(summary.segmentsBefore == segments - 1)
        #expect(log.firstDirtyOffset == 120)
        #expect(log.endOffset(for: 2) == (2, 60))
        #expect(try log.verify() == nil)
        for offset: Int64 in 0..<121 {
            let bytes = try log.read(from: Offset(offset), below: .max, maxBytes: 1)
            let headers = try RecordBatches.headers(of: bytes)
            #expect(
                headers[0].baseOffset <= Offset(offset) && headers[0].nextOffset > Offset(offset))
        }
        // Nothing more to do.
        #expect(try log.compact() == nil)
    }

    @Test("A compacted log is the same after a restart", arguments: [true, false])
    func restart(clean: Bool) throws {
        for number in 0..<60 {
            try log.put(
                Keyed(key: "\(number % 7)", value: "\(number)"),
                epoch: LeaderEpoch(Int32(number / 20)))
        }
        try log.flush()
        _ = try #require(try log.compact())
        let before = try log.keyed()
        let batches = try log.batches().map(\.header)
        let files = try LocalFileSystem().contents(of: "\(temporary.path)/t-0")
        #expect(!files.contains { $0.contains(".cleaned") || $0.contains("swap") })
        try directory.checkpoint(["t-0": try #require(log.checkpoint(highWatermark: 60))])
        if !clean { try temporary.remove("t-0/leader-epoch-checkpoint") }
        let firstDirty = log.firstDirtyOffset
        let (again, report) = try reopened(clean: clean)
        #expect(report.isDamaged == false)
        #expect(try again.keyed() == before)
        #expect(try again.batches().map(\.header) == batches)
        #expect(again.firstDirtyOffset == firstDirty)
        #expect(again.endOffset(for: 0) == (0, 20) && again.endOffset(for: 1) == (1, 40))
        #expect(try again.verify() == nil)
    }

    @Test("Only what is dirty is read for keys, and a key's old value goes from what is clean")
    func secondTime() throws {
        for number in 0..<30 {
            try log.put(
                Keyed(key: "\(number % 10)", value: "\(number)"))
        }
        try log.roll()
        try log.flush()
        _ = try #require(try log.compact())
        for number in 30..<35 {
            try log.put(
                Keyed(key: "\(number % 10)", value: "\(number)"))
        }
        try log.roll()
        try log.put(
            Keyed(key: "open", value: "1"), epoch: 3)
        try log.flush()
        var survey = log.compactionSurvey(below: .max)
        let need = try survey.need(by: CompactionPolicy(), now: 0)
        #expect(need.firstDirtyOffset == 30 && need.endOffset == 35)
        #expect(need.cleanBytes > 0 && need.dirtyBytes > 0)
        #expect(!need.isDue(by: CompactionPolicy()) || need.dirtyRatio > 0.5)
        let summary = try #require(try log.compact())
        #expect(summary.supersededRecords == 5)
        #expect(Set(try log.keyed().keys) == Set((25..<36).map { Offset(Int64($0)) }))
    }

    @Test("The dirty ratio, and a record that has waited for too long, make it due")
    func due() throws {
        var policy = CompactionPolicy()
        for number in 0..<20 {
            try log.put(
                Keyed(key: "\(number)", value: "x", timestamp: Int64(number) * 1_000))
        }
        try log.roll()
        try log.flush()
        var survey = log.compactionSurvey(below: .max)
        let need = try survey.need(by: policy, now: 20_000)
        #expect(need.dirtyRatio == 1 && need.isDue(by: policy))
        policy.minDirtyRatio = 1
        #expect(!need.isDue(by: policy))
        policy.maxLag = .seconds(21)
        #expect(!(try survey.need(by: policy, now: 20_000).isDue(by: policy)))
        #expect(try survey.need(by: policy, now: 21_001).isDue(by: policy))
    }

    @Test("Records younger than the minimum lag are left alone")
    func minLag() throws {
        for number in 0..<20 {
            try log.put(
                Keyed(key: "k", value: "\(number)", timestamp: Int64(number) * 1_000))
            try log.roll()
        }
        try log.flush()
        var policy = CompactionPolicy()
        policy.minLag = .seconds(10)
        _ = try log.compact(policy, now: 20_000)
        #expect(log.firstDirtyOffset == 11)
        #expect(Set(try log.keyed().keys) == Set((10..<20).map { Offset(Int64($0)) }))
    }

    @Test("Nothing above the limit is touched, or takes anything's place")
    func limit() throws {
        for number in 0..<20 {
            try log.put(
                Keyed(key: "k", value: "\(number)"))
            try log.roll()
        }
        try log.flush()
        _ = try log.compact(below: 12)
        #expect(Set(try log.keyed().keys) == Set((11..<20).map { Offset(Int64($0)) }))
        // What may be lost takes no place either.
        for number in 20..<30 {
            try log.put(
                Keyed(key: "k", value: "\(number)"))
            try log.roll()
        }
        _ = try log.compact(below: 30)
        #expect(Set(try log.keyed().keys) == Set((19..<30).map { Offset(Int64($0)) }))
    }

    @Test("A segment that is written is closed when its records have waited for long enough")
    func quietTopic() throws {
        try log.put(
            Keyed(key: "k", value: "1", timestamp: 1_000))
        var policy = CompactionPolicy()
        try log.rollForCompaction(policy, now: 1 << 40)
        #expect(log.segmentCount == 1)
        policy.maxLag = .seconds(5)
        try log.rollForCompaction(policy, now: 6_000)
        #expect(log.segmentCount == 1)
        try log.rollForCompaction(policy, now: 6_001)
        #expect(log.segmentCount == 2)
        try log.rollForCompaction(policy, now: 1 << 40)
        #expect(log.segmentCount == 2)
    }

    @Test("A tombstone stays for its time, and goes then")
    func tombstones() throws {
        try log.put(
            Keyed(key: "a", value: "1"), Keyed(key: "b", value: "1"))
        try log.put(
            Keyed(key: "a", value: nil, timestamp: 5_000), Keyed(key: "c", value: "1"))
        try log.roll()
        try log.flush()
        var policy = CompactionPolicy()
        policy.deleteRetention = .seconds(60)
        _ = try #require(try log.compact(policy, now: 10_000))
        let expected: [Offset: Keyed] = [
            1: Keyed(key: "b", value: "1"), 2: Keyed(key: "a", value: nil, timestamp: 5_000),
            3: Keyed(key: "c", value: "1"),
        ]
        #expect(try log.keyed() == expected)
        #expect(try log.batches().compactMap(\.header.deleteHorizon) == [70_000])
        func dirty() throws {
            try log.put(
                Keyed(key: "d", value: "1"))
            try log.roll()
            try log.flush()
        }
        try dirty()
        // Its time does not begin anew.
        _ = try #require(try log.compact(policy, now: 69_999))
        #expect(try log.keyed()[2] == expected[2])
        #expect(try log.batches().compactMap(\.header.deleteHorizon) == [70_000])
        try dirty()
        let summary = try #require(try log.compact(policy, now: 70_000))
        #expect(summary.removedTombstones == 1)
        #expect(Set(try log.keyed().keys) == [1, 3, 5])
        #expect(try log.offset(forTimestamp: 2_000, below: .max) == nil)
        #expect(log.logEndOffset == 6)
    }

    @Test("A tombstone's time begins when all that it is about is compacted")
    func tombstoneAboveEnd() throws {
        try log.put(Keyed(key: "a", value: "1"))
        try log.put(Keyed(key: "b", value: "1"), Keyed(key: "c", value: nil))
        try log.roll()
        try log.flush()
        // There is room for two keys.
        let summary = try #require(try log.compact(memory: 72))
        try #require(summary.endOffset == 2)
        #expect(try log.batches().compactMap(\.header.deleteHorizon) == [])
        _ = try #require(try log.compact())
        #expect(Set(try log.keyed().keys) == [0, 1, 2])
        #expect(try log.batches().compactMap(\.header.deleteHorizon).count == 1)
    }

    @Test("Every codec is kept, and what is in it", arguments: Compression.allCases)
    func codecs(codec: Compression) throws {
        let log = try directory.openLog("c-0", config: smallSegments(3_000)).0
        let text = String(repeating: "some text to be compressed ", count: 20)
        for number in 0..<20 {
            try log.put(
                Keyed(key: "\(number % 4)", value: text + "\(number)", timestamp: Int64(number)),
                Keyed(key: "once \(number)", value: text), Keyed(key: "\(number % 3)", value: nil),
                codec: codec)
        }
        try log.roll()
        try log.flush()
        let before = try log.keyed()
        _ = try #require(try log.compact())
        let after = try log.keyed()
        #expect(table(after) == table(before))
        #expect(after.count == 24)
        for (offset, record) in after { #expect(before[offset] == record) }
        for batch in try log.batches() where !batch.records.isEmpty {
            #expect(batch.header.compression == codec)
        }
    }

    @Test("Records without a key go")
    func keyless() throws {
        try log.put(
            Keyed(key: nil, value: "1"), Keyed(key: "a", value: "1"))
        try log.put(
            Keyed(key: nil, value: "1"))
        try log.roll()
        try log.flush()
        let summary = try #require(try log.compact())
        #expect(summary.keylessRecords == 2)
        #expect(Set(try log.keyed().keys) == [1])
    }

    @Test("With little memory it is done bit by bit", arguments: [0, 72, 480])
    func littleMemory(memory: Int) throws {
        for number in 0..<100 {
            try log.put(
                Keyed(key: "\(number % 40)", value: "a\(number)"),
                Keyed(key: "\(number % 30)", value: "b\(number)"))
        }
        try log.roll()
        try log.flush()
        let before = table(try log.keyed())
        var rounds = 0
        var reached = log.firstDirtyOffset
        while try log.compact(memory: memory) != nil {
            rounds += 1
            #expect(log.firstDirtyOffset > reached)
            reached = log.firstDirtyOffset
            #expect(table(try log.keyed()) == before)
            try #require(rounds < 300)
        }
        #expect(rounds > 1)
        #expect(log.firstDirtyOffset == 200)
    }

    @Test("The last batch of a producer stays without its records, others go")
    func producers() throws {
        func append(_ producer: Int64, _ sequence: Int32, _ key: String, _ time: Int64) throws {
            try log.append(
                batch: keyedBatch(
                    [Keyed(key: key, value: "1", timestamp: time)], producer: (producer, sequence)))
        }
        try append(1, 0, "k", 9_000)
        try append(1, 1, "k", 9_000)
        try append(2, 0, "k", 9_000)
        try append(3, 0, "k", 1_000)
        try append(5, 0, "k", 1_000)
        try append(4, 0, "k", 9_000)
        try log.roll()
        try log.flush()
        // Old records don't tell of a producer that is known that nobody needs it any more.
        #expect(log.expireProducers(before: 2_000, belowOffset: 4) == 1)
        var options = CompactionOptions(now: 10_000)
        options.producerRetention = .seconds(5)
        var compaction = try LogCompaction(
            log.compactionSurvey(below: .max), policy: CompactionPolicy(), options: options)
        _ = try compaction.prepare()
        while let segment = try compaction.next() {
            _ = try log.install(segment)
            try segment.settle()
        }
        let batches = try log.batches().map(\.header)
        #expect(batches.map(\.producerID) == [-1, 1, 2, -1, 5, 4])
        #expect(batches.map(\.baseSequence) == [-1, 1, 0, -1, 0, 0])
        #expect(batches.map(\.recordCount) == [0, 0, 0, 0, 0, 1])
        #expect(batches.map(\.baseOffset) == [0, 1, 2, 3, 4, 5])
    }

    @Test("Damage stops it, and changes nothing")
    func damage() throws {
        for number in 0..<30 {
            try log.put(
                Keyed(key: "k", value: "\(number)"))
        }
        try log.roll()
        try log.flush()
        let name = try #require(
            try LocalFileSystem().contents(of: "\(temporary.path)/t-0")
                .filter { $0.hasSuffix(".log") }.dropFirst(2).first)
        var bytes = try temporary.bytes("t-0/\(name)")
        bytes[90] ^= 1
        try temporary.write(bytes, to: "t-0/\(name)")
        let files = try LocalFileSystem().contents(of: "\(temporary.path)/t-0")
        let error = try #require(throws: LogError.self) { try log.compact() }
        guard case .corruptBatch = error else {
            Issue.record("\(error)")
            return
        }
        #expect(try LocalFileSystem().contents(of: "\(temporary.path)/t-0") == files)
        #expect(log.firstDirtyOffset == 0)
    }

    @Test("A follower takes what its leader has compacted, wherever it had got to")
    func follower() throws {
        for number in 0..<60 {
            try log.put(
                Keyed(key: "\(number % 7)", value: "\(number)"),
                epoch: LeaderEpoch(Int32(number / 20)))
        }
        try log.roll()
        try log.flush()
        var followers: [Log] = []
        for end in [0, 1, 17, 45, 60] as [Offset] {
            let follower = try directory.openLog("f-\(end)", config: smallSegments(400)).0
            while follower.logEndOffset < end {
                try follower.appendAsFollower(
                    log.read(from: follower.logEndOffset, below: end, maxBytes: 100))
            }
            followers.append(follower)
        }
        _ = try #require(try log.compact())
        for follower in followers {
            while follower.logEndOffset < log.logEndOffset {
                let bytes = try log.read(
                    from: follower.logEndOffset, below: .max, maxBytes: 300)
                try follower.appendAsFollower(
                    RecordBatches.trimmingPlaceholder(bytes, to: follower.logEndOffset))
            }
            #expect(table(try follower.keyed()) == table(try log.keyed()))
            #expect(follower.endOffset(for: 0) == (0, 20))
            #expect(follower.endOffset(for: 1) == (1, 40))
            try follower.roll()
            try follower.flush()
            _ = try follower.compact()
            #expect(try follower.keyed() == log.keyed())
        }
    }
}

/// S8: a call that fails once does not keep the log from being compacted later.
@Test(arguments: ["remove", "rename"]) func aCompactionThatFailedInTheEndIsNotTheLast(
    operation: String
) throws {
    let disk = SimulatedDisk(seed: 1)
    let directory = try LogDirectory.open("/data", fileSystem: disk)
    let log = try directory.openLog("t-0", config: smallSegments(400)).0
    for number in 0..<40 { try log.put(Keyed(key: "\(number % 3)", value: "\(number)")) }
    try log.roll()
    try log.flush()
    let before = table(try log.keyed())
    var compaction = try LogCompaction(
        log.compactionSurvey(below: .max), policy: CompactionPolicy(),
        options: CompactionOptions(now: 10_000))
    #expect(try compaction.prepare())
    let segment = try #require(try compaction.next())
    #expect(try log.install(segment) != nil)
    var fault = DiskFault.broken(after: 0)
    fault.concerns = { $0 == operation && $1.contains(operation == "remove" ? ".swap" : ".log") }
    disk.fail(fault)
    #expect(throws: LogError.self) { try segment.settle() }
    disk.fail(nil)
    #expect(try log.compact() != nil)
    #expect(log.firstDirtyOffset == 40)
    #expect(table(try log.keyed()) == before)
    let names = try disk.contents(of: "/data/t-0")
    #expect(!names.contains { $0.hasSuffix(".swap") }, "\(names)")
}
