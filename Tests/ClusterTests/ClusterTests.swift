import Testing

/// Real processes, one cluster at a time.
@Suite(.serialized, .timeLimit(.minutes(5)))
struct ClusterTests {}

/// What `topic describe --output json` answers.
struct TopicDescription: Decodable {
    struct Partition: Decodable {
        var partition: Int
        var leader: Int?
        var leaderEpoch: Int
        var replicas: [Int]
        var isr: [Int]
    }

    var name: String
    var topicId: String
    var partitions: [Partition]
}

/// What `quorum status --output json` answers.
struct QuorumStatus: Decodable {
    struct Replica: Decodable {
        var id: Int
    }

    var clusterId: String
    var leaderId: Int
    var leaderEpoch: Int
    var voters: [Replica]
    var observers: [Replica]
}

extension Cluster {
    func describe(_ topic: String) async throws -> TopicDescription {
        try await millrace("topic", "describe", topic, as: TopicDescription.self)
    }

    func quorum() async throws -> QuorumStatus {
        try await millrace("quorum", "status", as: QuorumStatus.self)
    }
}
