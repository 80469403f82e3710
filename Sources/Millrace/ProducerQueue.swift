internal import Essentials
internal import NIOCore
internal import Records
internal import Synchronization

/// The accumulator behind a lock, with those who wait for room in it or for a flush.
///
/// A lock, because callers on any thread encode their records straight into a batch here, one short
/// critical section a record, while the sender takes whole batches.
final class ProducerQueue: Sendable {
    typealias Waiter = CheckedContinuation<Void, Never>

    enum Appended {
        case accepted(wake: Bool)
        case bufferFull
        case unknownTopic
        case failed(MillraceError)
    }

    private struct State {
        var accumulator: Accumulator
        var isStopped = false
        /// The sender has been told to look, and has not looked yet.
        var isWoken = false
        var roomWaiters: [Waiter] = []
        var flushWaiters: [(flush: Int, waiter: Waiter)] = []
    }

    private let state: Mutex<State>
    private let limits: Accumulator.Limits
    private let maxRecordBytes: Int

    init(_ configuration: ProducerConfiguration) {
        limits = Accumulator.Limits(
            batchBytes: configuration.batchBytes, linger: .init(configuration.linger),
            maxRequestBytes: configuration.maxRequestBytes, bufferBytes: configuration.bufferBytes)
        maxRecordBytes = configuration.maxRecordBytes
        state = Mutex(State(accumulator: Accumulator(limits: limits)))
    }

    var isStopped: Bool { state.withLock { $0.isStopped } }

    // MARK: For callers, on any thread

    func append(
        topic: String, partition: Int32?, key: UnsafeRawBufferPointer?,
        value: UnsafeRawBufferPointer?, headers: [Records.RecordHeader], timestamp: Int64,
        completion: Accumulator.Completion?
    ) -> Appended {
        let bytes = (key?.count ?? 0) + (value?.count ?? 0)
        guard bytes <= maxRecordBytes else {
            return .failed(
                MillraceError(
                    .messageTooLarge,
                    "a record of \(bytes) bytes is larger than maxRecordBytes (\(maxRecordBytes))"))
        }
        return state.withLock { state in
            guard !state.isStopped else { return .failed(.closed) }
            let appended = state.accumulator.append(
                topic: topic, partition: partition, key: key, value: value, headers: headers,
                timestamp: timestamp, completion: completion, now: { .now() })
            switch appended {
            case .accepted(let wake):
                guard wake, !state.isWoken else { return .accepted(wake: false) }
                state.isWoken = true
                return .accepted(wake: true)
            case .bufferFull:
                return .bufferFull
            case .unknownTopic:
                return .unknownTopic
            case .unknownPartition(let count):
                return .failed(
                    ClientCore.noPartition(partition ?? 0, of: topic, count: count))
            }
        }
    }

    func knows(_ topic: String) -> Bool {
        state.withLock { $0.accumulator.knows(topic) }
    }

    func setPartitionCount(_ count: Int, of topic: String, addingTopic: Bool = false) {
        state.withLock { state in
            guard addingTopic || state.accumulator.knows(topic) else { return }
            state.accumulator.setPartitionCount(count, of: topic)
        }
    }

    /// Returns when a quarter of the buffer is free, or the producer has stopped.
    func waitForRoom() async {
        await withCheckedContinuation { (waiter: Waiter) in
            let isOver = state.withLock { state in
                if state.isStopped || hasRoom(state) { return true }
                state.roomWaiters.append(waiter)
                return false
            }
            if isOver { waiter.resume() }
        }
    }

    private func hasRoom(_ state: borrowing State) -> Bool {
        state.accumulator.usedBytes <= limits.bufferBytes / 4 * 3
    }

    /// Returns when everything appended before is acknowledged or failed; `wake` tells the sender.
    func flush(wake: () -> Void) async {
        let flush = state.withLock { $0.accumulator.beginFlush(now: .now()) }
        wake()
        await withCheckedContinuation { (waiter: Waiter) in
            let isOver = state.withLock { state in
                if state.accumulator.isFlushed(flush) { return true }
                state.flushWaiters.append((flush, waiter))
                return false
            }
            if isOver { waiter.resume() }
        }
        state.withLock { $0.accumulator.endFlush() }
    }

    /// Refuses everything from now on; false when that was so before.
    func stop() -> Bool {
        let (wasStopped, waiters) = state.withLock { state in
            defer {
                state.isStopped = true
                state.roomWaiters = []
                // Nothing lingers any more, so that the sender finds, and fails, all that is left.
                _ = state.accumulator.beginFlush(now: .now())
            }
            return (state.isStopped, state.roomWaiters)
        }
        for waiter in waiters { waiter.resume() }
        return !wasStopped
    }

    // MARK: For the sender, on its loop

    /// Takes all that may leave, and says when to look again for batches that linger.
    func takeReady(now: NIODeadline) -> (
        work: [(lane: Accumulator.Lane, topic: String, batches: [Accumulator.Batch])],
        next: NIODeadline?
    ) {
        state.withLock { state in
            state.isWoken = false
            let next = state.accumulator.endLingering(now: now)
            var work: [(Accumulator.Lane, String, [Accumulator.Batch])] = []
            while let (lane, batches) = state.accumulator.takeReady(now: now) {
                work.append((lane, state.accumulator.name(of: lane), batches))
            }
            return (work, next)
        }
    }

    func release(_ batch: Delivery.Batch, of lane: Accumulator.Lane) {
        let waiters = state.withLock { state -> [Waiter] in
            state.accumulator.release(
                bytes: batch.accountedBytes, generation: batch.generation, of: lane)
            var waiters: [Waiter] = []
            if hasRoom(state) {
                waiters = state.roomWaiters
                state.roomWaiters = []
            }
            if !state.flushWaiters.isEmpty {
                let accumulator = state.accumulator
                waiters += state.flushWaiters.filter { accumulator.isFlushed($0.flush) }
                    .map(\.waiter)
                state.flushWaiters.removeAll { accumulator.isFlushed($0.flush) }
            }
            return waiters
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Ends the partition's request; true when it has more to send.
    func finish(_ lane: Accumulator.Lane, now: NIODeadline) -> Bool {
        state.withLock { $0.accumulator.finish(lane, now: now) }
    }
}
