/// A topic and where its partitions are.
public struct TopicDescription: Sendable, Hashable {
    public var name: String
    public var id: String
    public var partitions: [PartitionDescription]
}

public struct PartitionDescription: Sendable, Hashable {
    public var partition: Int32
    /// `nil` while the partition has no leader.
    public var leader: Int32?
    public var leaderEpoch: Int32
    /// The preferred leader first.
    public var replicas: [Int32]
    public var isr: [Int32]
    public var eligibleLeaderReplicas: [Int32]
    /// Replicas that can't serve: their broker is not live, or can't use this log, because of a log
    /// directory that failed or of damaged records.
    public var offlineReplicas: [Int32]
}

/// What one replica takes on its broker's disk.
public struct ReplicaLogDescription: Sendable, Hashable {
    public var broker: Int32
    /// The log directory it is in.
    public var directory: String
    public var topic: String
    public var partition: Int32
    /// The bytes of all segments.
    public var size: Int64
    public var logStartOffset: Int64
    public var logEndOffset: Int64
    public var segments: Int
    /// The copy that a move to this directory makes; `nil` for the replica itself.
    public var move: ReplicaLogMove?
    /// How far it is compacted; `nil` for a topic that isn't.
    public var compaction: LogCompactionDescription?
}

/// How far a replica's move to another log directory has come.
public struct ReplicaLogMove: Sendable, Hashable {
    public var copiedBytes: Int64
    /// 0 until it begins.
    public var totalBytes: Int64
    /// Why it was given up; `nil` while it goes on.
    public var error: String?
}

/// How far a replica's log is compacted.
public struct LogCompactionDescription: Sendable, Hashable {
    /// Everything below is compacted.
    public var firstDirtyOffset: Int64
    /// The bytes that could be compacted; `nil` before the broker has looked for the first time.
    public var dirtyBytes: Int64?
    /// The share of them in what is compacted or could be.
    public var dirtyRatio: Double?
    /// How far the compaction is that is under way, from 0 to 1; `nil` without one.
    public var progress: Double?
}

/// A topic to be created.
public struct NewTopic: Sendable, Hashable {
    public var name: String
    /// The cluster's default when `nil`.
    public var partitions: Int32?
    /// The cluster's default when `nil`: 3, or as many as there are brokers.
    public var replicationFactor: Int32?
    /// Topic configs by Kafka's names, such as `min.insync.replicas`.
    public var configs: [String: String]

    public init(
        name: String, partitions: Int32? = nil, replicationFactor: Int32? = nil,
        configs: [String: String] = [:]
    ) {
        self.name = name
        self.partitions = partitions
        self.replicationFactor = replicationFactor
        self.configs = configs
    }
}

/// A topic that has just been created.
public struct CreatedTopic: Sendable, Hashable {
    public var name: String
    public var id: String
    public var partitions: Int32
    public var replicationFactor: Int32
}

public struct ClusterDescription: Sendable, Hashable {
    public var clusterID: String
    /// `nil` while no controller leads.
    public var activeController: Int32?
    public var nodes: [NodeDescription]
}

public struct NodeDescription: Sendable, Hashable {
    public enum Role: String, Sendable, Hashable {
        case broker
        case controller
    }

    public var id: Int32
    public var role: Role
    public var host: String
    public var port: Int
    public var rack: String?
    /// Brokers only: registered, but not serving.
    public var isFenced: Bool?
    public var brokerEpoch: Int64?
    /// Brokers only: how many partitions it leads, and hosts.
    public var leaders: Int?
    public var replicas: Int?
    /// Brokers only: how many of these replicas it can't use, because of a log directory that failed or
    /// of damaged records.
    public var offlineReplicas: Int?
}

/// An offset found by `Admin.offset(of:)`.
public struct FoundOffset: Sendable, Hashable {
    /// `nil` when no record has the time asked for, or a later one.
    public var offset: Int64?
    public var timestamp: Int64?
    public var leaderEpoch: Int32?
}
