internal import Essentials
internal import HashTreeCollections

/// A decision in the making: its records so far, and the image as they would leave it, so that a
/// later step sees what an earlier one did.
struct MetadataDraft {
    private(set) var image: MetadataImage
    private(set) var records: [MetadataRecord] = []
    private(set) var elections: [Election] = []

    private let options: ControllerOptions

    init(image: MetadataImage, options: ControllerOptions) {
        self.image = image
        self.options = options
    }

    /// Offset that the next record will get.
    var nextOffset: Offset { image.nextOffset }

    mutating func append(_ record: MetadataRecord) {
        do {
            try image.apply(record, at: image.nextOffset)
        } catch {
            // We wrote it ourselves, against this very image.
            invariant(
                false, "the controller made a record that does not apply: \(record): \(error)")
        }
        records.append(record)
    }

    /// Settles the partition after its replicas' standing changed; see `PartitionUpdate`.
    mutating func settle(_ id: TopicPartition, _ adjust: (inout PartitionUpdate) -> Void = { _ in })
    {
        guard let topic = image.topics[id.topic], let state = image.partition(id) else { return }
        var update = PartitionUpdate(
            id: id, state: state,
            minInSyncReplicas: image.minInSyncReplicas(
                topic: topic.name, replicas: state.replicas.count),
            allowsUnclean: image.allowsUncleanElection(
                topic: topic.name, default: options.uncleanLeaderElection))
        adjust(&update)
        guard let (change, kind) = update.change(isActive: image.isActive) else { return }
        append(.partitionChange(change))
        if let kind, let new = image.partition(id) {
            elections.append(
                Election(
                    topic: topic.name, partition: id.partition, leader: new.leader,
                    leaderEpoch: new.leaderEpoch, kind: kind))
        }
    }

    func result<Reply>(_ reply: Reply) -> ControllerResult<Reply> {
        ControllerResult(records: records, reply: reply, elections: elections, image: image)
    }
}
