package import Essentials
package import NIOCore
import Records

extension Log {
    /// Reads whole batches, from the one with the record at `offset` on.
    ///
    /// Returns at least one batch, even if it is larger than `maxBytes`, unless there is none below
    /// `end`. What is returned may stop before either bound.
    /// - Throws: `LogError.offsetOutOfRange` outside log start offset ... log end offset.
    package func read(
        from offset: Offset, below end: Offset, maxBytes: Int
    ) throws(LogError) -> ByteBuffer {
        if refusal == .closed { throw .closed }
        guard offset >= logStartOffset, offset <= logEndOffset else {
            throw .offsetOutOfRange(offset, valid: logStartOffset...logEndOffset)
        }
        let end = min(end, logEndOffset)
        guard offset < end else { return ByteBuffer() }
        if let batches = recent.read(from: offset, below: end, maxBytes: maxBytes) {
            return batches
        }
        for index in segmentIndex(for: offset)..<segments.count {
            let segment = segments[index]
            noteRead(segment)
            let batches = try read(segment, from: offset, below: end, maxBytes: maxBytes)
            if let batches { return batches }
            // Only compaction may leave nothing behind.
            guard config.allowsOffsetGaps else { break }
        }
        guard config.allowsOffsetGaps else { throw .missingRecords(from: offset, to: end) }
        return ByteBuffer()
    }

    /// The batches in one segment; `nil` when all it has lies below `offset`.
    private func read(
        _ segment: Segment, from offset: Offset, below end: Offset, maxBytes: Int
    ) throws(LogError) -> ByteBuffer? {
        var position = try segment.loadIndex().position(for: offset)
        // What lies between the index entry and the batch comes on top.
        var wanted = max(0, min(maxBytes, 1 << 30)) + config.indexIntervalBytes
        while position < segment.size {
            let count = min(wanted, segment.size - position)
            let chunk = try segment.bytes(at: position, count: count)
            var part = ChunkWalk(
                chunk, at: position, of: segment, end: end, maxBytes: maxBytes,
                allowsGaps: config.allowsOffsetGaps)
            switch try part.run(from: offset) {
            case .batches(let batches): return batches
            case .needs(let next, let bytes):
                // A batch too large for the chunk, or the chunk held only batches below `offset`.
                position = next
                wanted = max(bytes, wanted)
            }
        }
        return nil
    }

    /// The first record with a timestamp of at least `timestamp`, below `end`, and its timestamp.
    package func offset(
        forTimestamp timestamp: Int64, below end: Offset
    ) throws(LogError) -> (Offset, Int64)? {
        if refusal == .closed { throw .closed }
        let end = min(end, logEndOffset)
        for index in segmentIndex(for: logStartOffset)..<segments.count {
            let segment = segments[index]
            guard segment.baseOffset < end else { return nil }
            let times = try segment.loadIndex()
            noteRead(segment)
            guard times.maxTimestamp >= timestamp else { continue }
            let start = times.position(for: times.offset(before: timestamp))
            var scanner = try segment.scanner(from: start, checksCRC: false)
            search: while true {
                switch try io({ () throws(FileError) in try scanner.next() }) {
                case .end: break search
                case .flaw(let error, let position):
                    throw .corruptBatch(segment: segment.path, position: position, error)
                case .batch(let header, let position):
                    guard header.baseOffset < end else { return nil }
                    guard header.maxTimestamp >= timestamp, header.nextOffset > logStartOffset
                    else { continue }
                    let batch = try segment.bytes(at: position, count: header.totalSize)
                    let found = try firstRecord(in: batch, of: segment, position) {
                        $0.timestamp >= timestamp && $0.offset >= logStartOffset
                    }
                    if let found {
                        return found.offset < end ? (found.offset, found.timestamp) : nil
                    }
                }
            }
        }
        return nil
    }

    private func firstRecord(
        in batch: ByteBuffer, of segment: Segment, _ position: Int, where matches: (Record) -> Bool
    ) throws(LogError) -> Record? {
        do throws(RecordError) {
            var reader = RecordReader(batch)
            while let record = try reader.next() {
                if matches(record) { return record }
            }
            return nil
        } catch {
            throw .corruptBatch(segment: segment.path, position: position, error)
        }
    }

    /// Reads the whole log and compares every checksum; returns what is wrong first.
    ///
    /// - Throws: when a file can't be read.
    package func verify() throws(LogError) -> (at: Offset, LogError)? {
        var expected: Offset?
        for segment in segments {
            if let expected, segment.baseOffset != expected, !config.allowsOffsetGaps {
                return (expected, .missingRecords(from: expected, to: segment.baseOffset))
            }
            var walk = SegmentWalk(segment, config: config, checksCRC: true)
            try walk.run()
            if let flaw = walk.flaw { return (walk.nextOffset, flaw) }
            expected = walk.nextOffset
        }
        return nil
    }
}

extension Segment {
    /// The bytes at `position`; all of them must lie below `size`.
    func bytes(at position: Int, count: Int) throws(LogError) -> ByteBuffer {
        let file = try io { () throws(FileError) in try open() }
        var buffer = ByteBufferAllocator().buffer(capacity: count)
        var failure: FileError?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { bytes in
            do throws(FileError) {
                return try file.read(
                    into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<count]), at: position)
            } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw .io(failure) }
        guard buffer.readableBytes == count else {
            throw .corruptBatch(
                segment: path, position: position,
                .incomplete(needed: count, available: buffer.readableBytes))
        }
        return buffer
    }
}

/// Finds the batches to return in a piece of a segment.
private struct ChunkWalk {
    enum Outcome {
        case batches(ByteBuffer)
        /// Nothing yet: `bytes` are needed from `position` on.
        case needs(position: Int, bytes: Int)
    }

    private let chunk: ByteBuffer
    private let start: Int
    private let segment: Segment
    private let end: Offset
    private let maxBytes: Int
    private let allowsGaps: Bool

    init(
        _ chunk: ByteBuffer, at start: Int, of segment: Segment, end: Offset, maxBytes: Int,
        allowsGaps: Bool
    ) {
        self.chunk = chunk
        self.start = start
        self.segment = segment
        self.end = end
        self.maxBytes = maxBytes
        self.allowsGaps = allowsGaps
    }

    mutating func run(from offset: Offset) throws(LogError) -> Outcome {
        var found: Int?
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
                // Ends lie between batches; a batch across one is not below it.
                guard header.nextOffset <= end else { break }
                if let found, index + header.totalSize - found > maxBytes { break }
                guard index + header.totalSize <= chunk.readableBytes else {
                    if found != nil { break }
                    return .needs(position: start + index, bytes: header.totalSize)
                }
                if found == nil { found = index }
            } else if index + header.totalSize > chunk.readableBytes {
                return .needs(position: start + index + header.totalSize, bytes: 0)
            }
            index += header.totalSize
        }
        if let found { return .batches(chunk.getSlice(at: found, length: index - found) ?? chunk) }
        if index < chunk.readableBytes, previous.map({ $0 > offset }) ?? false {
            return .batches(ByteBuffer())
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
