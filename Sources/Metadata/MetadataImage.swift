package import Essentials
package import HashTreeCollections

/// The cluster's metadata after a prefix of the metadata log.
///
/// A value on persistent hash tries: a copy costs nothing, and a changed copy shares what did not
/// change. Equal prefixes give equal images on every node.
package struct MetadataImage: Equatable, Sendable {
    /// End, exclusive, of what has been applied.
    package private(set) var nextOffset: Offset = 0
    /// Leader epoch of the last batch applied.
    package private(set) var lastEpoch: LeaderEpoch = .none
    package var brokers: TreeDictionary<NodeID, BrokerRegistration> = [:]
    package var topics: TreeDictionary<TopicID, TopicImage> = [:]
    package var topicIDs: TreeDictionary<String, TopicID> = [:]
    package var configs: TreeDictionary<ConfigResource, TreeDictionary<String, String>> = [:]
    /// Finalised feature levels by name.
    package var features: TreeDictionary<String, Int32> = [:]
    /// The first producer id that was never given to a broker.
    package internal(set) var nextProducerID: Int64 = 0

    // Derived from the above, so that a change costs what it touches and not the whole image.

    /// What each broker hosts; a broker without replicas has no entry.
    private(set) var hosted: TreeDictionary<NodeID, HostedPartitions> = [:]
    /// Partitions that another replica leads although the preferred one is in sync.
    private(set) var displaced: TreeSet<TopicPartition> = []

    /// Partitions without a leader, or with eligible leader replicas.
    private(set) var unsettled: TreeSet<TopicPartition> = []

    package init() {}

    /// Finalised level of the metadata records; 0 before one is set.
    package var featureLevel: Int32 { features[MetadataFeatures.metadataVersion] ?? 0 }

    package func topic(named name: String) -> TopicImage? {
        topicIDs[name].flatMap { topics[$0] }
    }

    package func partition(_ id: TopicPartition) -> PartitionState? {
        guard let topic = topics[id.topic], id.partition >= 0,
            Int(id.partition) < topic.partitions.count
        else { return nil }
        return topic.partitions[Int(id.partition)]
    }

    /// The partitions of which `broker` holds a replica, in no order.
    package func partitions(on broker: NodeID) -> TreeSet<TopicPartition> {
        hosted[broker]?.partitions ?? []
    }

    /// How many partitions `broker` leads.
    package func leaderCount(of broker: NodeID) -> Int { hosted[broker]?.leaderCount ?? 0 }

    /// How many replicas `broker` holds.
    package func replicaCount(of broker: NodeID) -> Int { hosted[broker]?.partitions.count ?? 0 }

    /// How many of the replicas on `broker` it can't use.
    package func offlineCount(of broker: NodeID) -> Int { hosted[broker]?.offlineCount ?? 0 }

    /// Brokers that may lead and join ISRs, by id.
    package var activeBrokers: [BrokerRegistration] {
        brokers.values.filter(\.isActive).sorted { $0.id < $1.id }
    }

    package func isActive(_ broker: NodeID) -> Bool { brokers[broker]?.isActive ?? false }

    /// Notes the end of a batch, which control records move without giving records of their own.
    package mutating func advance(to offset: Offset, epoch: LeaderEpoch) {
        invariant(offset >= nextOffset, "image steps back from \(nextOffset) to \(offset)")
        nextOffset = offset
        lastEpoch = epoch
    }

    /// Notes that the record at `offset` is being applied.
    mutating func advance(past offset: Offset) throws(MetadataError) {
        guard offset >= nextOffset else { throw .outOfOrder(offset, expected: nextOffset) }
        nextOffset = offset + 1
    }

    /// Keeps the derived collections in step with a partition that came, changed, or went.
    mutating func index(_ id: TopicPartition, from old: PartitionState?, to new: PartitionState?) {
        if old?.replicas != new?.replicas {
            for broker in old?.replicas ?? [] {
                hosted[broker]?.partitions.remove(id)
            }
            for broker in new?.replicas ?? [] {
                hosted[broker, default: HostedPartitions()].partitions.insert(id)
            }
            if let leader = old?.preferredLeader { hosted[leader]?.preferredCount -= 1 }
            if let leader = new?.preferredLeader { hosted[leader]?.preferredCount += 1 }
        }
        if old?.leader != new?.leader {
            if let leader = old?.leader { hosted[leader]?.leaderCount -= 1 }
            if let leader = new?.leader { hosted[leader]?.leaderCount += 1 }
        }
        if old?.offlineReplicas != new?.offlineReplicas {
            for broker in old?.offlineReplicas ?? [] { hosted[broker]?.offlineCount -= 1 }
            for broker in new?.offlineReplicas ?? [] { hosted[broker]?.offlineCount += 1 }
        }
        for broker in old?.replicas ?? [] where hosted[broker]?.partitions.isEmpty == true {
            hosted[broker] = nil
        }
        if new?.isDisplaced != old?.isDisplaced {
            if new?.isDisplaced == true { displaced.insert(id) } else { displaced.remove(id) }
        }
        if new?.isUnsettled != old?.isUnsettled {
            if new?.isUnsettled == true { unsettled.insert(id) } else { unsettled.remove(id) }
        }
    }
}

/// One broker's replicas, counted.
struct HostedPartitions: Equatable, Sendable {
    var partitions: TreeSet<TopicPartition> = []
    /// How many of them it leads.
    var leaderCount = 0
    /// How many of them name it first.
    var preferredCount = 0
    /// How many of them can't be used.
    var offlineCount = 0
}
