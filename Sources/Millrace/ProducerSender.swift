internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC

/// Sends the accumulator's batches to the partitions' leaders, until they are acknowledged.
final class ProducerSender: @unchecked Sendable {
    // Sendable: everything mutable is touched on the client's event loop only; `queue` has its lock.

    private let core: ClientCore
    private let queue: ProducerQueue
    private let configuration: ProducerConfiguration
    private let wireAcks: WireAcks
    /// What is under way, or waits to be tried again: at most one a partition.
    private var deliveries: [Accumulator.Lane: Delivery] = [:]
    private var lingerTimer: Scheduled<Void>?
    private var watch: RepeatedTask?

    init(core: ClientCore, queue: ProducerQueue, configuration: ProducerConfiguration) {
        self.core = core
        self.queue = queue
        self.configuration = configuration
        wireAcks =
            switch configuration.acks {
            case .all: .all
            case .leader: .leader
            case .none: .none
            }
    }

    /// Starts following metadata.
    ///
    /// On the loop, once.
    func start() {
        core.observe(self) { [unowned self] in metadataChanged() }
        watch = core.eventLoop.scheduleRepeatedTask(
            initialDelay: .milliseconds(500), delay: .milliseconds(500)
        ) { [weak self] _ in self?.lookForSilentLeaders() }
    }

    /// Fails what is left and stops.
    ///
    /// On the loop.
    func stop() {
        core.stopObserving(self)
        watch?.cancel()
        lingerTimer?.cancel()
        for delivery in deliveries.values.sorted(by: { $0.partition < $1.partition }) {
            delivery.call?.cancel()
            delivery.attempt += 1
            fail(delivery, first: delivery.batches.count, .closed)
            finish(delivery)
        }
        drain()
    }

    /// Takes everything that may leave and sends it.
    ///
    /// On the loop.
    func drain() {
        let now = NIODeadline.now()
        let (work, next) = queue.takeReady(now: now)
        for (lane, topic, batches) in work {
            let delivery = Delivery(
                lane: lane, topic: topic, batches: batches,
                compression: configuration.compression.codec)
            deliveries[lane] = delivery
            dispatch(delivery)
        }
        lingerTimer?.cancel()
        lingerTimer = next.map { deadline in
            core.eventLoop.scheduleTask(deadline: deadline) { [weak self] in self?.drain() }
        }
    }

    // MARK: One delivery

    /// Sends what `delivery` holds to the leader known now, or finds out who that is.
    private func dispatch(_ delivery: Delivery) {
        guard !queue.isStopped else {
            fail(delivery, first: delivery.batches.count, .closed)
            return finish(delivery)
        }
        let now = NIODeadline.now()
        expire(delivery, now: now)
        guard let first = delivery.batches.first else { return finish(delivery) }
        guard let leader = core.metadata.leader(of: delivery.partition, in: delivery.topic) else {
            let error = RPCError(
                .leaderNotAvailable,
                "partition \(delivery.topic)-\(delivery.partition) has no leader now")
            return retry(delivery, after: error, refresh: true)
        }
        delivery.sentCount = delivery.sendsSingly ? 1 : delivery.batches.count
        delivery.attempt += 1
        delivery.sentAt = now
        delivery.sentEpoch = leader.epoch
        let left = first.createdAt + .init(configuration.deliveryTimeout) - now
        let timeout = min(core.configuration.requestTimeout, .nanoseconds(left.nanoseconds))
        let attempt = delivery.attempt
        do throws(RPCError) {
            let pieces = try ProduceRequestCoding.pieces(
                topic: delivery.topic, partition: delivery.partition, acks: wireAcks,
                timeout: timeout, batches: delivery.batches.prefix(delivery.sentCount).map(\.bytes))
            // A little longer than the broker's own, so that its answer, which says more, wins.
            let call = core.connection(to: leader.address).unary(
                ProduceRequestCoding.path, pieces, timeout: timeout + .milliseconds(500)
            ) { result in
                guard delivery.attempt == attempt else { return }  // An attempt given up since.
                delivery.answeredAttempt = attempt
                delivery.call = nil
                self.answered(delivery, result, by: leader.address)
            }
            if delivery.answeredAttempt < attempt { delivery.call = call }
        } catch {
            fail(delivery, first: delivery.sentCount, MillraceError(error))
            dispatch(delivery)
        }
    }

    private func answered(
        _ delivery: Delivery, _ result: Result<ByteBuffer, RPCError>, by address: BrokerAddress
    ) {
        do throws(RPCError) {
            let answer = try result.get().decoding(WireProduceResponse.self)
            succeed(delivery, baseOffset: try Self.baseOffset(in: answer))
            if delivery.batches.isEmpty { finish(delivery) } else { dispatch(delivery) }
        } catch {
            if error.isConnectionFailure { core.noteFailure(at: address) }
            failed(delivery, error)
        }
    }

    private static func baseOffset(in answer: WireProduceResponse) throws(RPCError) -> Int64 {
        guard let result = answer.results.first else { return -1 }
        guard result.error.isEmpty else {
            throw RPCError(ErrorCode(name: result.error) ?? .unknownServerError, result.message)
        }
        return result.hasBaseOffset ? result.baseOffset : -1
    }

    private func failed(_ delivery: Delivery, _ error: RPCError) {
        if error.leavesOutcomeUnknown {
            for index in delivery.batches.indices.prefix(delivery.sentCount) {
                delivery.batches[index].isOutcomeUnknown = true
            }
        }
        switch FailureKind(error) {
        case .permanent:
            if delivery.sentCount > 1, error.code.map(Self.mayConcernOneBatch) == true {
                delivery.sendsSingly = true
            } else {
                fail(delivery, first: delivery.sentCount, MillraceError(error))
            }
            dispatch(delivery)
        case .transient:
            retry(delivery, after: error, refresh: false)
        case .wrongServer:
            retry(delivery, after: error, refresh: true)
        }
    }

