internal import Essentials
internal import NIOCore
internal import RPC
internal import SwiftProtobuf

/// Calls that may be answered by any broker, or only by a partition's leader, with retries.
extension ClientCore {
    /// Waits until the topic's partitions are known.
    ///
    /// - Throws: `UNKNOWN_TOPIC_OR_PARTITION` after `unknownTopicGrace`, `NETWORK_EXCEPTION` after
    ///   `metadataTimeout`.
    func topic(_ name: String) async throws(MillraceError) -> ClusterMetadata.Topic {
        let start = NIODeadline.now()
        var failures = 0
        while true {
            let known: ClusterMetadata.Topic? = try await wait { done in
                self.want(name)
                done(.success(self.metadata.topics[name]))
            }
            if let known { return known }
            let error: MillraceError? = try await wait { done in
                self.refresh { done(.success($0)) }
            }
            let (topic, topicError): (ClusterMetadata.Topic?, String?) = try await wait { done in
                done(.success((self.metadata.topics[name], self.metadata.topicErrors[name])))
            }
            if let topic { return topic }
            let isUnknown = error == nil && topicError == ErrorCode.unknownTopicOrPartition.name
            let patience =
                isUnknown ? configuration.unknownTopicGrace : configuration.metadataTimeout
            failures += 1
            let pause = backoff.pause(after: failures)
            if .now() + .init(pause) > start + .init(patience) {
                throw error
                    ?? Self.unknownTopic(name, topicError ?? ErrorCode.leaderNotAvailable.name)
            }
            try await Self.sleep(pause)
        }
    }

    /// Calls any broker, then another one, until one answers or fails for good.
    ///
    /// - Parameters:
    ///   - isRepeatable: whether a call whose outcome is unknown may be sent again.
    ///   - attemptTimeout: how long one broker may take before another one is asked.
    ///   - settle: told of the failure of a call that was sent again; the answer if the failure means
    ///     that an earlier attempt did the work, though its answer was lost.
    func callAny<Request: Message & Sendable, Answer: Message & Sendable>(
        _ path: String, _ request: Request, returning: Answer.Type = Answer.self,
        timeout: Duration? = nil, isRepeatable: Bool = true,
        attemptTimeout: Duration = .seconds(2),
        settle: (MillraceError) async -> Answer? = { _ in nil }
    ) async throws(MillraceError) -> Answer {
        let deadline = NIODeadline.now() + .init(timeout ?? configuration.metadataTimeout)
        var failures = 0
        var mayBeDone = false
        while true {
            var last: MillraceError?
            for address in try await wait(for: { $0(.success(self.candidates())) }) {
                // A paused broker must not use up the time in which another one would answer.
                let attempt =
                    isRepeatable ? min(deadline, .now() + .init(attemptTimeout)) : deadline
                switch try await call(path, request, at: address, until: attempt)
                    as Result<Answer, RPCError>
                {
                case .success(let answer):
                    // So that the bootstrap list alone is not all that is ever asked.
                    _ = onLoop { if self.metadata.brokers.isEmpty { self.refresh { _ in } } }
                    return answer
                case .failure(let error):
                    let isUnknown = error.leavesOutcomeUnknown
                    let mayRepeat = isRepeatable || !isUnknown
                    guard FailureKind(error) != .permanent, mayRepeat else {
                        let failure = MillraceError(
                            error, isOutcomeUnknown: !isRepeatable && isUnknown)
                        if mayBeDone, let answer = await settle(failure) { return answer }
                        throw failure
                    }
                    if isUnknown { mayBeDone = true }
                    _ = onLoop { self.noteFailure(at: address) }
                    last =
                        error.isConnectionFailure
                        ? unreachable(error) : MillraceError(error)
                }
                if NIODeadline.now() >= deadline { break }
            }
            failures += 1
            let pause = backoff.pause(after: failures)
            if .now() + .init(pause) >= deadline { throw last ?? unreachable(nil) }
            try await Self.sleep(pause)
        }
    }

