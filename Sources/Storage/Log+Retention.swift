package import Essentials

/// What of a log is old, or too much, may be removed.
package struct RetentionPolicy: Sendable, Hashable {
    /// How long records are kept, by their own timestamps (`retention.ms`); `nil` for ever.
    package var maxAge: Duration?
    /// How many bytes are kept at least (`retention.bytes`); `nil` for no limit.
    package var minBytes: Int64?

    package init(maxAge: Duration?, minBytes: Int64?) {
        self.maxAge = maxAge
        self.minBytes = minBytes
    }

    /// Whether it ever removes anything.
    package var removesNothing: Bool { maxAge == nil && minBytes == nil }
}

/// A log's segments that hold only what is committed, as they were at some moment: what retention
/// decides by, on any thread.
package struct RetentionSurvey: Sendable {
    struct Item: Sendable {
        let baseOffset: Offset
        /// Where the next segment starts, or the log ends.
        let endOffset: Offset
        let size: Int
        /// `nil` if it would have to be read.
        var maxTimestamp: Int64?
    }

    /// In the order of their offsets; the last may be the one that is written.
    private(set) var items: [Item]
    /// The bytes of the whole log.
    let byteCount: Int
    let generation: UInt64
    let directory: String
    let fileSystem: any FileSystem
    let interval: Int

    /// Whether there is nothing that could be removed.
    package var isEmpty: Bool { items.isEmpty }

    init(
        items: [Item], byteCount: Int, generation: UInt64, directory: String,
        fileSystem: any FileSystem, interval: Int
    ) {
        self.items = items
        self.byteCount = byteCount
        self.generation = generation
        self.directory = directory
        self.fileSystem = fileSystem
        self.interval = interval
    }

    /// Where the log is to start by `policy`; `nil` if all of it stays.
    ///
    /// A segment goes by age when the newest record in it is too old, and none is left before it. One
    /// without any timestamp goes with the next that has one. May read the indexes of segments.
    ///
    /// - Parameter now: milliseconds since 1970.
    package mutating func start(
        by policy: RetentionPolicy, now: Int64
    ) throws(LogError) -> Offset? {
        var obsolete = 0
        if let maxAge = policy.maxAge {
            for index in items.indices {
                let newest = try maxTimestamp(of: index)
                guard newest >= 0 else { continue }
                let (age, overflow) = now.subtractingReportingOverflow(newest)
                guard !overflow, age > 0, .milliseconds(age) > maxAge else { break }
                obsolete = index + 1
            }
        }
        if let minBytes = policy.minBytes {
            var left = Int64(clamping: byteCount)
            for (index, item) in items.enumerated() {
                left -= Int64(clamping: item.size)
                // It stays when less than what is wanted would be left.
                guard left >= minBytes else { break }
                obsolete = max(obsolete, index + 1)
            }
        }
        return obsolete > 0 ? items[obsolete - 1].endOffset : nil
    }

    private mutating func maxTimestamp(of index: Int) throws(LogError) -> Int64 {
        if let known = items[index].maxTimestamp { return known }
        let item = items[index]
        // Of its own: the log's segment belongs to the log's owner.
        let segment = Segment(
            baseOffset: item.baseOffset, directory: directory, size: item.size,
            durableSize: item.size, fileSystem: fileSystem, interval: interval)
        let found = try segment.readMaxTimestamp()
        items[index].maxTimestamp = found
        return found
    }
}

/// A new log start that has yet to be noted; perform it on any thread.
package struct LogStartTicket: Sendable {
    package let start: Offset
    let folder: String
    let generation: UInt64
    let store: (any LogCheckpointStore)?
    let files: LogFolder
    let health: StorageHealth
    /// The changes to the folder that have to be durable first; `nil` if all are.
    let directoryChanges: UInt64?

    /// Notes the start, durably; a crash from now on can't bring back what lies below.
    package func perform() throws(LogError) {
        // The segment that begins at the start has to be there when those before it are not.
        if directoryChanges != nil {
            try health.watch { () throws(FileError) in try files.sync() }
        }
        // That the log was truncated meanwhile is noticed when the ticket comes back.
        _ = try store?.raiseLogStart(folder, to: start, generation: generation)
    }
}

/// Segments that a log has no more; their files are removed in two steps, on any thread.
package struct RetiredSegments: Sendable {
    let names: [SegmentName]
    let folder: LogFolder
    let health: StorageHealth
    package let byteCount: Int

    package var count: Int { names.count }

    /// Renames the files, so that a person and the next start see that they are to go.
    ///
    /// If that fails, the next start finds them below the log start, and removes them.
    package func rename() throws(LogError) {
        _ = try health.watch { () throws(FileError) in try folder.renameRetired() }
    }

    /// Removes the renamed files.
    package func remove() throws(LogError) {
        try health.watch { () throws(FileError) in
            for name in names { try folder.removeRetired(name) }
        }
    }
}

