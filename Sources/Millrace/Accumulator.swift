internal import DequeModule
internal import Essentials
internal import NIOCore
internal import Records

/// Records on their way into batches, one queue a partition.
///
/// A value without threads or clocks.
///
/// A partition is *idle* (nothing queued, nothing under way), *queued* (batches wait) or *busy* (a
/// request is under way or waits to be tried again). Only one request a partition is ever under way,
/// which is what keeps its order; everything that gathers meanwhile leaves with the next one. An idle
/// or queued partition is listed in `ready` exactly when its head may leave.
struct Accumulator {
    typealias Completion = @Sendable (Result<RecordMetadata, MillraceError>) -> Void

    /// One partition of one topic, by the numbers it has here.
    struct Lane: Hashable, Sendable {
        var topic: Int
        var partition: Int32
    }

    struct Limits {
        var batchBytes: Int
        var linger: TimeAmount
        var maxRequestBytes: Int
        var bufferBytes: Int
    }

    struct Batch {
        private var builder = RecordBatchBuilder()
        /// The whole batch, once it takes no more records.
        private(set) var encoded = ByteBuffer()
        let createdAt: NIODeadline
        /// The flush that waits for this batch: see `beginFlush`.
        let generation: Int
        /// What it counts against `bufferBytes`.
        private(set) var bytes = 0
        private(set) var recordCount = 0
        /// Those who wait for one record, by its position in the batch.
        private(set) var completions: [(position: Int, completion: Completion)] = []

        init(createdAt: NIODeadline, generation: Int) {
            self.createdAt = createdAt
            self.generation = generation
        }

        /// Adds a record.
        fileprivate mutating func add(
            key: UnsafeRawBufferPointer?, value: UnsafeRawBufferPointer?,
            headers: [Records.RecordHeader], timestamp: Int64, bytes: Int,
            completion: Completion?
        ) {
            builder.appendBytes(key: key, value: value, headers: headers, timestamp: timestamp)
            if let completion { completions.append((recordCount, completion)) }
            recordCount += 1
            self.bytes += bytes
        }

        fileprivate mutating func encode() {
            encoded = builder.finish(baseOffset: 0, leaderEpoch: .none)
        }
    }

    private struct Queue {
        /// Full batches that wait to leave.
        var closed: Deque<Batch> = []
        /// The batch that takes records; it comes after `closed`.
        var open: Batch?
        /// The open batch's bytes, 0 without one: looked at for every record.
        var openBytes = 0
        var isBusy = false
        var isReady = false
        /// Bytes of all that is queued or under way.
        var bytes = 0
    }

    private struct Topic {
        let name: String
        var queues: [Queue]
        /// Records without a key go here until its batch is closed.
        var sticky: Int32?
        var nextSticky: Int
    }

    enum Appended: Equatable {
        /// `wake` is set when the sender has something new to do.
        case accepted(wake: Bool)
        case bufferFull
        case unknownTopic
        case unknownPartition(count: Int)
    }

    private let limits: Limits
    private var topics: [Topic] = []
    private var numbers: [String: Int] = [:]
    /// The topic of the last append, which is mostly that of the next.
    private var lastTopic: (name: String, number: Int)?
    private var ready: Deque<Lane> = []
    /// Batches that wait for company, in the order in which they stop waiting.
    private var lingering: Deque<(until: NIODeadline, lane: Lane)> = []
    private(set) var usedBytes = 0
    private var generation = 0
    /// Batches not yet finished, by generation.
    private var unfinished: [Int: Int] = [:]
    private var flushes = 0

    init(limits: Limits) {
        self.limits = limits
    }

    // MARK: Topics

    func knows(_ topic: String) -> Bool { numbers[topic] != nil }

    var topicNames: [String] { topics.map(\.name) }

    func name(of lane: Lane) -> String { topics[lane.topic].name }

    /// Adds a topic, or partitions that a known one has grown by.
    mutating func setPartitionCount(_ count: Int, of topic: String) {
        guard let number = numbers[topic] else {
            numbers[topic] = topics.count
            let start = Int.random(in: 0..<max(count, 1))
            topics.append(
                Topic(
                    name: topic, queues: Array(repeating: Queue(), count: count), nextSticky: start)
            )
            return
        }
        let missing = count - topics[number].queues.count
        guard missing > 0 else { return }
        topics[number].queues.append(contentsOf: repeatElement(Queue(), count: missing))
    }

