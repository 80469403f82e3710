import Essentials
import NIOCore
import Records
import Storage

/// Where a produce request's records went.
struct ProduceOutcome: Equatable, Sendable {
    var baseOffset: Offset
    /// The number of records.
    var count: Int

    init(baseOffset: Offset, count: Int) {
        self.baseOffset = baseOffset
        self.count = count
    }
}

/// What a fetch from a leader gives.
struct FetchOutcome: Sendable {
    /// Whole batches, the first of which contains the offset asked for; empty when nothing is there.
    var batches: ByteBuffer
    var highWatermark: Offset
    var logStartOffset: Offset
    var leaderEpoch: LeaderEpoch
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
    /// What is removed when it is old or too much; `nil` if only compaction removes anything.
    var retention: RetentionPolicy?

    /// What clients' batches must be like, and how they are stored.
    var appendRules: AppendRules {
        AppendRules(maxBatchBytes: maxMessageBytes, compression: compression)
    }
}

/// A log and the disk it is on, on its way from one owner to the next or with its replica.
struct OpenedLog: Sendable {
    let log: Log
    let disk: ReplicaDisk
}
