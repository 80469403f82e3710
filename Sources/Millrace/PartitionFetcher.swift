internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC
internal import Records

/// Fetches one partition from its leader, one request at a time, ahead of the reader.
///
/// It is *asking* (a call is under way), *waiting* to try again (`timer`), *paused* (the reader is
/// behind), or *ended*. First it finds out its offsets, then it fetches until it ends.
final class PartitionFetcher: @unchecked Sendable {
    // Sendable: everything mutable is touched on the client's event loop only.

    private let number: Int
    private let assignment: ConsumerAssignment
    private let core: ClientCore
    private let buffer: ConsumerBuffer
    private let configuration: ConsumerConfiguration
    private let ended: (MillraceError?) -> Void

    /// The next record wanted; `nil` until the start position has been looked up.
    private var position: Offset?
    /// Where `stopsAtEnd` ends; `nil` until it has been looked up.
    private var end: Offset?
    private var hasEnded = false
    private(set) var isPaused = false
    /// Bytes pushed and not yet consumed.
    private var bufferedBytes = 0

    private var call: CallToken?
    private var timer: Scheduled<Void>?
    private var attempt = 0
    /// The last attempt that was answered: an answer can come before `call` is there.
    private var answeredAttempt = 0
    private var askedAt = NIODeadline.uptimeNanoseconds(0)
    private var askedEpoch = LeaderEpoch.none
    private var failures = 0
    private var unknownSince: NIODeadline?
    private var outOfRangeAnswers = 0
    private var corruptAnswers = 0

    init(
        number: Int, assignment: ConsumerAssignment, core: ClientCore, buffer: ConsumerBuffer,
        configuration: ConsumerConfiguration, ended: @escaping (MillraceError?) -> Void
    ) {
        self.number = number
        self.assignment = assignment
        self.core = core
        self.buffer = buffer
        self.configuration = configuration
        self.ended = ended
    }

    private var name: String { "\(assignment.topic)-\(assignment.partition)" }

    // MARK: What comes from outside

    func start() {
        if case .offset(let offset) = assignment.start { position = Offset(offset) }
        proceed()
    }

    func stop() {
        hasEnded = true
        attempt += 1
        call?.cancel()
        call = nil
        timer?.cancel()
        timer = nil
    }

    func consumed(_ bytes: Int) {
        bufferedBytes -= bytes
    }

    func resume() {
        guard isPaused else { return }
        isPaused = false
        proceed()
    }

    func hasWaited(since limit: NIODeadline) -> Bool {
        call != nil && askedAt < limit
    }

    /// Turns to a newer leader at once, from the pause before another try or from an old leader.
    func metadataChanged() {
        guard !hasEnded,
            let leader = core.metadata.leader(of: assignment.partition, in: assignment.topic),
            leader.epoch > askedEpoch
        else { return }
        if timer != nil {
            timer?.cancel()
            timer = nil
            proceed()
        } else if let call {
            attempt += 1
            self.call = nil
            call.cancel()
            proceed()
        }
    }

    // MARK: Asking

    /// Takes the next step: look up what is missing, else fetch.
    private func proceed() {
        guard !hasEnded else { return }
        if position == nil {
            lookUp(assignment.start) { self.position = $0 }
        } else if configuration.stopsAtEnd, end == nil {
            lookUp(.latest) { self.end = $0 }
        } else if let position {
            if let end, position >= end { return finish(nil) }
            fetch(from: position)
        }
    }

    private func lookUp(_ position: StartPosition, _ found: @escaping @Sendable (Offset) -> Void) {
        var request = WireListOffsetsRequest()
        request.topic = assignment.topic
        request.partition = assignment.partition
        if configuration.isolation == .readCommitted { request.isolation = .readCommitted }
        switch position {
        case .earliest: request.earliest = true
        case .latest: request.latest = true
        case .timestamp(let time): request.timestamp = time
        case .offset(let offset): return found(Offset(offset))
        }
        ask("/millrace.v1.Broker/ListOffsets", timeout: core.configuration.requestTimeout) {
            epoch throws(RPCError) in
            request.currentLeaderEpoch = epoch.rawValue
            return try ByteBuffer.encoding(request)
        } answered: { bytes throws(RPCError) in
            let answer = try bytes.decoding(WireListOffsetsResponse.self)
            if answer.hasOffset {
                found(Offset(answer.offset))
                self.proceed()
            } else {
                // No record is that young: begin with the next one.
                self.lookUp(.latest, found)
            }
        }
    }

    private func fetch(from position: Offset) {
        guard bufferedBytes < configuration.prefetchBytes,
            bufferedBytes == 0 || buffer.bytes < configuration.bufferBytes
        else {
            isPaused = true
            return
        }
        var request = WireFetchRequest()
        request.topic = assignment.topic
        request.partition = assignment.partition
        request.offset = position.rawValue
        request.minBytes = 1
        request.maxBytes = Int32(clamping: configuration.fetchBytes)
        request.maxWaitMs = Int32(clamping: configuration.maxWait.milliseconds)
        if configuration.isolation == .readCommitted { request.isolation = .readCommitted }
        let timeout = configuration.maxWait + .seconds(10)
        ask(FetchAnswer.path, timeout: timeout) { epoch throws(RPCError) in
            request.currentLeaderEpoch = epoch.rawValue
            return try ByteBuffer.encoding(request)
        } answered: { bytes throws(RPCError) in
            try self.fetched(bytes, from: position)
            self.proceed()
        }
    }