    // MARK: Appending

    /// Adds one record to its partition's open batch.
    mutating func append(
        topic: String, partition: Int32?, key: UnsafeRawBufferPointer?,
        value: UnsafeRawBufferPointer?, headers: [Records.RecordHeader], timestamp: Int64,
        completion: Completion?, now: () -> NIODeadline
    ) -> Appended {
        guard let number = number(of: topic) else { return .unknownTopic }
        let bytes = Self.bytes(key: key, value: value, headers: headers)
        // A record larger than all of the buffer goes through alone.
        guard usedBytes + bytes <= limits.bufferBytes || usedBytes == 0 else { return .bufferFull }
        let count = topics[number].queues.count
        var wake = false
        let chosen: Int32
        if let partition {
            guard partition >= 0, Int(partition) < count else {
                return .unknownPartition(count: count)
            }
            chosen = partition
        } else if let key {
            chosen = Essentials.partition(forKey: key, of: count)
        } else {
            if let sticky = topics[number].sticky {
                wake = closeIfFull(Lane(topic: number, partition: sticky), adding: bytes, now: now)
            }
            chosen = stickyPartition(of: number)
        }
        usedBytes += bytes
        let lane = Lane(topic: number, partition: chosen)
        if closeIfFull(lane, adding: bytes, now: now) { wake = true }
        let hasOpened = topics[number].queues[Int(chosen)].openBytes == 0
        let mustTime = hasOpened && open(lane, now: now())
        topics[number].queues[Int(chosen)].open?.add(
            key: key, value: value, headers: headers, timestamp: timestamp, bytes: bytes,
            completion: completion)
        topics[number].queues[Int(chosen)].bytes += bytes
        topics[number].queues[Int(chosen)].openBytes += bytes
        let isFull = topics[number].queues[Int(chosen)].openBytes >= limits.batchBytes
        if isFull { close(lane) }
        // In between, a batch that was not ready does not become so.
        if hasOpened || isFull, markReady(lane, now: now()) { wake = true }
        return .accepted(wake: wake || mustTime)
    }

    /// Closes the open batch if a record would make it too large; true when that makes it ready.
    private mutating func closeIfFull(_ lane: Lane, adding bytes: Int, now: () -> NIODeadline)
        -> Bool
    {
        let open = topics[lane.topic].queues[Int(lane.partition)].openBytes
        guard open > 0, open + bytes > limits.batchBytes else { return false }
        close(lane)
        return markReady(lane, now: now())
    }

    private mutating func number(of topic: String) -> Int? {
        if let lastTopic, lastTopic.name == topic { return lastTopic.number }
        guard let number = numbers[topic] else { return nil }
        lastTopic = (topic, number)
        return number
    }

    /// A bound on what the record takes up in its batch: the varints and lengths come to 25 or less.
    private static func bytes(
        key: UnsafeRawBufferPointer?, value: UnsafeRawBufferPointer?,
        headers: [Records.RecordHeader]
    ) -> Int {
        var bytes = 25 + (key?.count ?? 0) + (value?.count ?? 0)
        for header in headers {
            bytes += 10 + header.name.utf8.count + (header.value?.readableBytes ?? 0)
        }
        return bytes
    }

    /// Stays with one partition until its batch is closed, then takes the next that is not behind.
    private mutating func stickyPartition(of number: Int) -> Int32 {
        if let sticky = topics[number].sticky { return sticky }
        let count = topics[number].queues.count
        let start = topics[number].nextSticky % count
        var best = start
        for step in 0..<count {
            let index = (start + step) % count
            let bytes = topics[number].queues[index].bytes
            if bytes < topics[number].queues[best].bytes { best = index }
            if bytes < limits.batchBytes {
                best = index
                break
            }
        }
        topics[number].nextSticky = best + 1
        topics[number].sticky = Int32(best)
        return Int32(best)
    }

    /// Opens a batch; true when the sender has to be told of a new end of lingering.
    private mutating func open(_ lane: Lane, now: NIODeadline) -> Bool {
        let batch = Batch(createdAt: now, generation: generation)
        topics[lane.topic].queues[Int(lane.partition)].open = batch
        unfinished[generation, default: 0] += 1
        guard limits.linger > .zero else { return false }
        lingering.append((now + limits.linger, lane))
        return lingering.count == 1
    }

