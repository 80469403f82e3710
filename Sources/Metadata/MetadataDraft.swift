internal import Essentials
internal import HashTreeCollections

/// A decision in the making: its records so far, and the image as they would leave it, so that a
/// later step sees what an earlier one did.
struct MetadataDraft {
    private(set) var image: MetadataImage
    /// All but the last are full.
    private(set) var batches: [[MetadataRecord]] = [[]]
    private(set) var elections: [Election] = []
    /// Whether a new batch may start before the next record, if the present one is full.
    ///
    /// Only where the state between the two is one that may last: the rest can get lost.
    var maySplit = false
    /// Taken for inactive already, whatever the image says.
    var leaving: NodeID?

    private let options: ControllerOptions
    /// Bytes of the last batch, at most.
    private var batchBytes = 0

    init(image: MetadataImage, options: ControllerOptions) {
        self.image = image
        self.options = options
    }

    /// Offset that the next record will get.
    var nextOffset: Offset { image.nextOffset }

    /// Whether the records fit into as many batches as they may be spread over.
    var fits: Bool { batchBytes <= options.maxBatchBytes }

    mutating func append(_ record: MetadataRecord) {
        do {
            try image.apply(record, at: image.nextOffset)
        } catch {
            // We wrote it ourselves, against this very image.
            invariant(
                false, "the controller made a record that does not apply: \(record): \(error)")
        }
        let bytes = record.maxEncodedBytes
        if maySplit { makeRoom(for: bytes) }
        batches[batches.count - 1].append(record)
        batchBytes += bytes
    }

    private mutating func makeRoom(for bytes: Int) {
        guard batchBytes > 0, batchBytes + bytes > options.maxBatchBytes else { return }
        batches.append([])
        batchBytes = 0
    }

    /// Appends records that belong into one batch.
    mutating func append(_ records: [MetadataRecord]) {
        if maySplit { makeRoom(for: records.reduce(0) { $0 + $1.maxEncodedBytes }) }
        let mayGoOn = maySplit
        maySplit = false
        for record in records { append(record) }
        maySplit = mayGoOn
    }

    /// Settles the partition after its replicas' standing changed; see `PartitionUpdate`.
    mutating func settle(_ id: TopicPartition, _ adjust: (inout PartitionUpdate) -> Void = { _ in })
    {
        // No copy of the topic is held on to: it would cost one of all its partitions.
        guard let name = image.topics[id.topic]?.name, let state = image.partition(id) else {
            return
        }
        var update = PartitionUpdate(
            id: id, state: state,
            minInSyncReplicas: image.minInSyncReplicas(
                topic: name, replicas: state.replicas.count),
            allowsUnclean: image.allowsUncleanElection(
                topic: name, default: options.uncleanLeaderElection))
        update.recordsOfflineReplicas = image.featureLevel >= MetadataFeatures.offlineReplicas
        adjust(&update)
        guard
            let (change, kind) = update.change(isActive: { $0 != leaving && image.isActive($0) })
        else { return }
        append(.partitionChange(change))
        if let kind, let new = image.partition(id) {
            elections.append(
                Election(
                    topic: name, partition: id.partition, leader: new.leader,
                    leaderEpoch: new.leaderEpoch, kind: kind))
        }
    }

    func result<Reply>(_ reply: Reply) -> ControllerResult<Reply> {
        ControllerResult(
            batches: batches.filter { !$0.isEmpty }, reply: reply, elections: elections,
            image: image)
    }
}

extension MetadataDraft {
    /// Takes the broker out of service: fenced, out of every ISR, its leaderships given to others.
    mutating func fence(_ broker: BrokerRegistration) {
        retire(
            broker.id,
            with: { _ in
                .brokerChange(BrokerChange(id: broker.id, epoch: broker.epoch, fenced: true))
            })
    }

    /// Takes leaderships and ISR memberships from a broker, and then makes it inactive by `record`.
    ///
    /// In this order, because it may take several batches: a broker that is active and leads nothing
    /// breaks no rule, one that is fenced and leads does.
    mutating func retire(
        _ broker: NodeID, with record: (Offset) -> MetadataRecord,
        _ adjust: (TopicPartition, inout PartitionUpdate) -> Void = { _, _ in }
    ) {
        leaving = broker
        maySplit = true
        var last: [TopicPartition] = []
        for id in image.partitions(on: broker).sorted() {
            // Nobody may be there to succeed it: better lost late than early.
            if image.partition(id)?.isr == [broker] {
                last.append(id)
            } else {
                settle(id) { adjust(id, &$0) }
            }
        }
        for id in last { settle(id) { adjust(id, &$0) } }
        append(record(nextOffset))
        maySplit = false
        leaving = nil
        invariant(
            !image.isActive(broker) && image.leaderCount(of: broker) == 0,
            "broker \(broker) leads after it was retired")
    }

    /// Settles all of a broker's partitions after it became active.
    mutating func settlePartitions(on broker: NodeID) {
        maySplit = true
        for id in image.partitions(on: broker).sorted() { settle(id) }
        maySplit = false
    }
}
