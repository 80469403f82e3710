internal import Essentials
internal import HashTreeCollections

extension MetadataDelta {
    /// What is different between two images, for where no records tell: a snapshot took the place of
    /// many of them.
    package init(from old: MetadataImage, to new: MetadataImage) {
        self.init()
        for (id, topic) in old.topics where new.topics[id] == nil { removedTopics[id] = topic.name }
        for (id, topic) in new.topics {
            let before = old.topics[id]
            if before == nil { createdTopics.insert(id) }
            for (index, state) in topic.partitions.enumerated() {
                let known = before.flatMap {
                    index < $0.partitions.count ? $0.partitions[index] : nil
                }
                if known != state {
                    changedPartitions.insert(
                        TopicPartition(topic: id, partition: Int32(clamping: index)))
                }
            }
        }
        changedBrokers = Self.changedKeys(old.brokers, new.brokers)
        changedConfigs = Self.changedKeys(old.configs, new.configs)
        changedFeatures = Self.changedKeys(old.features, new.features)
    }

    private static func changedKeys<Key: Hashable, Value: Equatable>(
        _ old: TreeDictionary<Key, Value>, _ new: TreeDictionary<Key, Value>
    ) -> Set<Key> {
        var keys: Set<Key> = []
        for (key, value) in old where new[key] != value { keys.insert(key) }
        for key in new.keys where old[key] == nil { keys.insert(key) }
        return keys
    }
}
