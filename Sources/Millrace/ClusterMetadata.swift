internal import Essentials
internal import Protocol

/// What the client knows of the cluster: brokers, and the leaders of the topics it asked for.
struct ClusterMetadata: Sendable {
    struct Partition: Sendable, Hashable {
        /// `nil` while the partition has no leader.
        var leader: NodeID?
        var leaderEpoch: LeaderEpoch
    }

    struct Topic: Sendable, Hashable {
        var id: TopicID
        /// The index is the partition's number.
        var partitions: [Partition]
    }

    private(set) var clusterID = ""
    private(set) var brokers: [NodeID: BrokerAddress] = [:]
    private(set) var topics: [String: Topic] = [:]
    /// The error name the last answer gave for a topic, in place of its partitions.
    private(set) var topicErrors: [String: String] = [:]

    /// Takes over an answer to a request for `requested` (nothing: brokers only).
    ///
    /// Brokers learn of elections one after another, so an answer may be older than what we know: a
    /// partition's leader epoch never steps back while the topic keeps its id.
    mutating func merge(_ answer: WireMetadataResponse) {
        clusterID = answer.clusterID
        var live: [NodeID: BrokerAddress] = [:]
        for broker in answer.brokers where broker.hasID && (1...65535).contains(broker.port) {
            live[NodeID(broker.id)] = BrokerAddress(host: broker.host, port: Int(broker.port))
        }
        // An answer without any broker comes from one that has not caught up with the cluster yet.
        if !live.isEmpty { brokers = live }
        for topic in answer.topics { merge(topic) }
    }

    private mutating func merge(_ answer: WireTopicMetadata) {
        guard answer.error.isEmpty, let id = TopicID(answer.topicID), !answer.partitions.isEmpty
        else {
            let error = answer.error
            topicErrors[answer.name] = error.isEmpty ? ErrorCode.leaderNotAvailable.name : error
            return
        }
        let known = topics[answer.name].flatMap { $0.id == id ? $0.partitions : nil } ?? []
        let count = max(known.count, answer.partitions.count)
        var partitions = (0..<count).map { index in
            index < known.count ? known[index] : Partition(leader: nil, leaderEpoch: .none)
        }
        for described in answer.partitions {
            guard partitions.indices.contains(Int(described.partition)) else { continue }
            let epoch = described.hasLeaderEpoch ? LeaderEpoch(described.leaderEpoch) : .none
            guard epoch >= partitions[Int(described.partition)].leaderEpoch else { continue }
            partitions[Int(described.partition)] = Partition(
                leader: described.hasLeader ? NodeID(described.leader) : nil, leaderEpoch: epoch)
        }
        topics[answer.name] = Topic(id: id, partitions: partitions)
        topicErrors[answer.name] = nil
    }

    func partition(_ partition: Int32, of topic: String) -> Partition? {
        guard let partitions = topics[topic]?.partitions,
            partitions.indices.contains(Int(partition))
        else { return nil }
        return partitions[Int(partition)]
    }

    /// The address of the partition's leader; `nil` while it, or its address, is not known.
    func leader(of partition: Int32, in topic: String) -> (
        broker: NodeID, address: BrokerAddress, epoch: LeaderEpoch
    )? {
        guard let state = self.partition(partition, of: topic), let leader = state.leader,
            let address = brokers[leader]
        else { return nil }
        return (leader, address, state.leaderEpoch)
    }

    /// Forgets a topic, so that its next description is taken as new.
    mutating func forget(_ topic: String) {
        topics[topic] = nil
        topicErrors[topic] = nil
    }
}
