import Essentials
import FoundationEssentials
import Logging
import NIOCore
import Protocol
import RPC

/// Tells the active controller which replicas can't be used, and which can again.
///
/// What is to be told is kept, the last word on each replica, until a controller has answered; asked
/// again and again until then, of whichever controller is active. On the control loop, but for `report`.
final class ReplicaReports: @unchecked Sendable {
    // Sendable: the constants are, and all else is touched on `eventLoop` only.

    typealias State = WireReportReplicasRequest.State
    /// Sends a request to the active controller.
    typealias Send =
        @Sendable (WireReportReplicasRequest) async throws -> WireReportReplicasResponse

    private struct Word {
        var state: State
        /// Tells this report from an earlier one of the same replica.
        var number: UInt64
    }

    private let nodeID: NodeID
    private let eventLoop: any EventLoop
    private let brokerEpoch: @Sendable () -> BrokerEpoch
    private let send: Send
    /// A controller has taken the report that a replica is damaged.
    private let onDamageKnown: @Sendable (TopicPartition) -> Void
    private let logger: Logger
    private var words: [TopicPartition: Word] = [:]
    private var lastNumber: UInt64 = 0
    private var isSending = false
    private var isClosed = false
    /// So that a controller that does not answer is logged once.
    private var isUnheard = false
    /// The active controller is of a release that can't be told such things.
    private var isBeyondIt = false

    /// The most in one request.
    private static let maxReplicas = 10_000
    private static let retryPause = TimeAmount.milliseconds(200)
    private static let longPause = TimeAmount.seconds(5)

    init(
        nodeID: NodeID, eventLoop: any EventLoop,
        brokerEpoch: @escaping @Sendable () -> BrokerEpoch,
        send: @escaping Send,
        onDamageKnown: @escaping @Sendable (TopicPartition) -> Void = { _ in }, logger: Logger
    ) {
        self.nodeID = nodeID
        self.eventLoop = eventLoop
        self.brokerEpoch = brokerEpoch
        self.send = send
        self.onDamageKnown = onDamageKnown
        self.logger = logger
    }

    /// Whether a controller has answered everything, or never will.
    var isSettled: Bool {
        eventLoop.preconditionInEventLoop()
        return words.isEmpty || isBeyondIt
    }

    /// Has the controller told of the replica's state, in place of what was to be told before; any thread.
    func report(_ id: TopicPartition, _ state: State) {
        eventLoop.execute { [self] in
            guard !isClosed else { return }
            lastNumber += 1
            words[id] = Word(state: state, number: lastNumber)
            sendSoon(after: .zero)
        }
    }

    /// The replica is not this broker's any more; any thread.
    func forget(_ id: TopicPartition) {
        eventLoop.execute { [self] in words[id] = nil }
    }

    func close() {
        eventLoop.preconditionInEventLoop()
        isClosed = true
        words = [:]
    }

    /// After a pause of zero, too, only in a later task: what is reported at the same time goes at once.
    private func sendSoon(after pause: TimeAmount) {
        guard !isSending, !isClosed, !words.isEmpty else { return }
        isSending = true
        eventLoop.scheduleTask(in: pause) { [self] in sendNow() }
    }

    private func sendNow() {
        let epoch = brokerEpoch()
        guard !isClosed, epoch != .none, !words.isEmpty else {
            isSending = false
            if epoch == .none { sendSoon(after: Self.retryPause) }
            return
        }
        let batch = words.sorted { $0.value.number < $1.value.number }.prefix(Self.maxReplicas)
        var request = WireReportReplicasRequest()
        request.brokerID = nodeID.rawValue
        request.brokerEpoch = epoch.rawValue
        request.replicas = batch.map { id, word in
            var replica = WireReportReplicasRequest.Replica()
            replica.topicID = Data(id.topic.bytes)
            replica.partition = id.partition
            replica.state = word.state
            return replica
        }
        let sent = Dictionary(uniqueKeysWithValues: batch.map { ($0.key, $0.value.number) })
        let answer = eventLoop.makePromise(of: WireReportReplicasResponse.self)
        answer.completeWithTask { [send, request] in try await send(request) }
        answer.futureResult.whenComplete { [self] result in
            isSending = false
            answered(sent, result)
        }
    }

    private func answered(
        _ sent: [TopicPartition: UInt64], _ result: Result<WireReportReplicasResponse, any Error>
    ) {
        switch result {
        case .success(let response):
            if isUnheard { logger.info("the active controller knows which replicas are offline") }
            isUnheard = false
            isBeyondIt = false
            take(response, to: sent)
            // What was reported meanwhile, and what a controller left unanswered.
            let isComplete = sent.keys.allSatisfy { words[$0]?.number != sent[$0] }
            sendSoon(after: isComplete ? .zero : Self.retryPause)
        case .failure(let error):
            if !isUnheard {
                logger.warning(
                    "cannot tell the controller which replicas are offline, trying on",
                    metadata: ["replicas": "\(words.count)", "error": "\(error)"])
            }
            isUnheard = true
            isBeyondIt = (error as? RPCError)?.status == .unimplemented
            // Its successor may be newer.
            sendSoon(after: isBeyondIt ? Self.longPause : Self.retryPause)
        }
    }

    private func take(_ response: WireReportReplicasResponse, to sent: [TopicPartition: UInt64]) {
        for result in response.replicas {
            guard let topic = TopicID(bytes: result.topicID) else { continue }
            let id = TopicPartition(topic: topic, partition: result.partition)
            guard let word = words[id], word.number == sent[id],
                result.error != ErrorCode.notController.name
            else { continue }
            words[id] = nil
            guard !result.error.isEmpty else {
                if word.state == .damaged { onDamageKnown(id) }
                continue
            }
            // The topic was deleted, most likely, and this broker will hear of it.
            logger.info(
                "the controller does not take a replica's report",
                metadata: ["partition": "\(id)", "error": "\(result.error)"])
        }
    }
}
