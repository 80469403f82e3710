internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import RPC

/// Where a partition's requests belong, by the metadata this broker has.
enum PartitionRoute {
    case here(Replica)
    case elsewhere(NodeID)

    /// - Throws: when topic or partition are unknown, or the partition has no leader.
    static func find(
        topic: String, partition: Int32, image: MetadataImage, local: NodeID,
        replicas: ReplicaManager
    ) throws(RPCError) -> PartitionRoute {
        guard let topicImage = image.topic(named: topic) else {
            throw RPCError(
                .unknownTopicOrPartition,
                "there is no topic '\(topic)'; create it with: millrace topic create \(topic)")
        }
        guard let state = topicImage.partitions[checked: partition] else {
            throw RPCError(
                .unknownTopicOrPartition,
                "topic '\(topic)' has partitions 0 to \(topicImage.partitions.count - 1), not \(partition)"
            )
        }
        guard let leader = state.leader else {
            throw RPCError(
                .leaderNotAvailable,
                "partition \(topic)-\(partition) has no leader while its in-sync replicas "
                    + "\(state.isr) are down; try again when one is back")
        }
        if leader != local { return .elsewhere(leader) }
        guard let replica = replicas.replica(topic: topic, partition: partition) else {
            throw RPCError(
                .leaderNotAvailable,
                "broker \(local) is about to lead \(topic)-\(partition); try again in a moment")
        }
        return .here(replica)
    }

    /// The refusal for a caller that must find the leader itself.
    static func notLeader(
        topic: String, partition: Int32, leader: NodeID, image: MetadataImage
    ) -> RPCError {
        let address = image.brokers[leader].map { " at \($0.host):\($0.port)" } ?? ""
        return RPCError(
            .notLeaderOrFollower,
            "broker \(leader)\(address) leads \(topic)-\(partition); refresh the metadata and go there"
        )
    }
}

extension RandomAccessCollection where Index == Int {
    /// The element at an index that came from outside; `nil` when there is none.
    subscript(checked index: Int32) -> Element? {
        index >= 0 && Int(index) < count ? self[Int(index)] : nil
    }
}
