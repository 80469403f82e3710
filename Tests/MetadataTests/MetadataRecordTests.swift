import Essentials
import Metadata
import Testing

@Suite struct MetadataRecordTests {
    private static let topic = TopicID(high: 1, low: 2)
    private static let partition = TopicPartition(topic: topic, partition: 3)

    static let samples: [MetadataRecord] = [
        .featureLevel(name: "metadata.version", level: 4),
        .registerBroker(
            BrokerRegistration(
                id: 0, incarnation: UniqueID(high: 3, low: 4), epoch: 17, host: "h", port: 9092,
                rack: "r1", directories: [UniqueID(high: 5, low: 6)], fenced: false,
                inControlledShutdown: true)),
        .registerBroker(
            BrokerRegistration(
                id: 1, incarnation: UniqueID(high: 3, low: 4), epoch: 0, host: "h", port: 1)),
        .unregisterBroker(1, epoch: 0),
        .brokerChange(BrokerChange(id: 1, epoch: 9)),
        .brokerChange(BrokerChange(id: 1, epoch: 9, fenced: false)),
        .brokerChange(BrokerChange(id: 1, epoch: 9, fenced: true, inControlledShutdown: false)),
        .topic(id: topic, name: "t"),
        .topic(id: topic, name: "t", request: UniqueID(high: 5, low: 6)),
        .removeTopic(topic),
        .partition(
            partition,
            PartitionState(
                replicas: [1, 2, 3], isr: [1], eligibleLeaderReplicas: [2], leader: 1,
                leaderEpoch: 4, partitionEpoch: 5)),
        .partition(partition, PartitionState(replicas: [0], isr: [], leader: nil)),
        .partitionChange(PartitionChange(id: partition)),
        .partitionChange(
            PartitionChange(
                id: partition, replicas: [1], isr: [], eligibleLeaderReplicas: [],
                leader: PartitionChange.NewLeader.none)),
        .partitionChange(PartitionChange(id: partition, isr: [0], leader: .broker(0))),
        .config(ConfigChange(resource: .topic("t"), name: "a", value: "b")),
        .config(ConfigChange(resource: .broker(0), name: "a", value: "")),
        .config(ConfigChange(resource: .clusterDefault, name: "a", value: nil)),
        .noOp,
        .producerIDs(broker: 1, epoch: 5, next: 2000),
        .registerBroker(
            BrokerRegistration(
                id: 1, incarnation: UniqueID(high: 3, low: 4), epoch: 0, host: "h", port: 1,
                featureLevels: 1...2)),
        .registerBroker(
            BrokerRegistration(
                id: 1, incarnation: UniqueID(high: 3, low: 4), epoch: 0, host: "h", port: 1,
                offlineDirectories: [UniqueID(high: 5, low: 6), UniqueID(high: 7, low: 8)])),
        .partition(
            partition,
            PartitionState(
                replicas: [1, 2, 3], isr: [1], eligibleLeaderReplicas: [2],
                offlineReplicas: [2, 3], leader: 1)),
        .partitionChange(PartitionChange(id: partition, offlineReplicas: [1, 2])),
        .partitionChange(PartitionChange(id: partition, offlineReplicas: [])),
    ]

    @Test(arguments: samples)
    func decodingGivesBackWhatWasEncoded(_ record: MetadataRecord) throws {
        #expect(try MetadataRecord(decoding: record.encoded()) == record)
    }

    @Test func recordOfAnUnknownKindIsRefused() {
        // Field 99, length 0: a kind of a later release.
        #expect(throws: MetadataError.unknownKind) {
            try MetadataRecord(decoding: [0x9a, 0x06, 0x00])
        }
        #expect(throws: MetadataError.unknownKind) { try MetadataRecord(decoding: []) }
    }

    @Test func idOfTheWrongLengthIsRefused() {
        // RemoveTopic with a topic id of two bytes.
        #expect(throws: MetadataError.invalidField(record: "RemoveTopic", field: "topic_id")) {
            try MetadataRecord(decoding: [0x32, 0x04, 0x0a, 0x02, 0x01, 0x02])
        }
    }

    @Test func damagedBytesGiveAnErrorAndNeverTrap() {
        var generator = SeededGenerator(seed: 42)
        for _ in 0..<20_000 {
            guard var bytes = Self.samples.randomElement(using: &generator)?.encoded() else {
                return
            }
            for _ in 0..<Int.random(in: 1...4, using: &generator) where !bytes.isEmpty {
                let index = Int.random(in: bytes.indices, using: &generator)
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: bytes[index] = UInt8.random(in: .min ... .max, using: &generator)
                case 1: bytes.removeSubrange(index...)
                default: bytes.insert(bytes[index], at: index)
                }
            }
            guard let record = try? MetadataRecord(decoding: bytes) else { continue }
            // What it says may be nonsense: applying it must fail or be harmless.
            var image = MetadataImage()
            try? image.apply(record, at: 0)
        }
    }
}
