package import Essentials

/// What changed while records were applied to an image.
package struct MetadataDelta: Equatable, Sendable {
    /// Created or changed; none of a removed topic.
    package var changedPartitions: Set<TopicPartition> = []
    package var createdTopics: Set<TopicID> = []
    /// By id, with the names they had.
    package var removedTopics: [TopicID: String] = [:]
    package var changedBrokers: Set<NodeID> = []
    package var changedConfigs: Set<ConfigResource> = []
    package var changedFeatures: Set<String> = []

    package init() {}

    package var isEmpty: Bool { self == MetadataDelta() }

    mutating func remove(_ topic: TopicImage) {
        createdTopics.remove(topic.id)
        for partition in topic.partitions.indices {
            changedPartitions.remove(
                TopicPartition(topic: topic.id, partition: Int32(partition)))
        }
        removedTopics[topic.id] = topic.name
    }
}
