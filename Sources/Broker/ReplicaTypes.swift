import Essentials
import Metadata
import NIOCore
import Protocol
import Records
import Storage

/// Where a produce request's records went.
struct ProduceOutcome: Equatable, Sendable {
    var baseOffset: Offset
    /// The number of records.
    var count: Int
    /// The timestamp that all of them got, where it is that of their append.
    var appendTime: Int64?

    init(baseOffset: Offset, count: Int, appendTime: Int64? = nil) {
        self.baseOffset = baseOffset
        self.count = count
        self.appendTime = appendTime
    }
}

/// What a fetch from a leader gives.
struct FetchOutcome: Sendable {
    /// Whole batches, the first of which contains the offset asked for; empty when nothing is there.
    var batches: ByteBuffer
    /// The offset after the last of them; `nil` when there is none.
    var end: Offset?
    var highWatermark: Offset
    var logStartOffset: Offset
    var leaderEpoch: LeaderEpoch
    /// For readers of committed transactions: where they can read to at most.
    var lastStableOffset: Offset?
    /// For the same: the transactions whose records they leave out.
    var aborted: [AbortedTransaction] = []
    /// The memory that the batches take up.
    var share: FetchMemory.Share?
}

/// Which records of transactions somebody reads.
enum ReadIsolation: Sendable {
    case uncommitted
    /// Those of committed ones only, and nothing from where the oldest open one begins.
    case committed

    init(_ wire: WireIsolation) {
        self = wire == .readCommitted ? .committed : .uncommitted
    }
}

/// The offset somebody asks a partition for.
enum OffsetQuery: Equatable, Sendable {
    /// The log start offset.
    case earliest
    /// The end of what is committed.
    case latest
    /// The first record with this timestamp or a later one, in milliseconds since 1970.
    case timestamp(Int64)
}

/// The answer to an `OffsetQuery`.
struct OffsetOutcome: Equatable, Sendable {
    /// `nil` when no committed record has that timestamp or a later one.
    var offset: Offset?
    /// The record's timestamp, for a query by timestamp.
    var timestamp: Int64?
    var leaderEpoch: LeaderEpoch
}

/// A wait that can be given up; used on the replica's event loop only.
final class WaitToken {
    let offset: Offset
    private var body: (() -> Void)?

    init(offset: Offset, body: @escaping () -> Void) {
        self.offset = offset
        self.body = body
    }

    func cancel() {
        body = nil
    }

    var isCancelled: Bool { body == nil }

    func fire() {
        let body = body
        self.body = nil
        body?()
    }
}

/// The settings of one topic that its replicas follow.
struct ReplicaSettings: Equatable, Sendable {
    enum FlushPolicy: Equatable, Sendable {
        /// Acknowledged only once on stable storage.
        case commit
        /// Every so often.
        case interval
        /// When the operating system likes.
        case system
    }

    var minInSyncReplicas: Int
    var flushPolicy: FlushPolicy
    var maxMessageBytes: Int
    /// The codec that batches are stored in; `nil` leaves each as its producer chose.
    var compression: Compression?
    var segmentBytes: Int
    /// The longest an append stays unflushed under `interval`.
    var flushInterval: Duration
    /// How many records may be appended unflushed under `interval`.
    var flushMessages = Int64.max
    /// The age at which a segment is closed.
    var segmentAge: Duration
    /// The size of an index at which its segment is closed.
    var segmentIndexBytes: Int
    var indexIntervalBytes: Int
    /// How long the files of removed records stay.
    var fileDeleteDelay: Duration
    var timestamps: TimestampSettings
    /// What is removed when it is old or too much; `nil` if only compaction removes anything.
    var retention: RetentionPolicy?
    /// How the log is compacted; `nil` if it isn't.
    var compaction: CompactionPolicy?

    /// What clients' batches must be like, and how they are stored.
    ///
    /// - Parameter wallClock: milliseconds since 1970.
    func appendRules(at wallClock: Int64) -> AppendRules {
        AppendRules(
            maxBatchBytes: maxMessageBytes, compression: compression,
            timestamps: timestamps.rule(at: wallClock), needsKeys: compaction != nil)
    }

    func apply(to config: inout LogConfig) {
        config.segmentBytes = segmentBytes
        config.segmentAge = segmentAge
        config.maxIndexBytes = segmentIndexBytes
        config.indexIntervalBytes = indexIntervalBytes
    }
}

/// What becomes of the timestamps that producers give their records.
struct TimestampSettings: Equatable, Sendable {
    var type = TopicTimestampType.create
    /// How many milliseconds before or after its append a record may claim to be.
    var beforeMax = Int64.max
    var afterMax: Int64 = 3_600_000

    var isAppendTime: Bool { type == .append }

    func rule(at wallClock: Int64) -> AppendRules.Timestamps {
        switch type {
        case .append: return .append(at: wallClock)
        case .create:
            let (earliest, isBelowAll) = wallClock.subtractingReportingOverflow(beforeMax)
            let (latest, isAboveAll) = wallClock.addingReportingOverflow(afterMax)
            let lower = isBelowAll ? 0 : max(earliest, 0)
            return .create(lower...max(lower, isAboveAll ? .max : latest))
        }
    }
}

/// A log and the disk it is on, on its way from one owner to the next or with its replica.
struct OpenedLog: Sendable {
    let log: Log
    let disk: ReplicaDisk
}
