import Essentials
import Records

/// The aborted transactions of a log, by the segment that was written when their markers came.
///
/// What is in a piece's file is known by its summary; the last pieces that were asked for are in memory.
/// A piece stays when compaction merges its segment with others, and goes when none of the log's segments
/// starts as early.
struct TransactionIndexes {
    private struct Piece {
        var summary: TransactionIndexSummary
        /// `nil` if it has to be read.
        var index: TransactionIndex?
        /// Whether the file holds what `index` does.
        var isWritten = true
    }

    static let suffix = ".txnindex"
    private static let maxLoaded = 8

    private let directory: String
    private let fileSystem: any FileSystem
    /// In the order of their segments; none is empty.
    private var pieces: [Piece] = []

    init(directory: String, fileSystem: any FileSystem) {
        self.directory = directory
        self.fileSystem = fileSystem
    }

    var isEmpty: Bool { pieces.isEmpty }
    var summaries: [TransactionIndexSummary] { pieces.map(\.summary) }

    private func path(_ segment: Offset) -> String {
        "\(directory)/\(SegmentName(segment).transactionIndex)"
    }

    // MARK: Reading

    /// The aborted transactions that have records from `offset` on and below `end`, or may have.
    mutating func aborted(
        from offset: Offset, below end: Offset
    ) throws(LogError) -> [AbortedTransaction] {
        guard !pieces.isEmpty, offset < end else { return [] }
        var found: [AbortedTransaction] = []
        // What lies in earlier pieces ended below the next one's segment.
        let start = max(0, pieces.partitioningIndex { $0.summary.segment > offset } - 1)
        for number in start..<pieces.count {
            let entries = try load(number).entries
            for entry in entries[entries.partitioningIndex { $0.lastOffset >= offset }...] {
                if entry.firstOffset < end { found.append(entry) }
                // No transaction that ended later has anything below.
                if entry.lastStableOffset >= end { return found }
            }
        }
        return found
    }

    private mutating func load(_ number: Int) throws(LogError) -> TransactionIndex {
        if let index = pieces[number].index { return index }
        let summary = pieces[number].summary
        guard let index = try read(summary) else {
            throw .unexpectedFile(
                path(summary.segment),
                reason: "it is not the index that was written")
        }
        pieces[number].index = index
        let loaded = pieces.indices.dropLast().filter {
            pieces[$0].index != nil && pieces[$0].isWritten && $0 != number
        }
        if loaded.count >= Self.maxLoaded { pieces[loaded[0]].index = nil }
        return index
    }

    /// The entries that `summary` speaks of; `nil` if the file does not begin with them.
    private func read(_ summary: TransactionIndexSummary) throws(LogError) -> TransactionIndex? {
        let bytes = try io { () throws(FileError) in
            try fileSystem.readFile(path(summary.segment))
        }
        let (size, overflow) = summary.count.multipliedReportingOverflow(
            by: TransactionIndex.entrySize)
        guard let bytes, !overflow, bytes.count >= size,
            let index = TransactionIndex(decoding: [UInt8](bytes[..<size])),
            TransactionIndexSummary(index, of: summary.segment) == summary
        else { return nil }
        return index
    }

    /// Takes over the pieces that a snapshot speaks of; false if one is not there as it was.
    mutating func adopt(_ summaries: [TransactionIndexSummary]) throws(LogError) -> Bool {
        pieces = []
        for summary in summaries {
            guard let index = try read(summary) else {
                pieces = []
                return false
            }
            pieces.append(Piece(summary: summary, index: index))
        }
        return true
    }

    // MARK: Changing

