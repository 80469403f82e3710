import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct MetadataSnapshotTests {
    private func reloaded(_ image: MetadataImage) throws -> MetadataImage {
        var builder = MetadataImageBuilder()
        for record in image.snapshotRecords() {
            try builder.add(try MetadataRecord(decoding: record.encoded()))
        }
        return builder.finish(endOffset: image.nextOffset, epoch: image.lastEpoch)
    }

    /// An image is equal to another only if all that is derived is equal too.
    @Test(arguments: 1...20)
    func recordsOfAnImageMakeItAgain(_ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var cluster = TestCluster(seed: UInt64(seed))
        for round in 0..<10 {
            for _ in 0..<30 { try cluster.step(&random) }
            let image = cluster.image
            let copy = try reloaded(image)
            #expect(copy == image, "seed \(seed), round \(round)")
            #expect(copy.contentHash == image.contentHash, "seed \(seed), round \(round)")
        }
    }

    @Test func equalImagesGiveEqualRecords() throws {
        var random = SeededGenerator(seed: 5)
        var cluster = TestCluster(seed: 5)
        for _ in 0..<200 { try cluster.step(&random) }
        let copy = try reloaded(cluster.image)
        #expect(Array(copy.snapshotRecords()) == Array(cluster.image.snapshotRecords()))
    }

    @Test func recordsComeInAnOrderThatLoads() throws {
        var image = MetadataImage()
        let records: [MetadataRecord] = [
            .config(ConfigChange(resource: .topic("b"), name: "retention.ms", value: "5")),
            .config(ConfigChange(resource: .clusterDefault, name: "x", value: "2")),
            .config(ConfigChange(resource: .broker(3), name: "y", value: "2")),
            .config(ConfigChange(resource: .clusterDefault, name: "a", value: "1")),
            .registerBroker(
                BrokerRegistration(
                    id: 2, incarnation: UniqueID(high: 1, low: 1), epoch: 4, host: "h", port: 1,
                    fenced: false, inControlledShutdown: true, featureLevels: 1...2)),
            .topic(id: TopicID(high: 1, low: 1), name: "b"),
            .topic(id: TopicID(high: 2, low: 1), name: "a"),
            .partition(
                TopicPartition(topic: TopicID(high: 1, low: 1), partition: 0),
                PartitionState(
                    replicas: [2, 1], isr: [1], leader: 1, leaderEpoch: 7, partitionEpoch: 9)),
            .featureLevel(name: "metadata.version", level: 2),
            .producerIDs(broker: 2, epoch: 4, next: 3000),
        ]
        for (offset, record) in records.enumerated() {
            try image.apply(record, at: Offset(Int64(offset)))
        }
        #expect(
            Array(image.snapshotRecords()) == [
                records[8],
                .producerIDs(broker: -1, epoch: .none, next: 3000),
                records[4], records[6], records[5], records[7],
                records[3], records[1], records[2], records[0],
            ])
        image.advance(to: 42, epoch: 3)
        let copy = try MetadataImage(
            snapshot: image.snapshotRecords(), endOffset: 42, epoch: 3)
        #expect(copy == image)
        #expect(copy.nextOffset == 42 && copy.lastEpoch == 3 && copy.nextProducerID == 3000)
    }

    @Test func snapshotMayHoldMoreRecordsThanTheLogBeforeIt() throws {
        let records = [MetadataRecord.featureLevel(name: "metadata.version", level: 1)]
        let image = try MetadataImage(snapshot: records, endOffset: 0, epoch: 0)
        #expect(image.nextOffset == 0 && image.featureLevel == 1)
    }

    @Test func recordThatMakesNoSenseIsNamed() {
        let topic = TopicID(high: 1, low: 1)
        let records: [MetadataRecord] = [
            .partition(
                TopicPartition(topic: topic, partition: 0),
                PartitionState(replicas: [1], isr: [], leader: nil))
        ]
        #expect(throws: MetadataError.unknownTopic(topic)) {
            try MetadataImage(snapshot: records, endOffset: 1, epoch: 0)
        }
    }

    @Test func hashTellsImagesApartAndIgnoresWhereTheLogEnds() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.create("t", partitions: 2)
        var later = cluster.image
        later.advance(to: later.nextOffset + 10, epoch: 9)
        #expect(later.contentHash == cluster.image.contentHash)

        var hashes: Set<UInt64> = [cluster.image.contentHash]
        cluster.kill(1)
        hashes.insert(cluster.image.contentHash)
        try cluster.create("u")
        hashes.insert(cluster.image.contentHash)
        var other = cluster.image
        try other.apply(
            .config(ConfigChange(resource: .clusterDefault, name: "a", value: "b")),
            at: other.nextOffset)
        hashes.insert(other.contentHash)
        try other.apply(.producerIDs(broker: 1, epoch: 0, next: 1000), at: other.nextOffset)
        hashes.insert(other.contentHash)
        #expect(hashes.count == 5)
    }

    @Test func hashIsTheSameInEveryProcess() throws {
        var image = MetadataImage()
        try image.apply(.featureLevel(name: "metadata.version", level: 1), at: 0)
        try image.apply(.topic(id: TopicID(high: 1, low: 2), name: "t"), at: 1)
        #expect(image.contentHash == 1_474_056_906_912_243_619)
    }
}
