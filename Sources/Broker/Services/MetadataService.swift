internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import Protocol
internal import RPC

/// `millrace.v1.Broker/Metadata`: where topics and brokers are.
struct MetadataService: Sendable {
    let clusterID: String
    let metadata: BrokerMetadata
    /// The active controller as last heard of.
    let controller: @Sendable () async -> NodeID?

    func register(in router: inout Router) {
        router.unary("/millrace.v1.Broker/Metadata") {
            (request: WireMetadataRequest, _) -> WireMetadataResponse in await answer(request)
        }
    }

    func answer(_ request: WireMetadataRequest) async -> WireMetadataResponse {
        let image = metadata.current
        var response = WireMetadataResponse()
        response.clusterID = clusterID
        if let id = await controller() { response.controllerID = id.rawValue }
        response.brokers = image.brokers.values.filter { !$0.fenced }
            .sorted { $0.id < $1.id }
            .map { broker in
                var node = WireBrokerNode()
                node.id = broker.id.rawValue
                node.host = broker.host
                node.port = Int32(broker.port)
                node.rack = broker.rack ?? ""
                return node
            }
        guard !request.brokersOnly else { return response }
        let live = Set(response.brokers.map { NodeID($0.id) })
        if request.topics.isEmpty {
            response.topics = image.topics.values.sorted { $0.name < $1.name }.map {
                describe($0, live: live)
            }
        } else {
            response.topics = request.topics.map { name in
                if let topic = image.topic(named: name) { return describe(topic, live: live) }
                var unknown = WireTopicMetadata()
                unknown.name = name
                unknown.error = ErrorCode.unknownTopicOrPartition.name
                return unknown
            }
        }
        return response
    }

    private func describe(_ topic: TopicImage, live: Set<NodeID>) -> WireTopicMetadata {
        var description = WireTopicMetadata()
        description.name = topic.name
        description.topicID = topic.id.description
        description.partitions = topic.partitions.enumerated().map { index, state in
            var partition = WirePartitionMetadata()
            partition.partition = Int32(index)
            if let leader = state.leader { partition.leader = leader.rawValue }
            partition.leaderEpoch = state.leaderEpoch.rawValue
            partition.replicas = state.replicas.map(\.rawValue)
            partition.isr = state.isr.map(\.rawValue)
            partition.eligibleLeaderReplicas = state.eligibleLeaderReplicas.map(\.rawValue)
            partition.offlineReplicas = state.replicas.compactMap { replica in
                let serves = live.contains(replica) && !state.offlineReplicas.contains(replica)
                return serves ? nil : replica.rawValue
            }
            return partition
        }
        return description
    }
}
