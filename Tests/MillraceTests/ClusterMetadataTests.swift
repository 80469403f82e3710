internal import Essentials
internal import Protocol
internal import Testing

@testable internal import Millrace

@Suite struct ClusterMetadataTests {
    @Test func anOlderAnswerDoesNotBringBackAnOldLeader() {
        var metadata = ClusterMetadata()
        metadata.merge(.describing("t", leaders: [(leader: 2, epoch: 5)]))
        metadata.merge(.describing("t", leaders: [(leader: 1, epoch: 4)]))
        #expect(metadata.leader(of: 0, in: "t")?.broker == 2)
        metadata.merge(.describing("t", leaders: [(leader: nil, epoch: 6)]))
        #expect(metadata.leader(of: 0, in: "t") == nil)
    }

    @Test func aTopicCreatedAgainStartsAfresh() {
        var metadata = ClusterMetadata()
        metadata.merge(.describing("t", leaders: [(leader: 2, epoch: 5), (leader: 1, epoch: 3)]))
        metadata.merge(.describing("t", id: .secondTest, leaders: [(leader: 1, epoch: 0)]))
        #expect(metadata.topics["t"]?.partitions.count == 1)
        #expect(metadata.leader(of: 0, in: "t")?.epoch == 0)
    }

    @Test func partitionsOutsideAnyRangeAreIgnored() {
        var answer = WireMetadataResponse.describing("t", leaders: [(leader: 1, epoch: 0)])
        answer.topics[0].partitions[0].partition = -7
        var metadata = ClusterMetadata()
        metadata.merge(answer)
        #expect(metadata.leader(of: 0, in: "t") == nil)
    }

    @Test func anErrorStandsUntilTheTopicIsDescribed() {
        var metadata = ClusterMetadata()
        var answer = WireMetadataResponse.describing("t", leaders: [])
        answer.topics[0].error = "UNKNOWN_TOPIC_OR_PARTITION"
        metadata.merge(answer)
        #expect(metadata.topicErrors["t"] == "UNKNOWN_TOPIC_OR_PARTITION")
        metadata.merge(.describing("t", leaders: [(leader: 1, epoch: 0)]))
        #expect(metadata.topicErrors["t"] == nil)
    }
}

extension TopicID {
    static let firstTest = TopicID(high: 1, low: 1)
    static let secondTest = TopicID(high: 2, low: 2)
}

extension WireMetadataResponse {
    /// Brokers 1 and 2, and one topic.
    static func describing(
        _ topic: String, id: TopicID = .firstTest, leaders: [(leader: Int32?, epoch: Int32)]
    ) -> WireMetadataResponse {
        var answer = WireMetadataResponse()
        answer.brokers = [Int32(1), 2].map { id in
            var broker = WireBrokerNode()
            broker.id = id
            broker.host = "127.0.0.1"
            broker.port = 9091 + id
            return broker
        }
        var described = WireTopicMetadata()
        described.name = topic
        described.topicID = id.description
        described.partitions = leaders.enumerated().map { index, state in
            var partition = WirePartitionMetadata()
            partition.partition = Int32(index)
            partition.leaderEpoch = state.epoch
            if let leader = state.leader { partition.leader = leader }
            return partition
        }
        answer.topics = [described]
        return answer
    }
}
