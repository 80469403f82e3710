import Essentials
import NIOCore
import Records
import Storage
import Testing

/// E11, T10, S9.
@Suite("Compaction of transactions")
struct CompactedTransactionsTests {
    private let temporary: TemporaryDirectory
    private let directory: LogDirectory
    private let log: Log

    init() throws {
        temporary = try TemporaryDirectory()
        directory = try LogDirectory.open(temporary.path)
        log = try directory.openLog("t-0", config: smallSegments(300)).0
    }

    private func append(_ producer: Int64, _ records: (String, String?)...) throws {
        try log.append(
            batch: keyedBatch(
                records.map { Keyed(key: $0.0, value: $0.1, timestamp: 1_000) },
                producer: (producer, 0), isTransactional: true))
    }

    private func end(_ producer: Int64, commits: Bool) throws {
        try log.append(batch: markerBatch(producer, commits: commits))
    }

    private func close() throws {
        try log.roll()
        try log.flush()
    }

    /// The offsets of the markers that are left.
    private func markers() throws -> [Offset] {
        try log.batches().filter(\.header.isControl).map(\.header.baseOffset)
    }

    @Test("Records of an aborted transaction go, and take nobody's place")
    func aborted() throws {
        try append(1, ("a", "1"), ("b", "1"))
        try end(1, commits: true)
        try append(2, ("a", "2"))
        try append(1, ("b", "2"), ("c", "2"))
        try end(2, commits: false)
        try end(1, commits: false)
        try append(2, ("b", "3"))
        try end(2, commits: true)
        try close()
        let summary = try #require(try log.compact())
        #expect(summary.abortedRecords == 3)
        #expect(table(try log.keyed()) == ["a": "1", "b": "3"])
        #expect(Set(try log.keyed().keys) == [0, 8])
        // They tell that what is left counts, and that what may yet be read elsewhere doesn't.
        #expect(try markers() == [2, 6, 7, 9])
    }

    @Test("A marker goes when its time is over and no record of its transaction is left")
    func markersGo() throws {
        var policy = CompactionPolicy()
        policy.deleteRetention = .seconds(60)
        try append(1, ("a", "1"))
        try end(1, commits: true)
        try append(1, ("b", "1"))
        try end(1, commits: false)
        try append(1, ("c", "1"))
        try end(1, commits: true)
        try close()
        func again(_ key: String) throws {
            try log.put(Keyed(key: key, value: "x"))
            try close()
        }
        let day: Int64 = 86_400_000
        _ = try #require(try log.compact(policy, now: 2_000))
        #expect(try markers() == [1, 3, 5])
        #expect(try log.batches().filter { $0.header.deleteHorizon == 62_000 }.count == 1)
        #expect(try log.abortedTransactions(from: 0, below: 6).map(\.lastOffset) == [3])
        try again("x")
        _ = try #require(try log.compact(policy, now: 61_999))
        #expect(try markers() == [1, 3, 5])
        try again("a")
        #expect(log.expireProducers(before: 62_000, belowOffset: .max) == 1)
        _ = try #require(try log.compact(policy, now: 62_000 + day))
        // The first has no records any more, and its time begins; the aborted one's is over.
        #expect(try markers() == [1, 5])
        #expect(try log.abortedTransactions(from: 0, below: 9) == [])
        try again("y")
        _ = try #require(try log.compact(policy, now: 62_000 + 2 * day))
        #expect(try markers() == [5])
        #expect(table(try log.keyed()) == ["c": "1", "x": "x", "a": "x", "y": "x"])
        #expect(log.logEndOffset == 9)
        #expect(try log.verify() == nil)
    }

    @Test("Nothing from the first record of an open transaction on is touched")
    func open() throws {
        try log.put(Keyed(key: "a", value: "1"))
        try log.put(Keyed(key: "a", value: "2"))
        try append(1, ("b", "1"))
        try log.put(Keyed(key: "a", value: "3"))
        try append(1, ("b", "2"))
        try close()
        _ = try #require(try log.compact())
        #expect(log.firstDirtyOffset == 2)
        #expect(Set(try log.keyed().keys) == [1, 2, 3, 4])
        #expect(try log.compact() == nil)
        try end(1, commits: false)
        try close()
        _ = try #require(try log.compact())
        #expect(table(try log.keyed()) == ["a": "3"])
    }

    @Test("A marker above the limit, even in the segment that is written, tells its records' fate")
    func markerAbove() throws {
        try log.put(Keyed(key: "a", value: "1"))
        try append(1, ("a", "2"))
        try append(2, ("b", "2"))
        try close()
        try end(1, commits: false)
        try end(2, commits: true)
        try log.flush()
        _ = try #require(try log.compact(below: 3, committedEnd: 5))
        #expect(table(try log.keyed()) == ["a": "1", "b": "2"])
        #expect(log.firstDirtyOffset == 3)
        // It is not committed yet.
        let other = try directory.openLog("u-0", config: smallSegments(300)).0
        try other.put(Keyed(key: "a", value: "1"))
        try other.append(
            batch: keyedBatch(
                [Keyed(key: "a", value: "2")], producer: (1, 0), isTransactional: true))
        try other.roll()
        try other.append(batch: markerBatch(1, commits: false))
        try other.flush()
        _ = try other.compact(below: 2, committedEnd: 2)
        #expect(other.firstDirtyOffset == 1)
        #expect(try other.keyed().count == 2)
    }

    @Test("All dirty again, as after the loss of the checkpoint, it comes to the same")
    func again() throws {
        for number in 0..<40 {
            let producer = Int64(number % 3)
            try append(producer, ("\(number % 5)", "\(number)"), ("\(number % 7)", "\(number)"))
            try log.put(Keyed(key: "\(number % 4)", value: "\(number)"))
            try end(producer, commits: number % 4 != 0)
        }
        try close()
        let model = try committed(try log.batches())
        _ = try #require(try log.compact())
        #expect(table(try log.keyed()) == model)
        let kept = try log.keyed()
        let name = "cleaner-offset-checkpoint"
        try directory.closeLog(log)
        try directory.close(clean: true)
        try temporary.remove(name)
        let (again, _) = try LogDirectory.open(temporary.path)
            .openLog("t-0", config: smallSegments(300))
        #expect(again.firstDirtyOffset == 0)
        _ = try #require(try again.compact())
        #expect(try again.keyed() == kept)
    }

    /// What a reader of committed records makes of the batches.
    private func committed(_ batches: [StoredBatch]) throws -> [String: String] {
        var pending: [Int64: [Record]] = [:]
        var records: [Record] = []
        for batch in batches {
            let producer = batch.header.producerID
            if batch.header.isControl {
                var key = try #require(batch.records.first?.key)
                let type = key.readMultipleIntegers(as: (Int16, Int16).self)?.1
                if type == 1 { records += pending[producer] ?? [] }
                pending[producer] = nil
            } else if batch.header.isTransactional {
                pending[producer, default: []] += batch.records
            } else {
                records += batch.records
            }
        }
        var table: [String: String] = [:]
        for record in records.sorted(by: { $0.offset < $1.offset }) {
            let key = String(buffer: try #require(record.key))
            table[key] = record.value.map { String(buffer: $0) }
        }
        return table
    }
}
