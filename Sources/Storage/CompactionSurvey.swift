package import Essentials

/// How a topic wants its logs compacted.
package struct CompactionPolicy: Sendable, Hashable {
    /// The share of bytes not yet compacted from which on it is worth it (`min.cleanable.dirty.ratio`).
    package var minDirtyRatio = 0.5
    /// How long a record is safe (`min.compaction.lag.ms`).
    package var minLag = Duration.zero
    /// A record that is older makes compaction due whatever the ratio (`max.compaction.lag.ms`).
    package var maxLag: Duration?
    /// How long tombstones and transaction markers stay once nothing is left that they are about
    /// (`delete.retention.ms`).
    ///
    /// It has to be longer than a replica may be away, or a reader behind: what was removed meanwhile they
    /// never get to see, and keep what it hid.
    package var deleteRetention = Duration.seconds(86_400)

    package init() {}
}

/// A log's segments as they were at some moment: what compaction decides by, on any thread.
package struct CompactionSurvey: Sendable {
    struct Item: Sendable {
        let baseOffset: Offset
        /// Where the next segment starts, or the log ended.
        let endOffset: Offset
        let size: Int
        let isActive: Bool
        /// `nil` if it would have to be read.
        var maxTimestamp: Int64?
    }

    /// In the order of their offsets; the last is the one that is written.
    var items: [Item]
    /// Where the log starts.
    let start: Offset
    /// Everything below was compacted when it was last done.
    let firstDirty: Offset
    /// Everything below is committed, durable, and part of no open transaction.
    let limit: Offset
    /// Everything below is committed; the fate of a transaction shows up to here.
    let committedEnd: Offset
    let generation: UInt64
    let config: LogConfig
    let directory: String
    let fileSystem: any FileSystem
    let files: LogFolder
    let health: StorageHealth
    let store: (any LogCheckpointStore)?
    /// Producers whose sequences the log knows.
    let producers: Set<Int64>
    /// What `LogFolder` demands of whoever replaces segments.
    let permit: UInt64

    package var folder: String { String(directory.split(separator: "/").last ?? "") }
}

/// What there is to compact in a log.
package struct CompactionNeed: Sendable, Hashable {
    package var firstDirtyOffset: Offset
    /// Where it would have to stop.
    package var endOffset: Offset
    /// The bytes of the segments that are compacted.
    package var cleanBytes: Int
    /// The bytes of those that could be.
    package var dirtyBytes: Int
    /// Whether a record has waited for longer than it may.
    package var isOverdue: Bool

    package var dirtyRatio: Double {
        dirtyBytes == 0 ? 0 : Double(dirtyBytes) / Double(cleanBytes + dirtyBytes)
    }

    /// Whether it is to be done now.
    package func isDue(by policy: CompactionPolicy) -> Bool {
        dirtyBytes > 0 && (isOverdue || dirtyRatio > policy.minDirtyRatio)
    }
}

extension CompactionSurvey {
    /// What there is to do by `policy`; may read the indexes of segments.
    ///
    /// - Parameter now: milliseconds since 1970.
    package mutating func need(
        by policy: CompactionPolicy, now: Int64
    ) throws(LogError) -> CompactionNeed {
        var need = CompactionNeed(
            firstDirtyOffset: firstDirty, endOffset: firstDirty, cleanBytes: 0, dirtyBytes: 0,
            isOverdue: false)
        var hasSeenOldest = false
        for index in items.indices {
            let item = items[index]
            guard item.endOffset > firstDirty else {
                need.cleanBytes += item.size
                continue
            }
            guard !item.isActive, item.endOffset <= limit else { break }
            if policy.minLag > .zero {
                let newest = try maxTimestamp(of: index)
                guard newest < 0 || Self.age(of: newest, now) >= policy.minLag else { break }
            }
            if let maxLag = policy.maxLag, !hasSeenOldest,
                let oldest = segment(item).firstTimestamp, oldest >= 0
            {
                hasSeenOldest = true
                need.isOverdue = Self.age(of: oldest, now) > maxLag
            }
            need.dirtyBytes += item.size
            need.endOffset = item.endOffset
        }
        return need
    }

    /// How long ago `timestamp` was; the clock that gave it may have been ahead.
    static func age(of timestamp: Int64, _ now: Int64) -> Duration {
        let (age, overflow) = now.subtractingReportingOverflow(timestamp)
        return .milliseconds(overflow ? .max : age)
    }

    /// A segment of our own: the log's belongs to the log's owner.
    func segment(_ item: Item) -> Segment {
        Segment(
            baseOffset: item.baseOffset, directory: directory, size: item.size,
            durableSize: item.size, fileSystem: fileSystem, interval: config.indexIntervalBytes,
            copyOf: Segment.Identity())
    }

    private mutating func maxTimestamp(of index: Int) throws(LogError) -> Int64 {
        if let known = items[index].maxTimestamp { return known }
        let found = try segment(items[index]).readMaxTimestamp()
        items[index].maxTimestamp = found
        return found
    }
}
