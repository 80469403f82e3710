internal import Essentials
internal import NIOCore
internal import Records
internal import Testing

@testable internal import Millrace

@Suite struct AccumulatorTests {
    @Test func aLoneRecordLeavesAtOnce() throws {
        let accumulator = TestAccumulator()
        accumulator.setPartitionCount(1, of: "t")
        #expect(accumulator.add("t", value: "a") == .accepted(wake: true))
        let taken = try #require(accumulator.take())
        #expect(try taken.batches.map { try $0.values() } == [["a"]])
    }

    @Test func recordsGatherWhileARequestIsUnderWay() throws {
        let accumulator = TestAccumulator()
        accumulator.setPartitionCount(1, of: "t")
        accumulator.add("t", value: "a")
        let first = try #require(accumulator.take())
        #expect(accumulator.add("t", value: "b") == .accepted(wake: false))
        #expect(accumulator.add("t", value: "c") == .accepted(wake: false))
        #expect(accumulator.take() == nil)
        #expect(accumulator.finish(first.lane))
        let second = try #require(accumulator.take())
        #expect(try second.batches.map { try $0.values() } == [["b", "c"]])
    }

    @Test func aFullBatchIsClosedAndTheNextOneOpened() throws {
        let accumulator = TestAccumulator(batchBytes: 100)
        accumulator.setPartitionCount(1, of: "t")
        accumulator.add("t", value: "x")
        let lane = try #require(accumulator.take()).lane
        for value in ["a", "b", "c", "d", "e", "f"] { accumulator.add("t", value: value) }
        #expect(accumulator.finish(lane))
        let batches = try #require(accumulator.take()).batches
        #expect(try batches.map { try $0.values() } == [["a", "b", "c"], ["d", "e", "f"]])
    }

    @Test func aRequestTakesNoMoreThanItsLimit() throws {
        let accumulator = TestAccumulator(batchBytes: 60, maxRequestBytes: 120)
        accumulator.setPartitionCount(1, of: "t")
        accumulator.add("t", value: "x")
        let lane = try #require(accumulator.take()).lane
        for value in ["a", "b", "c", "d", "e", "f"] { accumulator.add("t", value: value) }
        #expect(accumulator.finish(lane))
        let first = try #require(accumulator.take())
        #expect(try first.batches.flatMap { try $0.values() } == ["a", "b", "c", "d"])
        #expect(accumulator.finish(lane))
        let second = try #require(accumulator.take())
        #expect(try second.batches.flatMap { try $0.values() } == ["e", "f"])
    }

    @Test func aBatchLingersUntilItsTimeIsUp() throws {
        let accumulator = TestAccumulator(linger: .milliseconds(5))
        accumulator.setPartitionCount(1, of: "t")
        #expect(accumulator.add("t", value: "a") == .accepted(wake: true))
        #expect(accumulator.take() == nil)
        let end = NIODeadline.testStart + .milliseconds(5)
        #expect(accumulator.endLingering(now: .testStart) == end)
        accumulator.add("t", value: "b", now: .testStart + .milliseconds(4))
        #expect(accumulator.endLingering(now: end) == nil)
        let taken = try #require(accumulator.take(now: end))
        #expect(try taken.batches.map { try $0.values() } == [["a", "b"]])
    }

    @Test func aFlushEndsLingering() throws {
        let accumulator = TestAccumulator(linger: .seconds(60))
        accumulator.setPartitionCount(1, of: "t")
        accumulator.add("t", value: "a")
        #expect(accumulator.take() == nil)
        let flush = accumulator.beginFlush()
        let taken = try #require(accumulator.take())
        #expect(taken.batches.count == 1)
        #expect(!accumulator.isFlushed(flush))
        accumulator.release(taken)
        #expect(accumulator.isFlushed(flush))
    }

    @Test func aFlushDoesNotWaitForWhatCameAfterIt() {
        let accumulator = TestAccumulator()
        accumulator.setPartitionCount(1, of: "t")
        let flush = accumulator.beginFlush()
        accumulator.add("t", value: "a")
        #expect(accumulator.isFlushed(flush))
    }