    /// Whether the broker may have refused a whole request because of one of its batches.
    private static func mayConcernOneBatch(_ code: ErrorCode) -> Bool {
        switch code {
        case .messageTooLarge, .recordListTooLarge, .invalidRecord, .invalidTimestamp: true
        default: false
        }
    }

    /// Sends again after a pause, or as soon as metadata names a newer leader.
    private func retry(_ delivery: Delivery, after error: RPCError, refresh: Bool) {
        delivery.failures += 1
        delivery.lastError = error
        if let unknown = unknownTopicError(delivery) {
            fail(delivery, first: delivery.batches.count, unknown)
            return finish(delivery)
        }
        delivery.timer = core.eventLoop.scheduleTask(
            in: .init(core.backoff.pause(after: delivery.failures))
        ) {
            delivery.timer = nil
            guard refresh else { return self.dispatch(delivery) }
            let attempt = delivery.attempt
            self.core.refresh { _ in
                guard delivery.attempt == attempt, delivery.call == nil else { return }
                self.dispatch(delivery)
            }
        }
        // The first time, ask at once: most often the new leader is known already.
        if refresh, delivery.failures == 1 { core.refresh { _ in } }
    }

    /// The error for a topic that brokers have denied knowing for longer than one takes to get around.
    private func unknownTopicError(_ delivery: Delivery) -> MillraceError? {
        guard core.metadata.topicErrors[delivery.topic] == ErrorCode.unknownTopicOrPartition.name
        else {
            delivery.unknownSince = nil
            return nil
        }
        let since = delivery.unknownSince ?? .now()
        delivery.unknownSince = since
        guard since + .init(core.configuration.unknownTopicGrace) < .now() else { return nil }
        return ClientCore.unknownTopic(
            delivery.topic, ErrorCode.unknownTopicOrPartition.name)
    }

    // MARK: Leaders that move

    private func metadataChanged() {
        for (topic, known) in core.metadata.topics {
            queue.setPartitionCount(known.partitions.count, of: topic)
        }
        for delivery in Array(deliveries.values) {
            guard
                let leader = core.metadata.leader(of: delivery.partition, in: delivery.topic),
                leader.epoch > delivery.sentEpoch
            else { continue }
            if let timer = delivery.timer {
                timer.cancel()
                delivery.timer = nil
                dispatch(delivery)
            } else if let call = delivery.call {
                // The old leader can't commit any more (P17), so there is nothing to wait for; what
                // it replicated before may be in the new leader's log all the same.
                delivery.attempt += 1
                delivery.call = nil
                call.cancel()
                for index in delivery.batches.indices.prefix(delivery.sentCount) {
                    delivery.batches[index].isOutcomeUnknown = true
                }
                dispatch(delivery)
            }
        }
    }

    /// A leader that is paused or cut off says nothing: others know when it has been replaced.
    private func lookForSilentLeaders() {
        let limit = NIODeadline.now() - .seconds(1)
        if deliveries.values.contains(where: { $0.call != nil && $0.sentAt < limit }) {
            core.refresh { _ in }
        }
    }

    // MARK: Ends

    private func succeed(_ delivery: Delivery, baseOffset: Int64) {
        var offset = baseOffset
        let done = delivery.batches.prefix(delivery.sentCount)
        delivery.batches.removeFirst(delivery.sentCount)
        delivery.failures = 0
        delivery.lastError = nil
        for batch in done {
            report(delivery, batch, .success(offset))
            if offset >= 0 { offset += Int64(batch.recordCount) }
        }
    }

    private func fail(_ delivery: Delivery, first count: Int, _ error: MillraceError) {
        let failed = delivery.batches.prefix(count)
        delivery.batches.removeFirst(failed.count)
        for batch in failed {
            let known = MillraceError(
                code: error.code, message: error.message, isRetriable: error.isRetriable,
                isOutcomeUnknown: batch.isOutcomeUnknown)
            report(delivery, batch, .failure(known))
        }
    }

    /// Fails the batches whose time is up.
    private func expire(_ delivery: Delivery, now: NIODeadline) {
        let timeout = TimeAmount(configuration.deliveryTimeout)
        let count = delivery.batches.prefix { $0.createdAt + timeout <= now }.count
        guard count > 0 else { return }
        let reason = delivery.lastError.map { "; last: \($0.message)" } ?? ""
        let error = MillraceError(
            .requestTimedOut, "not acknowledged within \(configuration.deliveryTimeout)\(reason)")
        fail(delivery, first: count, error)
    }

    private func report(
        _ delivery: Delivery, _ batch: Delivery.Batch, _ result: Result<Int64, MillraceError>
    ) {
        for (position, completion) in batch.completions {
            completion(
                result.map {
                    RecordMetadata(
                        topic: delivery.topic, partition: delivery.partition,
                        offset: $0 < 0 ? $0 : $0 + Int64(position))
                })
        }
        configuration.onDelivery?(
            DeliveryReport(
                topic: delivery.topic, partition: delivery.partition,
                recordCount: batch.recordCount, bytes: batch.accountedBytes, result: result))
        queue.release(batch, of: delivery.lane)
    }

    private func finish(_ delivery: Delivery) {
        delivery.timer?.cancel()
        deliveries[delivery.lane] = nil
        if queue.finish(delivery.lane, now: .now()) { core.eventLoop.execute { self.drain() } }
    }
}
