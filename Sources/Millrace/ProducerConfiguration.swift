internal import Records

/// Which replicas must hold a record before it counts as sent.
public enum Acks: String, Sendable, Hashable, CaseIterable {
    /// Every in-sync replica, on stable storage. Survives the loss of brokers.
    case all
    /// The leader alone: lost if the leader dies before its followers have it.
    case leader
    /// Nobody: sent, and forgotten.
    case none
}

/// What makes batches smaller on their way and on the brokers' disks; consumers need not know.
public enum Compression: String, Sendable, Hashable, CaseIterable {
    case none
    /// Small, and slow to make.
    case gzip
    case snappy
    /// Fast, above all for those who read.
    case lz4
    /// As small as gzip, in a fraction of its time.
    case zstd
}

/// How a producer batches, waits and retries.
public struct ProducerConfiguration: Sendable {
    public var acks = Acks.all
    /// A batch this large is closed and sent.
    ///
    /// One larger record makes a batch of its own.
    public var batchBytes = 128 * 1024
    /// How long a batch waits for company before it is sent.
    ///
    /// Zero is adaptive: a record leaves at once when nothing of its partition is under way, and
    /// otherwise gathers with others until the answer is there. That is best for latency, and
    /// batches grow by themselves under load; a few milliseconds save CPU at middling rates.
    public var linger = Duration.zero
    /// How many batches travel in one request, at most, by their bytes.
    public var maxRequestBytes = 1024 * 1024
    /// Records waiting or under way may take this much memory; then `send` waits.
    public var bufferBytes = 64 * 1024 * 1024
    /// How long a record may take from `send` to its acknowledgement, retries included.
    public var deliveryTimeout = Duration.seconds(120)
    /// Larger records are refused at once.
    public var maxRecordBytes = 1024 * 1024
    /// The codec of batches; one that would not become smaller is sent as it is.
    ///
    /// None unless asked for: on loopback, where neither network nor disk is scarce, lz4 sends lines
    /// of JSON about as fast as none does, but a core of the client compresses no more than half a
    /// gigabyte a second. Where they are scarce take lz4, for a third of the bytes and a quarter less
    /// work for the brokers, or zstd, for a fifth.
    public var compression = Compression.none
    /// Called on the client's event loop for every batch that was acknowledged or failed; must not
    /// block.
    ///
    /// For bulk senders, who need no answer for each record.
    public var onDelivery: (@Sendable (DeliveryReport) -> Void)?

    public init() {}

    func validate() throws(MillraceError) {
        guard batchBytes > 0, maxRequestBytes > 0, maxRecordBytes > 0 else {
            throw .invalidArgument("batchBytes, maxRequestBytes and maxRecordBytes must be above 0")
        }
        guard bufferBytes >= batchBytes else {
            throw .invalidArgument("bufferBytes must hold at least one batch (batchBytes)")
        }
        guard linger >= .zero, deliveryTimeout > linger else {
            throw .invalidArgument("deliveryTimeout must be longer than linger, which starts at 0")
        }
    }
}

/// What became of one batch.
public struct DeliveryReport: Sendable {
    public var topic: String
    public var partition: Int32
    public var recordCount: Int
    /// Bytes of the records, as they count against `bufferBytes`.
    public var bytes: Int
    /// Offset of the first record, or why the batch failed.
    ///
    /// The offset is -1 with `Acks.none`.
    public var result: Result<Int64, MillraceError>
}

extension Compression {
    var codec: Records.Compression {
        switch self {
        case .none: .none
        case .gzip: .gzip
        case .snappy: .snappy
        case .lz4: .lz4
        case .zstd: .zstd
        }
    }
}