    /// Sends a request to the leader; `answered` runs for its answer, unless that was given up.
    private func ask(
        _ path: String, timeout: Duration,
        request: (LeaderEpoch) throws(RPCError) -> ByteBuffer,
        answered: @escaping @Sendable (ByteBuffer) throws(RPCError) -> Void
    ) {
        guard let leader = core.metadata.leader(of: assignment.partition, in: assignment.topic)
        else {
            return failed(RPCError(.leaderNotAvailable, "partition \(name) has no leader now"))
        }
        attempt += 1
        let attempt = attempt
        askedAt = .now()
        askedEpoch = leader.epoch
        do throws(RPCError) {
            let bytes = try request(leader.epoch)
            let call = core.connection(to: leader.address).unary(path, [bytes], timeout: timeout) {
                [core] result in
                guard self.attempt == attempt else { return }  // An attempt given up since.
                self.answeredAttempt = attempt
                self.call = nil
                do throws(RPCError) {
                    let answer = try result.get()
                    self.failures = 0
                    try answered(answer)
                } catch {
                    if error.isConnectionFailure { core.noteFailure(at: leader.address) }
                    self.failed(error)
                }
            }
            if answeredAttempt < attempt { self.call = call }
        } catch {
            failed(error)
        }
    }

    // MARK: Answers

    /// Hands what came on to the reader, from `position` on.
    private func fetched(_ bytes: ByteBuffer, from position: Offset) throws(RPCError) {
        do {
            let answer = try FetchAnswer(decoding: bytes)
            let headers = try RecordBatches.headers(of: answer.batches)
            corruptAnswers = 0
            outOfRangeAnswers = 0
            guard let last = headers.last, last.nextOffset > position else { return }
            let records = ConsumedRecords(
                topic: assignment.topic, partition: assignment.partition, start: position,
                next: last.nextOffset, highWatermark: answer.highWatermark ?? last.nextOffset,
                batches: answer.batches, leavingOut: answer.aborted)
            self.position = last.nextOffset
            bufferedBytes += records.byteCount
            buffer.push(records, fetcher: number)
        } catch {
            corruptAnswers += 1
            throw RPCError(
                .corruptMessage,
                "the records of \(name) from offset \(position) on can't be read: \(error)")
        }
    }

    private func failed(_ error: RPCError) {
        if error.code == .offsetOutOfRange { return outOfRange(error) }
        if let unknown = unknownTopicError() { return finish(unknown) }
        switch FailureKind(error) {
        case .permanent:
            finish(MillraceError(error))
        case .transient where corruptAnswers >= 5:
            finish(MillraceError(error))
        case .transient, .wrongServer:
            tryAgain()
        }
    }

    /// A leader that has just changed may not know its high watermark yet, so ask again first.
    private func outOfRange(_ error: RPCError) {
        outOfRangeAnswers += 1
        guard outOfRangeAnswers > 2 else { return tryAgain() }
        outOfRangeAnswers = 0
        switch configuration.outOfRange {
        case .fail: finish(MillraceError(error))
        case .earliest: lookUp(.earliest) { self.position = $0 }
        case .latest: lookUp(.latest) { self.position = $0 }
        }
    }

    private func tryAgain() {
        failures += 1
        timer = core.eventLoop.scheduleTask(in: .init(core.backoff.pause(after: failures))) {
            self.timer = nil
            let attempt = self.attempt
            self.core.refresh { _ in
                if self.attempt == attempt, self.call == nil { self.proceed() }
            }
        }
        // The first time, ask at once: most often the new leader is known already.
        if failures == 1 { core.refresh { _ in } }
    }

    /// The error for a topic or partition that brokers have denied knowing for too long.
    private func unknownTopicError() -> MillraceError? {
        let error: MillraceError
        if let name = core.metadata.topicErrors[assignment.topic] {
            guard name == ErrorCode.unknownTopicOrPartition.name else { return nil }
            error = ClientCore.unknownTopic(assignment.topic, name)
        } else if let topic = core.metadata.topics[assignment.topic],
            !topic.partitions.indices.contains(Int(assignment.partition))
        {
            error = ClientCore.noPartition(
                assignment.partition, of: assignment.topic, count: topic.partitions.count)
        } else {
            unknownSince = nil
            return nil
        }
        let since = unknownSince ?? .now()
        unknownSince = since
        return since + .init(core.configuration.unknownTopicGrace) < .now() ? error : nil
    }

    private func finish(_ error: MillraceError?) {
        guard !hasEnded else { return }
        stop()
        ended(error)
    }
}
