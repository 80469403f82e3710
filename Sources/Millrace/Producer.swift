internal import Essentials
internal import NIOCore
internal import Records

/// Sends records in batches to the leaders of their partitions.
///
/// **Order**: records of one partition are appended in the order in which they were sent. One request
/// a partition is under way at a time; what gathers meanwhile leaves together with the next one.
///
/// **Retries**: failures that may pass (a leader that moves or dies, too few replicas, a lost
/// connection) are tried again until `deliveryTimeout`. When a leader dies after it took a batch and
/// before it answered, nobody can tell whether the batch was appended; it is sent again, so it may be
/// there *twice*, and a first attempt that was held up on its way may even land after later records.
/// No acknowledged record is lost, but duplicates are possible until producers are idempotent.
///
/// Usable from any thread. Call `close()` when done.
public final class Producer: Sendable {
    private let core: ClientCore
    private let queue: ProducerQueue
    private let sender: ProducerSender

    /// - Throws: `INVALID_ARGUMENT` when the configuration contradicts itself.
    public init(
        client: MillraceClient, configuration: ProducerConfiguration = .init()
    ) throws(MillraceError) {
        try configuration.validate()
        core = client.core
        queue = ProducerQueue(configuration)
        sender = ProducerSender(core: client.core, queue: queue, configuration: configuration)
        guard core.onLoop({ [sender] in sender.start() }) else { throw .closed }
    }

    /// Sends one record and waits for its acknowledgement; first for room, when the buffer is full.
    ///
    /// Cancelling the task does not take the record back.
    public func send(_ record: ProducerRecord) async throws(MillraceError) -> RecordMetadata {
        while true {
            // nil: no room, or the topic is not known yet.
            let outcome: Result<RecordMetadata, MillraceError>? =
                await withCheckedContinuation { waiting in
                    do throws(MillraceError) {
                        let isAccepted = try enqueue(record) { waiting.resume(returning: $0) }
                        if !isAccepted { waiting.resume(returning: nil) }
                    } catch {
                        waiting.resume(returning: .failure(error))
                    }
                }
            if let outcome { return try outcome.get() }
            try await waitUntilReady(for: record.topic)
        }
    }

    /// Adds a record to its partition's batch and returns at once.
    ///
    /// For many records: no task and no suspension for each. Whoever needs no answer for each record
    /// leaves `completion` out and counts `ProducerConfiguration.onDelivery`.
    ///
    /// - Parameter completion: called once, on the client's event loop, with the record's offset or
    ///   why it failed; must not block. Not called when the result is false or an error is thrown.
    /// - Returns: false when the buffer is full or the topic is not known yet: `waitUntilReady` first.
    /// - Throws: what no waiting helps against: a record too large, a partition that does not exist.
    public func enqueue(
        _ record: ProducerRecord,
        completion: (@Sendable (Result<RecordMetadata, MillraceError>) -> Void)? = nil
    ) throws(MillraceError) -> Bool {
        let headers = record.headers.map {
            Records.RecordHeader(name: $0.name, value: $0.value)
        }
        let appended = record.key.withBytes { key in
            record.value.withBytes { value in
                queue.append(
                    topic: record.topic, partition: record.partition, key: key, value: value,
                    headers: headers, timestamp: record.timestamp ?? Self.now(),
                    completion: completion)
            }
        }
        return try accept(appended)
    }

    /// The same for bytes in the caller's memory, which are copied before this returns.
    public func enqueue(
        topic: String, partition: Int32? = nil, key: UnsafeRawBufferPointer? = nil,
        value: UnsafeRawBufferPointer?, timestamp: Int64? = nil,
        completion: (@Sendable (Result<RecordMetadata, MillraceError>) -> Void)? = nil
    ) throws(MillraceError) -> Bool {
        try accept(
            queue.append(
                topic: topic, partition: partition, key: key, value: value, headers: [],
                timestamp: timestamp ?? Self.now(), completion: completion))
    }

    /// Waits until the topic's partitions are known and the buffer has room.
    ///
    /// - Throws: `UNKNOWN_TOPIC_OR_PARTITION`, or `NETWORK_EXCEPTION` when no broker answers.
    public func waitUntilReady(for topic: String) async throws(MillraceError) {
        if !queue.knows(topic) {
            let described = try await core.topic(topic)
            queue.setPartitionCount(described.partitions.count, of: topic, addingTopic: true)
        }
        await queue.waitForRoom()
        guard !queue.isStopped else { throw .closed }
    }

    /// Waits until every record sent before is acknowledged or has failed; none lingers.
    public func flush() async {
        await queue.flush { [core, sender] in _ = core.onLoop { sender.drain() } }
    }

    /// Flushes, then stops.
    ///
    /// What is sent afterwards fails with `CLIENT_CLOSED`.
    public func close() async {
        await flush()
        await abandon()
    }

    /// Stops at once: what is not yet acknowledged fails with `CLIENT_CLOSED`, its outcome unknown
    /// where a request was under way.
    public func abandon() async {
        guard queue.stop() else { return }
        await withCheckedContinuation { (waiting: CheckedContinuation<Void, Never>) in
            let isAccepted = core.onLoop { [sender] in
                sender.stop()
                waiting.resume()
            }
            if !isAccepted { waiting.resume() }
        }
    }

    private func accept(_ appended: ProducerQueue.Appended) throws(MillraceError) -> Bool {
        switch appended {
        case .accepted(let wake):
            if wake { _ = core.onLoop { [sender] in sender.drain() } }
            return true
        case .bufferFull, .unknownTopic:
            return false
        case .failed(let error):
            throw error
        }
    }

    /// Milliseconds since 1970.
    private static func now() -> Int64 { WallClock.milliseconds() }
}

extension ByteBuffer? {
    fileprivate func withBytes<Result>(
        _ body: (UnsafeRawBufferPointer?) -> Result
    ) -> Result {
        switch self {
        case .some(let buffer): buffer.withUnsafeReadableBytes { body($0) }
        case .none: body(nil)
        }
    }
}
