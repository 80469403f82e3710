package import Essentials
package import NIOCore
import Records

/// Looks for whole batches, from the one with the record at `offset` on.
struct BatchSearch: LogSearch {
    let offset: Offset
    /// Batches that end above are left out.
    let end: Offset
    /// Where the log ends, or ended when this began.
    let logEnd: Offset
    let maxBytes: Int
    let allowsGaps: Bool
    /// The bytes between two entries of the index.
    let interval: Int

    /// What a reader that goes on where it ended will want next is fetched from the disk meanwhile.
    private static let prefetchedBytes = 4 << 20

    /// More than one only where compaction has left little in them.
    let segmentsAtOnce = 4

    var failure: LogError? { allowsGaps ? nil : .missingRecords(from: offset, to: end) }

    func begin(in log: Log) throws(LogError) -> LogRead<ReadBatches> {
        try log.readCached(from: offset, below: end, maxBytes: maxBytes)
    }

    func isWithin(_ log: Log) -> Bool { offset >= log.logStartOffset }

    func segmentsEnd(in log: Log, from first: Int) -> Int {
        // Only compaction may leave nothing in the segment where it should be.
        allowsGaps ? log.segments.count : min(log.segments.count, first + 1)
    }

    func mayBeIn(_ segment: Segment) -> Bool { true }

    func knownStart(in segment: Segment, of log: Log) -> Int? {
        log.readPlaces.position(of: offset, in: segment, generation: log.generation)
    }

    func settle(_ batches: ReadBatches, in log: Log) -> ReadBatches {
        if let place = batches.place, batches.end < log.logEndOffset {
            log.readPlaces.note(place, of: batches.end, generation: log.generation)
        }
        return batches
    }

    func start(in index: SegmentIndex) -> Int { index.position(for: offset) }

    func look(in segment: SegmentReader) throws(LogError) -> ReadBatches? {
        var position = try segment.start(of: self)
        var wanted = max(0, min(maxBytes, 1 << 30))
        // What lies between the index entry and the batch comes on top.
        if !segment.isStartExact { wanted += interval }
        while position < segment.size {
            let count = min(wanted, segment.size - position)
            let chunk = try segment.bytes(at: position, count: count)
            var part = ChunkWalk(
                chunk, at: position, of: segment, end: end, logEnd: logEnd,
                maxBytes: maxBytes, allowsGaps: allowsGaps)
            switch try part.run(from: offset) {
            case .batches(let batches, let end, let next):
                // A reader at the end of the chunk is likely to come back for what follows.
                if segment.waits, next < segment.size {
                    let ahead = position + count
                    let until = min(segment.size, ahead + Self.prefetchedBytes)
                    if ahead < until { try segment.file().prefetch(ahead..<until) }
                }
                return ReadBatches(
                    bytes: batches, end: end,
                    place: ReadPlace(segment: segment.identity, position: next))
            case .needs(let next, let bytes):
                // A batch too large for the chunk, or the chunk held only batches below `offset`.
                position = next
                wanted = max(bytes, wanted)
            }
        }
        return nil
    }
}

/// Batches that were read, and where what follows them is.
package struct ReadBatches: Sendable {
    package var bytes = ByteBuffer()
    /// The offset after the last of them, or the one that was asked for if there is none.
    package var end: Offset
    /// `nil` if they came from memory.
    var place: ReadPlace?

    /// None, at `end`.
    package init(end: Offset) {
        self.end = end
    }

    init(bytes: ByteBuffer, end: Offset, place: ReadPlace? = nil) {
        self.bytes = bytes
        self.end = end
        self.place = place
    }
}

/// Where in a log's files a batch begins.
struct ReadPlace: Sendable {
    let segment: Segment.Identity
    let position: Int
}

/// Where the readers of a log that came last will go on, so that they need neither the index nor what
/// lies between its entry and the batch.
struct ReadPlaces {
    private struct Entry {
        var offset: Offset
        var place: ReadPlace
    }

    private var entries: [Entry] = []
    /// The entry to be replaced next.
    private var oldest = 0
    /// The log's when the entries were made; they are of no use after a truncation.
    private var generation: UInt64 = 0

    private static let limit = 16

