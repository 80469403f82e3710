import Essentials
import FoundationEssentials
import Logging
import NIOCore
import Protocol
import RPC
import Replication
import Synchronization

/// Takes the leaders' ISR proposals to the active controller: one request at a time, all that wait in it.
final class ReplicaProposals: Sendable {
    /// Sends an AlterPartition request; an error that is not certain to mean "not processed" is taken
    /// to mean that the outcome is unknown.
    typealias Send =
        @Sendable (WireAlterPartitionRequest) async throws -> WireAlterPartitionResponse

    private struct Waiting: Sendable {
        var proposal: ISRProposal
        var replica: Replica
    }

    private struct State {
        var waiting: [Waiting] = []
        var isSending = false
    }

    private let nodeID: NodeID
    private let brokerEpoch: @Sendable () -> BrokerEpoch
    private let send: Send
    private let logger: Logger
    // A lock, because replicas on any loop propose.
    private let state = Mutex(State())

    init(
        nodeID: NodeID, brokerEpoch: @escaping @Sendable () -> BrokerEpoch, send: @escaping Send,
        logger: Logger
    ) {
        self.nodeID = nodeID
        self.brokerEpoch = brokerEpoch
        self.send = send
        self.logger = logger
    }

    func send(_ proposal: ISRProposal, of replica: Replica) {
        logger.info(
            "proposing an ISR",
            metadata: [
                "partition": "\(replica.name)", "isr": "\(proposal.isr.map(\.id))",
                "epoch": "\(proposal.leaderEpoch)",
            ])
        let isFirst = state.withLock { state in
            state.waiting.append(Waiting(proposal: proposal, replica: replica))
            defer { state.isSending = true }
            return !state.isSending
        }
        guard isFirst else { return }
        Task { await sendAll() }
    }

    private func sendAll() async {
        while true {
            let batch = state.withLock { state -> [Waiting] in
                defer { state.waiting = [] }
                if state.waiting.isEmpty { state.isSending = false }
                return state.waiting
            }
            guard !batch.isEmpty else { return }
            await send(batch)
        }
    }

    private func send(_ batch: [Waiting]) async {
        var request = WireAlterPartitionRequest()
        request.brokerID = nodeID.rawValue
        request.brokerEpoch = brokerEpoch().rawValue
        request.partitions = batch.map { Self.wire($0.proposal, of: $0.replica.id) }
        let outcomes: [TopicPartition: ISRProposalOutcome]
        var rest = ISRProposalOutcome.unknown
        do {
            outcomes = Self.outcomes(of: try await send(request))
        } catch {
            logger.info("ISR proposal failed", metadata: ["error": "\(error)"])
            outcomes = [:]
            if let error = error as? RPCError, error.isUnprocessed || error.isConnectionRefused {
                rest = .refused
            }
        }
        for waiting in batch {
            let outcome = outcomes[waiting.replica.id] ?? rest
            waiting.replica.eventLoop.execute {
                waiting.replica.proposalSettled(
                    attempt: waiting.proposal.attempt, leaderEpoch: waiting.proposal.leaderEpoch,
                    outcome)
            }
        }
    }

    private static func wire(
        _ proposal: ISRProposal, of id: TopicPartition
    ) -> WireAlterPartitionRequest.PartitionChange {
        var change = WireAlterPartitionRequest.PartitionChange()
        change.topicID = Data(id.topic.bytes)
        change.partition = id.partition
        change.leaderEpoch = proposal.leaderEpoch.rawValue
        change.partitionEpoch = proposal.partitionEpoch.rawValue
        change.isr = proposal.isr.map { member in
            var wire = WireAlterPartitionRequest.IsrMember()
            wire.brokerID = member.id.rawValue
            wire.brokerEpoch = member.brokerEpoch.rawValue
            return wire
        }
        return change
    }

    private static func outcomes(
        of response: WireAlterPartitionResponse
    ) -> [TopicPartition: ISRProposalOutcome] {
        var outcomes: [TopicPartition: ISRProposalOutcome] = [:]
        for result in response.partitions {
            guard let topic = TopicID(bytes: result.topicID) else { continue }
            outcomes[TopicPartition(topic: topic, partition: result.partition)] = outcome(
                of: result)
        }
        return outcomes
    }

    private static func outcome(
        of result: WireAlterPartitionResponse.PartitionResult
    ) -> ISRProposalOutcome {
        guard !result.error.isEmpty else {
            return .accepted(
                isr: result.isr.map { NodeID($0) }, leaderEpoch: LeaderEpoch(result.leaderEpoch),
                partitionEpoch: PartitionEpoch(result.partitionEpoch))
        }
        switch ErrorCode(name: result.error) {
        case .invalidUpdateVersion, .fencedLeaderEpoch, .notLeaderOrFollower, .unknownTopicID,
            .unknownTopicOrPartition:
            return .outdated
        case .ineligibleReplica, .invalidRequest:
            return .refused
        default:
            return .unknown
        }
    }
}