    /// Adds a transaction whose marker was appended to the segment at `segment`.
    mutating func append(_ entry: AbortedTransaction, to segment: Offset) {
        // Compaction may have merged the segment of the last piece with those before it.
        let segment = max(segment, pieces.last?.summary.segment ?? segment)
        if pieces.last?.summary.segment != segment {
            // A file of this name says nothing about this log.
            try? fileSystem.remove(path(segment))
            // Only the last piece is always in memory.
            if let last = pieces.indices.last, pieces[last].isWritten { pieces[last].index = nil }
            pieces.append(
                Piece(
                    summary: TransactionIndexSummary(segment: segment, count: 0, crc: 0),
                    index: TransactionIndex()))
        }
        let last = pieces.count - 1
        if pieces[last].index == nil { pieces[last].index = try? load(last) }
        let position = pieces[last].summary.count * TransactionIndex.entrySize
        pieces[last].index?.append(entry)
        pieces[last].summary.add(entry)
        guard pieces[last].isWritten else { return }
        do throws(FileError) {
            let file = try fileSystem.open(path(segment), position == 0 ? .create : .readWrite)
            try file.write(array: TransactionIndex.encode(entry), at: position)
        } catch {
            // What is in memory holds, and is written again when the log is closed.
            pieces[last].isWritten = false
        }
    }

    /// Writes what could not be written before.
    mutating func writeOutstanding() {
        for number in pieces.indices where !pieces[number].isWritten { write(number) }
    }

    private mutating func write(_ number: Int) {
        guard let index = pieces[number].index else { return }
        do throws(FileError) {
            let file = try fileSystem.open(path(pieces[number].summary.segment), .create)
            try file.write(array: index.encoded, at: 0)
            pieces[number].isWritten = true
        } catch {
            pieces[number].isWritten = false
        }
    }

    /// Forgets what ended at `end` or above: the log is cut there.
    mutating func truncate(to end: Offset) throws(LogError) {
        while let last = pieces.indices.last {
            if pieces[last].summary.segment >= end {
                try remove(last)
                continue
            }
            var index = try load(last)
            guard index.truncate(to: end) else { return }
            if index.entries.isEmpty {
                try remove(last)
                continue
            }
            pieces[last].index = index
            pieces[last].summary = TransactionIndexSummary(
                index, of: pieces[last].summary.segment)
            write(last)
            return
        }
    }

    /// Forgets the transactions whose markers compaction has removed: a reader would wait for those in vain.
    mutating func forget(markers: Set<Offset>) throws(LogError) {
        guard let first = markers.min(), let last = markers.max() else { return }
        for number in pieces.indices.reversed() {
            guard pieces[number].summary.segment <= last else { continue }
            var index = try load(number)
            if index.remove(markers: markers) {
                if index.entries.isEmpty {
                    try remove(number)
                } else {
                    pieces[number].index = index
                    pieces[number].summary = TransactionIndexSummary(
                        index, of: pieces[number].summary.segment)
                    write(number)
                }
            }
            // All in the pieces before ended below this one's segment.
            if pieces.indices.contains(number), pieces[number].summary.segment <= first { return }
        }
    }

    private mutating func remove(_ number: Int) throws(LogError) {
        let segment = pieces[number].summary.segment
        try io { () throws(FileError) in try fileSystem.remove(path(segment)) }
        pieces.remove(at: number)
    }

    /// Forgets the pieces of segments before `segment`, the first that is left.
    mutating func removeAll(before segment: Offset) {
        while let first = pieces.first, first.summary.segment < segment {
            // One that stays is removed at the next start.
            try? fileSystem.remove(path(first.summary.segment))
            pieces.removeFirst()
        }
    }

    /// Makes the files those of the pieces in memory, after all was made again.
    ///
    /// - Parameter found: the segments that there are files of.
    mutating func settleFiles(found: [Offset]) {
        let kept = Set(pieces.map(\.summary.segment))
        for segment in found where !kept.contains(segment) {
            try? fileSystem.remove(path(segment))
        }
        for number in pieces.indices {
            guard let index = pieces[number].index else { continue }
            let bytes = try? fileSystem.readFile(path(pieces[number].summary.segment))
            if bytes != index.encoded { write(number) }
        }
        for number in pieces.indices.dropLast() where pieces[number].isWritten {
            pieces[number].index = nil
        }
    }
}

extension SegmentName {
    var transactionIndex: String { digits + TransactionIndexes.suffix }
    var producerSnapshot: String { digits + ProducerSnapshots.suffix }
}