    /// A reader that got everything below `offset` goes on at `place`.
    mutating func note(_ place: ReadPlace, of offset: Offset, generation: UInt64) {
        if generation != self.generation {
            self.generation = generation
            entries = []
            oldest = 0
        }
        let entry = Entry(offset: offset, place: place)
        if let index = entries.firstIndex(where: { $0.offset == offset }) {
            entries[index] = entry
        } else if entries.count < Self.limit {
            entries.append(entry)
        } else {
            entries[oldest] = entry
            oldest = (oldest + 1) % Self.limit
        }
    }

    func position(of offset: Offset, in segment: Segment, generation: UInt64) -> Int? {
        guard generation == self.generation else { return nil }
        let found = entries.first { $0.offset == offset && $0.place.segment === segment.identity }
        return found?.place.position
    }
}

/// Finds the batches to return in a piece of a segment.
private struct ChunkWalk {
    enum Outcome {
        /// The last of them ends at `end`, and `position` in the segment.
        case batches(ByteBuffer, end: Offset, position: Int)
        /// Nothing yet: `bytes` are needed from `position` on.
        case needs(position: Int, bytes: Int)
    }

    private let chunk: ByteBuffer
    private let start: Int
    private let segment: SegmentReader
    private let end: Offset
    private let logEnd: Offset
    private let maxBytes: Int
    private let allowsGaps: Bool

    init(
        _ chunk: ByteBuffer, at start: Int, of segment: SegmentReader, end: Offset, logEnd: Offset,
        maxBytes: Int, allowsGaps: Bool
    ) {
        self.chunk = chunk
        self.start = start
        self.segment = segment
        self.end = end
        self.logEnd = logEnd
        self.maxBytes = maxBytes
        self.allowsGaps = allowsGaps
    }

    mutating func run(from offset: Offset) throws(LogError) -> Outcome {
        var found: Int?
        var foundEnd = offset
        var index = 0
        var previous: Offset?
        while index < chunk.readableBytes {
            let header: RecordBatchHeader
            do throws(RecordError) {
                guard let parsed = try self.header(at: index) else { break }
                header = parsed
            } catch {
                throw .corruptBatch(segment: segment.path, position: start + index, error)
            }
            if let previous,
                header.baseOffset < previous
                    || (!allowsGaps && header.baseOffset > previous)
            {
                throw .missingRecords(from: previous, to: header.baseOffset)
            }
            previous = header.nextOffset
            guard header.totalSize <= segment.size - start - index else {
                throw .corruptBatch(
                    segment: segment.path, position: start + index,
                    .incomplete(needed: header.totalSize, available: segment.size - start - index))
            }
            if header.nextOffset > offset {
                if found == nil, header.baseOffset > offset, !allowsGaps {
                    throw .missingRecords(from: offset, to: header.baseOffset)
                }
                // Or a reader would wait for ever for the end that the batch claims to have.
                if found == nil, header.baseOffset <= offset, header.nextOffset > logEnd {
                    throw .corruptBatch(
                        segment: segment.path, position: start + index,
                        .invalidHeader("it ends above the log"))
                }
                // Ends lie between batches; a batch across one is not below it.
                guard header.nextOffset <= end else { break }
                if let found, index + header.totalSize - found > maxBytes { break }
                guard index + header.totalSize <= chunk.readableBytes else {
                    if found != nil { break }
                    return .needs(position: start + index, bytes: header.totalSize)
                }
                if found == nil { found = index }
                foundEnd = header.nextOffset
            } else if index + header.totalSize > chunk.readableBytes {
                return .needs(position: start + index + header.totalSize, bytes: 0)
            }
            index += header.totalSize
        }
        if let found {
            let batches = chunk.getSlice(at: found, length: index - found) ?? chunk
            return .batches(batches, end: foundEnd, position: start + index)
        }
        if index < chunk.readableBytes, previous.map({ $0 > offset }) ?? false {
            return .batches(ByteBuffer(), end: offset, position: start + index)
        }
        return .needs(position: start + index, bytes: RecordBatchHeader.size)
    }

    /// The header at `index`; `nil` when the chunk ends within it.
    private func header(at index: Int) throws(RecordError) -> RecordBatchHeader? {
        let available = chunk.readableBytes - index
        guard available >= RecordBatchHeader.size || start + chunk.readableBytes == segment.size
        else { return nil }
        return try chunk.withUnsafeReadableBytes {
            bytes -> Result<RecordBatchHeader, RecordError> in
            do throws(RecordError) {
                return .success(
                    try RecordBatchHeader(
                        parsing: UnsafeRawBufferPointer(rebasing: bytes[index...]))
                )
            } catch {
                return .failure(error)
            }
        }.get()
    }
}