    /// Moves the open batch to those that wait to leave; records without a key move on.
    private mutating func close(_ lane: Lane) {
        let index = Int(lane.partition)
        // In place, while this is the only owner: a copy elsewhere would mean copying the bytes.
        topics[lane.topic].queues[index].open?.encode()
        guard let batch = topics[lane.topic].queues[index].open.take() else { return }
        topics[lane.topic].queues[index].closed.append(batch)
        topics[lane.topic].queues[index].openBytes = 0
        if topics[lane.topic].sticky == lane.partition { topics[lane.topic].sticky = nil }
    }

    // MARK: Leaving

    /// Lists the partition as ready if its head may leave; true if it was not listed before.
    private mutating func markReady(_ lane: Lane, now: NIODeadline) -> Bool {
        let index = Int(lane.partition)
        guard !topics[lane.topic].queues[index].isBusy, !topics[lane.topic].queues[index].isReady,
            !topics[lane.topic].queues[index].closed.isEmpty || mayOpenLeave(lane, now: now)
        else { return false }
        topics[lane.topic].queues[index].isReady = true
        ready.append(lane)
        return true
    }

    /// Whether there is an open batch that need not, or need no longer, wait for company.
    private func mayOpenLeave(_ lane: Lane, now: NIODeadline) -> Bool {
        guard let createdAt = topics[lane.topic].queues[Int(lane.partition)].open?.createdAt else {
            return false
        }
        return limits.linger == .zero || flushes > 0 || createdAt + limits.linger <= now
    }

    /// Takes the next partition that may send, and its batches: one, or as many as fit a request.
    ///
    /// The partition is busy until `finish` is called for what was taken.
    mutating func takeReady(now: NIODeadline) -> (lane: Lane, batches: [Batch])? {
        guard let lane = ready.popFirst() else { return nil }
        let index = Int(lane.partition)
        topics[lane.topic].queues[index].isReady = false
        topics[lane.topic].queues[index].isBusy = true
        var taken: [Batch] = []
        var bytes = 0
        while true {
            let hasClosed = !topics[lane.topic].queues[index].closed.isEmpty
            if !hasClosed, mayOpenLeave(lane, now: now) { close(lane) }
            guard let first = topics[lane.topic].queues[index].closed.first,
                taken.isEmpty || bytes + first.bytes <= limits.maxRequestBytes
            else { return (lane, taken) }
            bytes += first.bytes
            taken.append(topics[lane.topic].queues[index].closed.removeFirst())
        }
    }

    /// Takes note that a batch is acknowledged or failed, and gives back its memory.
    mutating func release(bytes: Int, generation: Int, of lane: Lane) {
        usedBytes -= bytes
        topics[lane.topic].queues[Int(lane.partition)].bytes -= bytes
        let left = unfinished[generation, default: 1] - 1
        unfinished[generation] = left == 0 ? nil : left
    }

    /// Ends the partition's busy time; true when it is ready again at once.
    mutating func finish(_ lane: Lane, now: NIODeadline) -> Bool {
        topics[lane.topic].queues[Int(lane.partition)].isBusy = false
        return markReady(lane, now: now)
    }

    /// Makes partitions ready whose open batch has waited long enough; returns when to look again.
    mutating func endLingering(now: NIODeadline) -> NIODeadline? {
        while let first = lingering.first {
            if first.until > now { return first.until }
            lingering.removeFirst()
            _ = markReady(first.lane, now: now)
        }
        return nil
    }

    // MARK: Flushing

    /// Lets everything leave without lingering; the result is for `isFlushed` and `endFlush`.
    mutating func beginFlush(now: NIODeadline) -> Int {
        let flush = generation
        generation += 1
        flushes += 1
        for topic in topics.indices {
            for partition in topics[topic].queues.indices {
                _ = markReady(Lane(topic: topic, partition: Int32(partition)), now: now)
            }
        }
        return flush
    }

    /// Whether every record appended before `beginFlush` is acknowledged or failed.
    func isFlushed(_ flush: Int) -> Bool {
        unfinished.keys.allSatisfy { $0 > flush }
    }

    mutating func endFlush() {
        flushes -= 1
    }
}