    /// Calls the partition's leader, following it when it moves.
    ///
    /// - Parameter request: builds the request for a leader epoch.
    func callLeader<Request: Message & Sendable, Answer: Message & Sendable>(
        of partition: Int32, in topicName: String, _ path: String,
        returning: Answer.Type = Answer.self, timeout: Duration? = nil,
        _ request: @Sendable (LeaderEpoch) -> Request
    ) async throws(MillraceError) -> Answer {
        let deadline = NIODeadline.now() + .init(timeout ?? configuration.metadataTimeout)
        var failures = 0
        while true {
            let topic = try await topic(topicName)
            guard topic.partitions.indices.contains(Int(partition)) else {
                throw Self.noPartition(partition, of: topicName, count: topic.partitions.count)
            }
            let leader = try await wait { done in
                done(.success(self.metadata.leader(of: partition, in: topicName)))
            }
            var last = MillraceError(
                .leaderNotAvailable, "partition \(topicName)-\(partition) has no leader now")
            if let leader {
                switch try await call(
                    path, request(leader.epoch), at: leader.address, until: deadline)
                    as Result<Answer, RPCError>
                {
                case .success(let answer):
                    return answer
                case .failure(let error):
                    last = MillraceError(error)
                    guard FailureKind(error) != .permanent else { throw last }
                }
            }
            failures += 1
            let pause = backoff.pause(after: failures)
            if .now() + .init(pause) >= deadline { throw last }
            try await Self.sleep(pause)
            let _: Void = try await wait { done in self.refresh { _ in done(.success(())) } }
        }
    }

    /// Calls one node, and no other.
    func callAddress<Request: Message & Sendable, Answer: Message & Sendable>(
        _ address: BrokerAddress, _ path: String, _ request: Request,
        returning: Answer.Type = Answer.self
    ) async throws(MillraceError) -> Answer {
        let deadline = NIODeadline.now() + .init(configuration.requestTimeout)
        switch try await call(path, request, at: address, until: deadline)
            as Result<Answer, RPCError>
        {
        case .success(let answer): return answer
        case .failure(let error): throw MillraceError(error)
        }
    }

    /// One attempt: fails only when the client is closed; what the call came to is in the result.
    private func call<Request: Message & Sendable, Answer: Message & Sendable>(
        _ path: String, _ request: Request, at address: BrokerAddress, until deadline: NIODeadline
    ) async throws(MillraceError) -> Result<Answer, RPCError> {
        let bytes: ByteBuffer
        do throws(RPCError) {
            bytes = try ByteBuffer.encoding(request)
        } catch {
            return .failure(error)
        }
        let result: Result<ByteBuffer, RPCError> = try await wait { done in
            let left = Duration.nanoseconds((deadline - .now()).nanoseconds)
            let timeout = max(min(left, self.configuration.requestTimeout), .milliseconds(10))
            _ = self.connection(to: address).unary(path, [bytes], timeout: timeout) {
                done(.success($0))
            }
        }
        return result.flatMap { bytes in
            do throws(RPCError) {
                return .success(try bytes.decoding(Answer.self))
            } catch {
                return .failure(error)
            }
        }
    }

    static func noPartition(_ partition: Int32, of topic: String, count: Int) -> MillraceError {
        MillraceError(
            code: ErrorCode.unknownTopicOrPartition.name,
            message: "topic '\(topic)' has no partition \(partition); its partitions are"
                + " 0 to \(count - 1)")
    }

    private static func sleep(_ pause: Duration) async throws(MillraceError) {
        do {
            try await Task.sleep(for: pause)
        } catch {
            throw MillraceError(
                code: "CANCELLED", message: "the task was cancelled while it waited to try again")
        }
    }
}

extension TimeAmount {
    init(_ duration: Duration) {
        self = .nanoseconds(duration.nanoseconds)
    }
}
