import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct MetadataImageTests {
    private let topic = TopicID(high: 1, low: 1)

    private func image(_ records: [MetadataRecord]) throws -> MetadataImage {
        var image = MetadataImage()
        for (offset, record) in records.enumerated() {
            try image.apply(record, at: Offset(Int64(offset)))
        }
        return image
    }

    private var oneTopic: [MetadataRecord] {
        [
            .topic(id: topic, name: "t"),
            .config(ConfigChange(resource: .topic("t"), name: "retention.ms", value: "5")),
            .partition(
                TopicPartition(topic: topic, partition: 0),
                PartitionState(replicas: [1, 2], isr: [1, 2], leader: 1)),
        ]
    }

    @Test func eachPartitionChangeRaisesThePartitionEpochByOne() throws {
        let id = TopicPartition(topic: topic, partition: 0)
        var image = try image(oneTopic)
        try image.apply(.partitionChange(PartitionChange(id: id, isr: [1])), at: 3)
        #expect(image.partition(id)?.partitionEpoch == 1)
        #expect(image.partition(id)?.leaderEpoch == 0)
        try image.apply(
            .partitionChange(PartitionChange(id: id, isr: [2], leader: .broker(2))), at: 4)
        #expect(image.partition(id)?.partitionEpoch == 2)
        #expect(image.partition(id)?.leaderEpoch == 1)
    }

    @Test func deltaNamesWhatChanged() throws {
        var image = MetadataImage()
        var delta = MetadataDelta()
        for (offset, record) in oneTopic.enumerated() {
            try image.apply(record, at: Offset(Int64(offset)), delta: &delta)
        }
        #expect(delta.createdTopics == [topic])
        #expect(delta.changedPartitions == [TopicPartition(topic: topic, partition: 0)])
        #expect(delta.changedConfigs == [.topic("t")])
        try image.apply(.removeTopic(topic), at: 3, delta: &delta)
        #expect(delta.removedTopics == [topic: "t"])
        #expect(delta.createdTopics.isEmpty && delta.changedPartitions.isEmpty)
    }

    @Test func removedTopicTakesItsConfigsAlong() throws {
        var image = try image(oneTopic)
        try image.apply(.removeTopic(topic), at: 3)
        #expect(image.topicConfig("t", key: "retention.ms") == nil)
        #expect(image.topics.isEmpty && image.topicIDs.isEmpty && image.configs.isEmpty)
        #expect(image.replicaCount(of: 1) == 0)
    }

    @Test func copyKeepsItsStateWhileTheOriginalMovesOn() throws {
        let old = try image(oneTopic)
        var new = old
        try new.apply(.removeTopic(topic), at: 3)
        #expect(old.topic(named: "t")?.partitions.count == 1)
        #expect(new.topic(named: "t") == nil)
    }

    @Test func countsFollowLeadersAndReplicas() throws {
        let id = TopicPartition(topic: topic, partition: 0)
        var image = try image(oneTopic)
        #expect(image.leaderCount(of: 1) == 1)
        #expect(image.replicaCount(of: 2) == 1)
        try image.apply(
            .partitionChange(
                PartitionChange(id: id, replicas: [2, 3], isr: [2], leader: .broker(2))), at: 3)
        #expect(image.leaderCount(of: 1) == 0)
        #expect(image.leaderCount(of: 2) == 1)
        #expect(image.partitions(on: 1).isEmpty)
        #expect(image.partitions(on: 3) == [id])
    }

    @Test func recordsThatDoNotFitAreRefused() throws {
        let id = TopicPartition(topic: topic, partition: 0)
        var image = try image(oneTopic)
        #expect(throws: MetadataError.outOfOrder(1, expected: 3)) { try image.apply(.noOp, at: 1) }
        #expect(throws: MetadataError.topicExists("t")) {
            try image.apply(.topic(id: TopicID(high: 9, low: 9), name: "t"), at: 3)
        }
        #expect(throws: MetadataError.unknownPartition(TopicPartition(topic: topic, partition: 5)))
        {
            try image.apply(
                .partitionChange(
                    PartitionChange(id: TopicPartition(topic: topic, partition: 5))), at: 4)
        }
        #expect(throws: MetadataError.invalidPartition(id, "the leader is not in the ISR")) {
            try image.apply(.partitionChange(PartitionChange(id: id, leader: .broker(3))), at: 5)
        }
        #expect(throws: MetadataError.unknownBroker(1, epoch: 0)) {
            try image.apply(.brokerChange(BrokerChange(id: 1, epoch: 0, fenced: true)), at: 6)
        }
        #expect(throws: MetadataError.unknownTopic(TopicID(high: 8, low: 8))) {
            try image.apply(.removeTopic(TopicID(high: 8, low: 8)), at: 7)
        }
    }

    @Test func topicConfigOverridesTheClusterDefault() throws {
        func config(_ resource: ConfigResource, _ value: String?) -> MetadataRecord {
            .config(ConfigChange(resource: resource, name: "segment.bytes", value: value))
        }
        var image = try image(oneTopic)
        #expect(image.segmentBytes(topic: "t") == 1 << 30)
        try image.apply(config(.clusterDefault, "2048"), at: 3)
        #expect(image.segmentBytes(topic: "t") == 2048)
        try image.apply(config(.topic("t"), "4096"), at: 4)
        #expect(image.segmentBytes(topic: "t") == 4096)
        #expect(image.segmentBytes(topic: "other") == 2048)
        try image.apply(config(.topic("t"), nil), at: 5)
        #expect(image.segmentBytes(topic: "t") == 2048)
    }

    @Test func minInSyncReplicasIsTwoWhereThereAreThreeAndNeverMoreThanTheReplicas() throws {
        var image = try image(oneTopic)
        #expect(image.minInSyncReplicas(topic: "t", replicas: 1) == 1)
        #expect(image.minInSyncReplicas(topic: "t", replicas: 2) == 1)
        #expect(image.minInSyncReplicas(topic: "t", replicas: 3) == 2)
        try image.apply(
            .config(
                ConfigChange(resource: .topic("t"), name: "min.insync.replicas", value: "5")), at: 3
        )
        #expect(image.minInSyncReplicas(topic: "t", replicas: 3) == 3)
    }
}
