package import Essentials
internal import HashTreeCollections

/// What a broker found out about the logs of its replicas.
package struct ReplicaReport: Equatable, Sendable {
    package enum State: Equatable, Sendable {
        /// It can't be used until something changes; what is on the disk may still be good.
        case offline
        /// Committed records are known to be missing or bad.
        case damaged
        /// It can be used again.
        case online
    }

    package struct Replica: Equatable, Sendable {
        package var id: TopicPartition
        /// `nil` for one that this release does not know.
        package var state: State?

        package init(id: TopicPartition, state: State?) {
            self.id = id
            self.state = state
        }
    }

    package var broker: NodeID
    package var epoch: BrokerEpoch
    package var replicas: [Replica]

    package init(broker: NodeID, epoch: BrokerEpoch, replicas: [Replica]) {
        self.broker = broker
        self.epoch = epoch
        self.replicas = replicas
    }
}

package struct ReplicaReportReply: Equatable, Sendable {
    /// One for each replica of the report, in its order; `nil` where it was taken.
    package var errors: [ErrorCode?] = []
    /// Replicas that were taken to be usable before, or to be unusable.
    package var newlyOffline = 0
    package var newlyOnline = 0
    /// Of all replicas of the report, how many are damaged.
    package var damaged = 0
    /// Partitions that this left without a leader.
    package var leaderless = 0
}

extension ControllerState {
    /// Takes replicas that a broker can't use out of service, and those that it can use again back in.
    ///
    /// Each replica of the report stands for itself. To repeat a report changes nothing.
    package func reportReplicas(
        _ report: ReplicaReport
    ) throws(ControllerError) -> ControllerResult<ReplicaReportReply> {
        guard let broker = image.brokers[report.broker], broker.epoch == report.epoch else {
            throw ControllerError(
                .staleBrokerEpoch,
                "broker \(report.broker) is not registered with epoch \(report.epoch)")
        }
        guard report.replicas.count <= ControllerOptions.maxPartitionsPerCall else {
            throw ControllerError(
                .invalidRequest,
                "a report is about \(ControllerOptions.maxPartitionsPerCall) replicas at most")
        }
        var draft = MetadataDraft(image: image, options: options)
        // Each replica stands for itself.
        draft.maySplit = true
        var reply = ReplicaReportReply()
        reply.errors.reserveCapacity(report.replicas.count)
        for replica in report.replicas {
            reply.errors.append(
                Self.take(replica, of: report.broker, in: &draft, noting: &reply))
        }
        return draft.result(reply)
    }

    /// - Returns: why it is refused, if it is.
    private static func take(
        _ replica: ReplicaReport.Replica, of broker: NodeID, in draft: inout MetadataDraft,
        noting reply: inout ReplicaReportReply
    ) -> ErrorCode? {
        guard draft.image.topics[replica.id.topic] != nil else { return .unknownTopicID }
        guard let before = draft.image.partition(replica.id) else {
            return .unknownTopicOrPartition
        }
        guard before.replicas.contains(broker) else { return .notLeaderOrFollower }
        guard let state = replica.state else { return .invalidRequest }
        draft.settle(replica.id) { update in
            update.offlineReplicas.removeAll { $0 == broker }
            if state != .online { update.offlineReplicas.append(broker) }
            if state == .damaged { update.damaged = broker }
        }
        let wasOffline = before.offlineReplicas.contains(broker)
        switch state {
        case .offline, .damaged:
            if !wasOffline { reply.newlyOffline += 1 }
            if state == .damaged { reply.damaged += 1 }
        case .online:
            if wasOffline { reply.newlyOnline += 1 }
        }
        if before.leader != nil, draft.image.partition(replica.id)?.leader == nil {
            reply.leaderless += 1
        }
        return nil
    }
}
