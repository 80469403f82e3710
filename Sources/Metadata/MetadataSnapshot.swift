package import Essentials
internal import HashTreeCollections

extension MetadataImage {
    /// The image as records that make it again, in an order that loads.
    ///
    /// Equal images give equal records in equal order: feature levels, the next producer id, brokers
    /// with all their state, topics by name, each with its partitions, and configs. Records are made
    /// as they are asked for, one topic at a time.
    package func snapshotRecords() -> some Sequence<MetadataRecord> {
        SnapshotPart.parts(of: self).lazy.flatMap { $0.records(in: self) }
    }

    /// Builds the image that a snapshot's records stand for.
    ///
    /// - Parameters:
    ///   - endOffset: end, exclusive, of the part of the log that the snapshot replaces.
    ///   - epoch: leader epoch of the last record before `endOffset`.
    /// - Throws: the first record's error that makes no sense after those before it.
    package init(
        snapshot records: some Sequence<MetadataRecord>, endOffset: Offset, epoch: LeaderEpoch
    ) throws(MetadataError) {
        var builder = MetadataImageBuilder()
        for record in records { try builder.add(record) }
        self = builder.finish(endOffset: endOffset, epoch: epoch)
    }
}

/// Makes an image from the records of a snapshot, which have no offsets of the log.
package struct MetadataImageBuilder {
    private var image = MetadataImage()

    package init() {}

    package mutating func add(_ record: MetadataRecord) throws(MetadataError) {
        // What changed against nothing is everything: of no use to anybody.
        var notes: MetadataDelta?
        try image.change(record, notes: &notes)
    }

    /// The image after the log up to `endOffset`, whose last record has leader epoch `epoch`.
    package consuming func finish(endOffset: Offset, epoch: LeaderEpoch) -> MetadataImage {
        image.advance(to: endOffset, epoch: epoch)
        return image
    }
}

/// What becomes a few records of a snapshot at a time.
private enum SnapshotPart {
    case feature(String)
    case producerIDs
    case broker(NodeID)
    case topic(TopicID)
    case configs(ConfigResource)

    static func parts(of image: MetadataImage) -> [SnapshotPart] {
        var parts = image.features.keys.sorted().map { SnapshotPart.feature($0) }
        if image.nextProducerID > 0 { parts.append(.producerIDs) }
        parts += image.brokers.keys.sorted().map { .broker($0) }
        parts += image.topicIDs.sorted { $0.key < $1.key }.map { .topic($0.value) }
        parts += image.configs.keys.sorted().map { .configs($0) }
        return parts
    }

    func records(in image: MetadataImage) -> [MetadataRecord] {
        switch self {
        case .feature(let name):
            return image.features[name].map { [.featureLevel(name: name, level: $0)] } ?? []
        case .producerIDs:
            // Whose block it was is of no matter any more.
            return [.producerIDs(broker: -1, epoch: .none, next: image.nextProducerID)]
        case .broker(let id):
            return image.brokers[id].map { [.registerBroker($0)] } ?? []
        case .topic(let id):
            guard let topic = image.topics[id] else { return [] }
            var records: [MetadataRecord] = []
            records.reserveCapacity(topic.partitions.count + 1)
            records.append(.topic(id: id, name: topic.name, request: topic.request))
            for (number, state) in topic.partitions.enumerated() {
                records.append(
                    .partition(TopicPartition(topic: id, partition: Int32(number)), state))
            }
            return records
        case .configs(let resource):
            let configs = (image.configs[resource] ?? [:]).sorted { $0.key < $1.key }
            return configs.map { name, value in
                .config(ConfigChange(resource: resource, name: name, value: value))
            }
        }
    }
}

extension ConfigResource: Comparable {
    /// The cluster's default, then brokers by id, then topics by name.
    package static func < (left: ConfigResource, right: ConfigResource) -> Bool {
        switch (left, right) {
        case (.topic(let left), .topic(let right)): left < right
        case (.broker(let left), .broker(let right)): left < right
        case (.clusterDefault, .clusterDefault): false
        case (.clusterDefault, _), (.broker, .topic): true
        case (.topic, .broker), (_, .clusterDefault): false
        }
    }
}
