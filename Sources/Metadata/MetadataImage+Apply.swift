package import Essentials
internal import HashTreeCollections

extension MetadataImage {
    /// Applies the record at `offset`: the one way an image changes, on controllers and brokers.
    package mutating func apply(
        _ record: MetadataRecord, at offset: Offset
    ) throws(MetadataError) {
        try advance(past: offset)
        var notes: MetadataDelta?
        try change(record, notes: &notes)
    }

    /// Applies the record at `offset` and notes in `delta` what it changed.
    package mutating func apply(
        _ record: MetadataRecord, at offset: Offset, delta: inout MetadataDelta
    ) throws(MetadataError) {
        try advance(past: offset)
        var notes: MetadataDelta? = delta
        // One owner only, or noting one thing would copy all the others.
        delta = MetadataDelta()
        defer { delta = notes ?? MetadataDelta() }
        try change(record, notes: &notes)
    }

    /// Applies a record wherever the log ends; what it changed is noted if anybody cares.
    mutating func change(
        _ record: MetadataRecord, notes: inout MetadataDelta?
    ) throws(MetadataError) {
        switch record {
        case .featureLevel(let name, let level):
            let supported = MetadataFeatures.supportedLevels(of: name)?.upperBound ?? 0
            guard level <= supported else {
                throw .unsupportedFeature(name, level: level, supported: supported)
            }
            features[name] = level
            notes?.changedFeatures.insert(name)
        case .registerBroker(let registration):
            brokers[registration.id] = registration
            notes?.changedBrokers.insert(registration.id)
        case .unregisterBroker(let id, let epoch):
            guard let known = brokers[id], known.epoch == epoch else {
                throw .unknownBroker(id, epoch: epoch)
            }
            brokers[id] = nil
            notes?.changedBrokers.insert(id)
        case .brokerChange(let change):
            try apply(change)
            notes?.changedBrokers.insert(change.id)
        case .topic(let id, let name, let request):
            guard topicIDs[name] == nil, topics[id] == nil else { throw .topicExists(name) }
            topics[id] = TopicImage(id: id, name: name, request: request)
            topicIDs[name] = id
            notes?.createdTopics.insert(id)
        case .removeTopic(let id):
            let topic = try remove(id)
            if configs.removeValue(forKey: .topic(topic.name)) != nil {
                notes?.changedConfigs.insert(.topic(topic.name))
            }
            notes?.remove(topic)
        case .partition(let id, let state):
            try apply(state, of: id)
            notes?.changedPartitions.insert(id)
        case .partitionChange(let change):
            try apply(change)
            notes?.changedPartitions.insert(change.id)
        case .config(let change):
            configs[change.resource, default: [:]][change.name] = change.value
            if configs[change.resource]?.isEmpty == true { configs[change.resource] = nil }
            notes?.changedConfigs.insert(change.resource)
        case .producerIDs(_, _, let next):
            nextProducerID = max(nextProducerID, next)
        case .noOp:
            break
        }
    }

    private mutating func apply(_ change: BrokerChange) throws(MetadataError) {
        guard var broker = brokers[change.id], broker.epoch == change.epoch else {
            throw .unknownBroker(change.id, epoch: change.epoch)
        }
        broker.fenced = change.fenced ?? broker.fenced
        broker.inControlledShutdown = change.inControlledShutdown ?? broker.inControlledShutdown
        brokers[change.id] = broker
    }

    private mutating func remove(_ id: TopicID) throws(MetadataError) -> TopicImage {
        guard let topic = topics.removeValue(forKey: id) else { throw .unknownTopic(id) }
        topicIDs[topic.name] = nil
        for (number, state) in topic.partitions.enumerated() {
            index(
                TopicPartition(topic: id, partition: Int32(number)), from: state, to: nil)
        }
        return topic
    }

    private mutating func apply(
        _ state: PartitionState, of id: TopicPartition
    ) throws(MetadataError) {
        guard let count = topics[id.topic]?.partitions.count else { throw .unknownTopic(id.topic) }
        guard Int(id.partition) == count else { throw .unknownPartition(id) }
        if let rule = state.brokenRule { throw .invalidPartition(id, rule) }
        topics[id.topic]?.partitions.append(state.compacted)
        index(id, from: nil, to: state)
    }

    private mutating func apply(_ change: PartitionChange) throws(MetadataError) {
        guard let old = partition(change.id) else { throw .unknownPartition(change.id) }
        var new = old
        new.replicas = change.replicas ?? old.replicas
        new.isr = change.isr ?? old.isr
        new.eligibleLeaderReplicas = change.eligibleLeaderReplicas ?? old.eligibleLeaderReplicas
        new.offlineReplicas = change.offlineReplicas ?? old.offlineReplicas
        guard old.partitionEpoch.rawValue < .max, old.leaderEpoch.rawValue < .max else {
            throw .invalidPartition(change.id, "an epoch has reached its end")
        }
        new.partitionEpoch = old.partitionEpoch.next
        switch change.leader {
        case nil:
            break
        case .some(.none):
            new.leader = nil
            new.leaderEpoch = old.leaderEpoch.next
        case .broker(let leader):
            new.leader = leader
            new.leaderEpoch = old.leaderEpoch.next
        }
        if let rule = new.brokenRule { throw .invalidPartition(change.id, rule) }
        topics[change.id.topic]?.partitions[Int(change.id.partition)] = new.compacted
        index(change.id, from: old, to: new)
    }
}