/// Retention, and deleting records: what is decided, and noted, elsewhere takes effect here.
///
/// First `survey`, on any thread `RetentionSurvey.start`; or any other new start. Then `prepareStart`,
/// on any thread `LogStartTicket.perform`; then `completeStart`, and on any thread what that returns.
extension Log {
    /// The segments that lie below `limit`, which is committed; also the one that is written, if all of
    /// it does.
    package func survey(below limit: Offset) -> RetentionSurvey {
        var items: [RetentionSurvey.Item] = []
        for (index, segment) in segments.enumerated() {
            let isLast = index == segments.count - 1
            let end = isLast ? logEndOffset : segments[index + 1].baseOffset
            guard end <= limit, !isLast || segment.size > 0 else { break }
            items.append(
                RetentionSurvey.Item(
                    baseOffset: segment.baseOffset, endOffset: end, size: segment.size,
                    maxTimestamp: segment.maxTimestamp))
        }
        return RetentionSurvey(
            items: items, byteCount: byteCount, generation: generation, directory: directory,
            fileSystem: fileSystem, interval: config.indexIntervalBytes)
    }

    /// Takes back a survey for what it has found out, and returns how far `start`, which it gave, still
    /// holds.
    ///
    /// If that is where the log ends, the segment that is written is closed first, so that a topic where
    /// nothing happens empties too.
    package func settle(_ survey: RetentionSurvey, start: Offset) throws(LogError) -> Offset? {
        // Of a log that has been truncated since, it says nothing.
        guard survey.generation == generation else { return nil }
        for item in survey.items {
            guard let found = item.maxTimestamp else { continue }
            // The one that is written may have grown since.
            for segment in segments.dropLast() where segment.baseOffset == item.baseOffset {
                if segment.maxTimestamp == nil { segment.note(maxTimestamp: found) }
            }
        }
        guard start > active.baseOffset else { return start }
        guard start == logEndOffset else { return active.baseOffset }
        try roll()
        return start
    }

    /// Begins to move the log start up to `start`; `nil` if it is there already.
    ///
    /// The caller sees to it that `start` is committed.
    /// - Throws: `LogError.offsetOutOfRange` above what is durable.
    package func prepareStart(_ start: Offset) throws(LogError) -> LogStartTicket? {
        try checkWritable()
        guard start <= durableOffset else {
            throw .offsetOutOfRange(start, valid: durableOffsets)
        }
        guard start > logStartOffset else { return nil }
        // Nothing in the segment that is written would be left.
        if start == logEndOffset { try roll() }
        startBeingNoted = max(startBeingNoted ?? start, start)
        let changes = directoryChanges
        return LogStartTicket(
            start: start, folder: folder, generation: generation, store: store, files: files,
            health: health, directoryChanges: changes.made > changes.durable ? changes.made : nil)
    }

    /// Where the log may start; what is durable ends below the start while a log that begins within a
    /// batch has not been flushed.
    var durableOffsets: ClosedRange<Offset> {
        logStartOffset...max(logStartOffset, durableOffset)
    }

    /// Lets the log start where `ticket`, which was performed, says.
    ///
    /// The records below may not be read any more. Returns the segments that hold no others, which the
    /// log no longer has.
    package func completeStart(_ ticket: LogStartTicket) -> RetiredSegments? {
        // A log that has been truncated, or closed, meanwhile starts where that left it.
        guard ticket.generation == generation, refusal == nil else { return nil }
        if let changes = ticket.directoryChanges {
            directoryChanges.durable = max(directoryChanges.durable, changes)
        }
        if startBeingNoted == ticket.start { startBeingNoted = nil }
        guard ticket.start > logStartOffset else { return nil }
        logStartOffset = ticket.start
        if epochs.advanceStart(to: ticket.start) { epochsVersion += 1 }
        let obsolete = segments[..<segmentIndex(for: ticket.start)]
        guard !obsolete.isEmpty else { return nil }
        let retired = RetiredSegments(
            names: obsolete.map(\.name), folder: files, health: health,
            byteCount: obsolete.reduce(0) { $0 + $1.size })
        recentlyRead.removeAll { read in obsolete.contains { $0 === read } }
        segments.removeFirst(obsolete.count)
        producers.transactions.removeAll(before: segments[0].baseOffset)
        files.retire(retired.names)
        return retired
    }
}
