import Essentials
import NIOCore
import Records
import Synchronization

/// The batches appended last, kept in memory so that readers at the end of the log need no file.
struct RecentBatches {
    private struct Piece {
        var baseOffset: Offset
        var nextOffset: Offset
        /// Whole batches, which follow on those of the piece before.
        var bytes: ByteBuffer
    }

    private let maxBytes: Int
    private let share = TailShare()
    private var pieces: [Piece] = []
    /// The pieces before this one are forgotten; they are removed many at a time.
    private var first = 0
    private var byteCount = 0

    init(maxBytes: Int) {
        self.maxBytes = maxBytes
    }

    mutating func append(_ bytes: ByteBuffer, offsets: Range<Offset>) {
        let maxBytes = min(maxBytes, share.bytes)
        guard bytes.readableBytes <= maxBytes else { return removeAll() }
        pieces.append(
            Piece(baseOffset: offsets.lowerBound, nextOffset: offsets.upperBound, bytes: bytes))
        byteCount += bytes.readableBytes
        while byteCount > maxBytes {
            byteCount -= pieces[first].bytes.readableBytes
            pieces[first].bytes = ByteBuffer()
            first += 1
        }
        if first > 32, first * 2 > pieces.count {
            pieces.removeFirst(first)
            first = 0
        }
    }

    mutating func removeAll() {
        pieces.removeAll()
        first = 0
        byteCount = 0
    }

    /// Forgets what lies below `end`.
    mutating func forget(below end: Offset) {
        while first < pieces.count, pieces[first].nextOffset <= end {
            byteCount -= pieces[first].bytes.readableBytes
            pieces[first].bytes = ByteBuffer()
            first += 1
        }
    }

    /// Forgets what lies at `end` or above.
    mutating func truncate(to end: Offset) {
        while pieces.count > first, let last = pieces.last, last.nextOffset > end {
            byteCount -= last.bytes.readableBytes
            pieces.removeLast()
        }
    }

    /// Whole batches from the one with `offset` on, all below `end`: at least one, and more while
    /// they fit.
    ///
    /// `nil` when the batch with `offset` isn't here.
    func read(from offset: Offset, below end: Offset, maxBytes: Int) -> ReadBatches? {
        let live = pieces[first...]
        var index = live.partitioningIndex { $0.nextOffset > offset }
        guard index < live.endIndex, live[index].baseOffset <= offset else { return nil }
        guard
            let (range, found) = Self.range(
                in: live[index].bytes, from: offset, below: end, maxBytes: maxBytes)
        else { return ReadBatches(end: offset) }
        var readEnd = found
        let bytes = live[index].bytes
        var result = bytes.getSlice(at: range.lowerBound, length: range.count) ?? ByteBuffer()
        // Whole pieces after it, while it is read to its end.
        var isWhole = range.upperBound == bytes.writerIndex
        index += 1
        while isWhole, index < live.endIndex {
            var bytes = live[index].bytes
            isWhole =
                live[index].nextOffset <= end
                && result.readableBytes + bytes.readableBytes <= maxBytes
            if isWhole {
                result.writeBuffer(&bytes)
                readEnd = live[index].nextOffset
            }
            index += 1
        }
        return ReadBatches(bytes: result, end: readEnd)
    }

    /// The part of a piece that a reader of `offset` is given, and the offset after it; `nil` when nothing lies below `end`.
    private static func range(
        in piece: ByteBuffer, from offset: Offset, below end: Offset, maxBytes: Int
    ) -> (Range<Int>, end: Offset)? {
        var start: Int?
        var readEnd = offset
        var index = piece.readerIndex
        while index < piece.writerIndex,
            // They were checked when they were appended.
            let batch = try? RecordBatchHeader(piece, at: index)
        {
            guard batch.nextOffset <= end else { break }
            if batch.nextOffset > offset {
                if let start, index + batch.totalSize - start > maxBytes { break }
                if start == nil { start = index }
                readEnd = batch.nextOffset
            }
            index += batch.totalSize
        }
        return start.map { ($0..<index, readEnd) }
    }
}

/// What one of the process's logs may keep in memory, so that all together stay within a bound.
private final class TailShare: Sendable {
    private static let totalBytes = 256 << 20
    private static let count = Atomic<Int>(0)

    init() {
        Self.count.add(1, ordering: .relaxed)
    }

    deinit {
        Self.count.subtract(1, ordering: .relaxed)
    }

    /// Shrinks as more logs open; those that were there before follow at their next append.
    var bytes: Int { Self.totalBytes / max(1, Self.count.load(ordering: .relaxed)) }
}
