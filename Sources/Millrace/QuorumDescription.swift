/// The metadata quorum, as its leader sees it.
public struct QuorumDescription: Sendable, Hashable {
    public var clusterID: String
    public var leaderID: Int32?
    public var leaderEpoch: Int32
    public var highWatermark: Int64
    /// The first offset that the leader's log still has; `nil` when not told.
    public var logStartOffset: Int64?
    /// Exclusive.
    public var logEndOffset: Int64?
    /// The leader's newest snapshot; `nil` when it has none.
    public var snapshot: SnapshotDescription?
    public var voters: [QuorumReplicaDescription]
    public var observers: [QuorumReplicaDescription]
}

/// A snapshot of the metadata, which stands for the records before its end.
public struct SnapshotDescription: Sendable, Hashable {
    /// Exclusive end of the records that it replaces.
    public var endOffset: Int64
    /// Leader epoch of the last of them.
    public var epoch: Int32
    public var sizeBytes: Int64?
}

/// A controller or broker that follows the metadata log.
public struct QuorumReplicaDescription: Sendable, Hashable {
    public var id: Int32
    /// The id of its metadata log directory; `nil` when not known.
    public var directoryID: String?
    /// `nil` when this leader has not heard from it.
    public var logEndOffset: Int64?
    /// Records it is behind the leader; `nil` when this leader has not heard from it.
    public var lag: Int64?
    /// Milliseconds since 1970; `nil` when this leader has not heard from it.
    public var lastFetchTimestamp: Int64?
    /// When it last held everything the leader then had.
    public var lastCaughtUpTimestamp: Int64?
    public var host: String
    public var port: Int
}

/// Who leads the quorum, and since which epoch.
public struct QuorumLeader: Sendable, Hashable {
    public var id: Int32
    public var epoch: Int32
}

/// What lies at a path of the cluster's metadata.
public struct MetadataEntry: Sendable, Hashable {
    public enum Content: Sendable, Hashable {
        /// Names of what lies below, sorted.
        case directory([String])
        /// JSON.
        case value(String)
    }

    public var path: String
    public var content: Content
    /// Exclusive end of the committed records that this is the result of.
    public var offset: Int64
}

/// Some records of the metadata log, decoded.
public struct MetadataDump: Sendable, Hashable {
    public struct Record: Sendable, Hashable {
        public var offset: Int64
        public var epoch: Int32
        /// When the leader appended it, in milliseconds since 1970.
        public var timestamp: Int64
        /// Such as "partitionChange", or "leaderChange" for one of the quorum's own.
        public var type: String
        /// JSON.
        public var value: String
    }

    public var records: [Record]
    /// Where to go on; equal to `highWatermark` at the end.
    public var nextOffset: Int64
    public var highWatermark: Int64
    /// The first offset that the log still has; a snapshot stands for what was before.
    public var logStartOffset: Int64
}
