/// Where reading a partition begins.
public enum StartPosition: Sendable, Hashable {
    /// The oldest record there is.
    case earliest
    /// After the last committed record.
    case latest
    case offset(Int64)
    /// The first record with this time or a later one, in milliseconds since 1970.
    case timestamp(Int64)
}

/// A partition to be read, and where to begin.
public struct ConsumerAssignment: Sendable, Hashable {
    public var topic: String
    public var partition: Int32
    public var start: StartPosition

    public init(topic: String, partition: Int32, start: StartPosition = .earliest) {
        self.topic = topic
        self.partition = partition
        self.start = start
    }
}

/// How a consumer fetches.
public struct ConsumerConfiguration: Sendable {
    /// What to do when the records at the position are gone (retention), or were never there.
    public enum OutOfRange: Sendable, Hashable {
        case fail
        case earliest
        case latest
    }

    /// Which records of transactions are read.
    public enum Isolation: Sendable, Hashable {
        case readUncommitted
        /// Reading goes up to where the oldest open transaction begins, and leaves out aborted ones.
        case readCommitted
    }

    /// A fetch answers with about this much of one partition, but at least one batch.
    public var fetchBytes = 1024 * 1024
    /// A fetch without anything to answer returns after this time.
    public var maxWait = Duration.milliseconds(500)
    /// How much may wait, fetched and not yet read, before fetching pauses: of one partition.
    public var prefetchBytes = 2 * 1024 * 1024
    /// The same for all partitions together.
    public var bufferBytes = 64 * 1024 * 1024
    public var outOfRange = OutOfRange.fail
    /// End when every partition has been read up to where its committed records ended at the start.
    public var stopsAtEnd = false
    /// Whether records of transactions that are open, or were aborted, are read too.
    public var isolation = Isolation.readUncommitted

    public init() {}

    func validate() throws(MillraceError) {
        guard fetchBytes > 0, fetchBytes <= 32 * 1024 * 1024 else {
            throw .invalidArgument("fetchBytes must lie between 1 and 33554432")
        }
        guard prefetchBytes > 0, bufferBytes > 0, maxWait >= .zero else {
            throw .invalidArgument("prefetchBytes and bufferBytes must be above 0")
        }
    }
}
