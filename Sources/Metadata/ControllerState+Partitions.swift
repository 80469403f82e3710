package import Essentials
internal import HashTreeCollections

/// A leader's wish to change the ISR of partitions it leads.
package struct AlterPartitionRequest: Equatable, Sendable {
    package struct Member: Equatable, Sendable {
        package var broker: NodeID
        package var epoch: BrokerEpoch

        package init(broker: NodeID, epoch: BrokerEpoch) {
            self.broker = broker
            self.epoch = epoch
        }
    }

    package struct Change: Equatable, Sendable {
        package var id: TopicPartition
        package var leaderEpoch: LeaderEpoch
        package var partitionEpoch: PartitionEpoch
        package var isr: [Member]

        package init(
            id: TopicPartition, leaderEpoch: LeaderEpoch, partitionEpoch: PartitionEpoch,
            isr: [Member]
        ) {
            self.id = id
            self.leaderEpoch = leaderEpoch
            self.partitionEpoch = partitionEpoch
            self.isr = isr
        }
    }

    package var broker: NodeID
    package var epoch: BrokerEpoch
    package var changes: [Change]

    package init(broker: NodeID, epoch: BrokerEpoch, changes: [Change]) {
        self.broker = broker
        self.epoch = epoch
        self.changes = changes
    }
}

/// What became of one wish.
package struct AlterPartitionOutcome: Equatable, Sendable {
    package var id: TopicPartition
    /// `nil` when it was accepted.
    package var error: ErrorCode?
    /// The partition as it is now; `nil` when there is none.
    package var state: PartitionState?
}

extension ControllerState {
    /// Changes ISRs as their leaders see them.
    ///
    /// Each change is accepted or refused by itself.
    package func alterPartition(
        _ request: AlterPartitionRequest
    ) throws(ControllerError) -> ControllerResult<[AlterPartitionOutcome]> {
        guard let broker = image.brokers[request.broker], broker.epoch == request.epoch else {
            throw ControllerError(
                .staleBrokerEpoch,
                "broker \(request.broker) is not registered with epoch \(request.epoch)")
        }
        var draft = MetadataDraft(image: image, options: options)
        // Each change stands for itself.
        draft.maySplit = true
        var outcomes: [AlterPartitionOutcome] = []
        for change in request.changes {
            let error = refusal(of: change, by: request.broker, in: draft.image)
            if error == nil {
                draft.settle(change.id) { $0.proposedISR = change.isr.map(\.broker) }
            }
            outcomes.append(
                AlterPartitionOutcome(
                    id: change.id, error: error, state: draft.image.partition(change.id)))
        }
        return draft.result(outcomes)
    }

    private func refusal(
        of change: AlterPartitionRequest.Change, by broker: NodeID, in image: MetadataImage
    ) -> ErrorCode? {
        guard image.topics[change.id.topic] != nil else { return .unknownTopicID }
        guard let state = image.partition(change.id) else { return .unknownTopicOrPartition }
        // It has seen what we have not: another controller must be the active one.
        if change.leaderEpoch > state.leaderEpoch { return .notController }
        if change.leaderEpoch < state.leaderEpoch { return .fencedLeaderEpoch }
        if state.leader != broker { return .notLeaderOrFollower }
        if change.partitionEpoch > state.partitionEpoch { return .notController }
        if change.partitionEpoch < state.partitionEpoch { return .invalidUpdateVersion }
        let members = change.isr.map(\.broker)
        guard Set(members).count == members.count, members.contains(broker),
            Set(state.replicas).isSuperset(of: members)
        else { return .invalidRequest }
        let areEligible = change.isr.allSatisfy { member in
            image.isActive(member.broker) && image.brokers[member.broker]?.epoch == member.epoch
                && !state.offlineReplicas.contains(member.broker)
        }
        return areEligible ? nil : .ineligibleReplica
    }
}