    @Test func aFullBufferRefusesUntilMemoryIsGivenBack() throws {
        let accumulator = TestAccumulator(bufferBytes: 60)
        accumulator.setPartitionCount(1, of: "t")
        accumulator.add("t", value: "a")
        accumulator.add("t", value: "b")
        #expect(accumulator.add("t", value: "c") == .bufferFull)
        accumulator.release(try #require(accumulator.take()))
        #expect(accumulator.usedBytes == 0)
        #expect(accumulator.add("t", value: "c") != .bufferFull)
    }

    @Test func aRecordLargerThanTheBufferGoesThroughAlone() {
        let accumulator = TestAccumulator(bufferBytes: 60)
        accumulator.setPartitionCount(1, of: "t")
        let large = String(repeating: "x", count: 100)
        #expect(accumulator.add("t", value: large) == .accepted(wake: true))
        #expect(accumulator.add("t", value: "a") == .bufferFull)
    }

    @Test func keylessRecordsStayTogetherAndThenMoveOn() throws {
        let accumulator = TestAccumulator(batchBytes: 60)
        accumulator.setPartitionCount(3, of: "t")
        for _ in 0..<6 { accumulator.add("t", value: "a") }
        var partitions: [Int32] = []
        while let taken = accumulator.take() {
            partitions.append(taken.lane.partition)
            #expect(try taken.batches.map { try $0.values().count } == [2])
        }
        #expect(partitions.sorted() == [0, 1, 2])
    }

    @Test func keylessRecordsAvoidAPartitionThatIsBehind() throws {
        let accumulator = TestAccumulator(batchBytes: 60)
        accumulator.setPartitionCount(2, of: "t")
        accumulator.add("t", partition: 0, value: "stuck")
        accumulator.add("t", partition: 0, value: "stuck")
        accumulator.add("t", partition: 0, value: "stuck")
        _ = try #require(accumulator.take())  // Under way, and never answered.
        for _ in 0..<2 { accumulator.add("t", value: "a") }
        #expect(try #require(accumulator.take()).lane.partition == 1)
    }

    @Test func partitionsThatDoNotExistAreRefused() {
        let accumulator = TestAccumulator()
        #expect(accumulator.add("t", value: "a") == .unknownTopic)
        accumulator.setPartitionCount(2, of: "t")
        #expect(accumulator.add("t", partition: 2, value: "a") == .unknownPartition(count: 2))
        #expect(accumulator.add("t", partition: -1, value: "a") == .unknownPartition(count: 2))
        accumulator.setPartitionCount(3, of: "t")
        #expect(accumulator.add("t", partition: 2, value: "a") == .accepted(wake: true))
    }
}

extension NIODeadline {
    static let testStart = NIODeadline.uptimeNanoseconds(1_000_000_000)
}

/// An accumulator behind a reference, since `#expect` can't change a value.
final class TestAccumulator {
    private var accumulator: Accumulator

    init(
        batchBytes: Int = 1000, linger: TimeAmount = .zero, maxRequestBytes: Int = 10_000,
        bufferBytes: Int = 100_000
    ) {
        accumulator = Accumulator(
            limits: Accumulator.Limits(
                batchBytes: batchBytes, linger: linger, maxRequestBytes: maxRequestBytes,
                bufferBytes: bufferBytes))
    }

    var usedBytes: Int { accumulator.usedBytes }

    func setPartitionCount(_ count: Int, of topic: String) {
        accumulator.setPartitionCount(count, of: topic)
    }

    @discardableResult
    func add(
        _ topic: String, partition: Int32? = nil, key: String? = nil, value: String,
        now: NIODeadline = .testStart
    ) -> Accumulator.Appended {
        let key = key.map { Array($0.utf8) }
        return Array(value.utf8).withUnsafeBytes { value in
            guard let key else {
                return accumulator.append(
                    topic: topic, partition: partition, key: nil, value: value, headers: [],
                    timestamp: 0, completion: nil, now: { now })
            }
            return key.withUnsafeBytes { key in
                accumulator.append(
                    topic: topic, partition: partition, key: key, value: value, headers: [],
                    timestamp: 0, completion: nil, now: { now })
            }
        }
    }

    func take(
        now: NIODeadline = .testStart
    ) -> (lane: Accumulator.Lane, batches: [Accumulator.Batch])? {
        accumulator.takeReady(now: now)
    }

    func finish(_ lane: Accumulator.Lane) -> Bool {
        accumulator.finish(lane, now: .testStart)
    }

    func release(_ taken: (lane: Accumulator.Lane, batches: [Accumulator.Batch])) {
        for batch in taken.batches {
            accumulator.release(
                bytes: batch.bytes, generation: batch.generation, of: taken.lane)
        }
    }

    func endLingering(now: NIODeadline) -> NIODeadline? { accumulator.endLingering(now: now) }

    func beginFlush() -> Int { accumulator.beginFlush(now: .testStart) }

    func isFlushed(_ flush: Int) -> Bool { accumulator.isFlushed(flush) }
}

extension Accumulator.Batch {
    /// The records' values, read back from the encoded batch.
    func values() throws -> [String] {
        var reader = RecordReader(encoded)
        var values: [String] = []
        while let record = try reader.next() {
            values.append(record.value.map { String(buffer: $0) } ?? "")
        }
        return values
    }
}
