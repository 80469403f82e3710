/// How one log is laid out on disk.
package struct LogConfig: Sendable, Hashable {
    /// A segment that would grow past this many bytes is closed and a new one started; only a
    /// single batch that is larger makes a larger segment (`segment.bytes`).
    package var segmentBytes = 1 << 30
    /// A segment is closed when a batch is this much younger than the segment's first
    /// (`segment.ms`); `nil`: however old it gets.
    package var segmentAge: Duration?
    /// A segment is closed when one of its indexes has grown to so many bytes (`segment.index.bytes`).
    package var maxIndexBytes = 10 << 20
    /// The bytes between two entries of the offset index (`index.interval.bytes`).
    package var indexIntervalBytes = 4_096
    /// The most bytes of just-appended batches that are kept in memory for readers at the end; less
    /// where many logs are open.
    package var tailBytes = 1 << 20
    /// Whether offsets may be missing between batches, as they are after compaction.
    package var allowsOffsetGaps = false
    /// Whether there may be idempotent producers, whose sequences are followed.
    package var tracksProducers = true

    package init() {}
}
