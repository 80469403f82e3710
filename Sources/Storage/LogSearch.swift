package import Essentials
import Glibc
import NIOCore
import Records

/// Something to be found in a log's segments, told apart from where and how they are read.
protocol LogSearch<Answer>: Sendable {
    associatedtype Answer: Sendable

    /// So many segments are looked at on another thread before the log is asked again.
    var segmentsAtOnce: Int { get }
    /// What it means that no segment has it; `nil` when that may be.
    var failure: LogError? { get }

    /// Begins anew, with the log as it is now.
    func begin(in log: Log) throws(LogError) -> LogRead<Answer>
    /// Whether the log still holds the offsets that are looked at.
    func isWithin(_ log: Log) -> Bool
    /// The number of the first segment that need not be looked at, if `first` is looked at first.
    func segmentsEnd(in log: Log, from first: Int) -> Int
    /// `false` when the segment can't hold it, by what is known of it without reading.
    func mayBeIn(_ segment: Segment) -> Bool
    /// Where in the segment exactly it is, if that is known.
    func knownStart(in segment: Segment, of log: Log) -> Int?
    /// Where in the segment to begin, by its index.
    func start(in index: SegmentIndex) -> Int
    /// What there is in this segment; `nil` when the next one has to be looked at.
    func look(in segment: SegmentReader) throws(LogError) -> Answer?
    /// Takes note, in the log, of what was found in it.
    func settle(_ answer: Answer, in log: Log) -> Answer
}

extension LogSearch {
    func knownStart(in segment: Segment, of log: Log) -> Int? { nil }
    func settle(_ answer: Answer, in log: Log) -> Answer { answer }
}

/// One segment as a search sees it: the log's own on the log's thread, a copy on any other.
struct SegmentReader {
    private let segment: Segment
    /// Whether the disk may be waited for; if not, what isn't in memory fails with
    /// `FileError.wouldWait`.
    let waits: Bool
    /// Where to begin, if that is known without the index.
    private let knownStart: Int?
    /// Whether what is looked for begins right where the search does.
    let isStartExact: Bool

    /// A longer copy would keep a log's thread from its other work for too long.
    private static let maxBytesAtOnce = 4 << 20

    init(_ segment: Segment, waits: Bool, start: Int? = nil, exactStart: Int? = nil) {
        self.segment = segment
        self.waits = waits
        knownStart = exactStart ?? start
        isStartExact = exactStart != nil
    }

    var identity: Segment.Identity { segment.identity }
    var path: String { segment.path }
    var size: Int { segment.size }

    func start(of search: some LogSearch) throws(LogError) -> Int {
        if let knownStart { return knownStart }
        return search.start(in: try index())
    }

    func index() throws(LogError) -> SegmentIndex {
        guard waits || segment.hasIndex else { throw .io(.wouldWait) }
        return try segment.loadIndex()
    }

    func maxTimestamp() throws(LogError) -> Int64 {
        if let known = segment.maxTimestamp { return known }
        return try index().maxTimestamp
    }

    func file() throws(LogError) -> any File {
        guard waits || segment.hasFile else { throw .io(.wouldWait) }
        return try io { () throws(FileError) in try segment.open() }
    }

    /// Walks over the batches from the one at `start` on.
    func scanner(from start: Int) throws(LogError) -> BatchScanner {
        BatchScanner(
            try file(), from: start, to: size, checksCRC: false, window: 1 << 16, waits: waits)
    }

    /// The bytes at `position`; all of them must lie below `size`.
    ///
    /// A copy: no truncation can change what is being sent, and no event loop waits for the disk while it
    /// sends. Sending from the file (`sendfile`) would halve the sender's work, but make the receiver's
    /// larger by more than that, and slow both: see the benchmark `serve`.
    func bytes(at position: Int, count: Int) throws(LogError) -> ByteBuffer {
        let file = try file()
        guard waits || count <= Self.maxBytesAtOnce else { throw .io(.wouldWait) }
        var buffer = ByteBufferAllocator().buffer(capacity: count)
        var failure: FileError?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { bytes in
            do throws(FileError) {
                return try file.read(
                    into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<count]), at: position,
                    waits: waits)
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

extension FileError {
    /// Not in memory, and the disk was not to be waited for.
    static let wouldWait = FileError("read at once", "", code: EAGAIN)
}

extension File {
    /// Reads until `buffer` is full or the file ends; unless `waits`, only what is in memory.
    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int, waits: Bool
    ) throws(FileError) -> Int {
        if waits { return try read(into: buffer, at: position) }
        guard let count = try readCached(into: buffer, at: position) else { throw .wouldWait }
        return count
    }
}

/// Looks for the first record with a timestamp of at least `timestamp`.
struct TimeSearch: LogSearch {
    let timestamp: Int64
    /// The record lies in here, or isn't found.
    let offsets: Range<Offset>

    /// Most are passed over by their index alone.
    let segmentsAtOnce = 16

    var failure: LogError? { nil }

    func begin(in log: Log) throws(LogError) -> LogRead<TimedOffset> {
        try log.findCached(timestamp: timestamp, below: offsets.upperBound)
    }

    func isWithin(_ log: Log) -> Bool { offsets.lowerBound == log.logStartOffset }

    func segmentsEnd(in log: Log, from first: Int) -> Int {
        log.segments.partitioningIndex { $0.baseOffset >= offsets.upperBound }
    }

    func mayBeIn(_ segment: Segment) -> Bool {
        segment.maxTimestamp.map { $0 >= timestamp } ?? true
    }

    func start(in index: SegmentIndex) -> Int {
        index.position(for: index.offset(before: timestamp))
    }

    func look(in segment: SegmentReader) throws(LogError) -> TimedOffset? {
        guard try segment.maxTimestamp() >= timestamp else { return nil }
        var scanner = try segment.scanner(from: try segment.start(of: self))
        while true {
            switch try io({ () throws(FileError) in try scanner.next() }) {
            case .end: return nil
            case .flaw(let error, let position):
                throw .corruptBatch(segment: segment.path, position: position, error)
            case .batch(let header, let position):
                // No later segment has any below the end either.
                guard header.baseOffset < offsets.upperBound else { return nil }
                guard header.maxTimestamp >= timestamp, header.nextOffset > offsets.lowerBound
                else { continue }
                let batch = try segment.bytes(at: position, count: header.totalSize)
                let found = try firstRecord(in: batch, of: segment, position)
                guard let found else { continue }
                guard found.offset < offsets.upperBound else { return nil }
                return TimedOffset(offset: found.offset, timestamp: found.timestamp)
            }
        }
    }

    private func firstRecord(
        in batch: ByteBuffer, of segment: SegmentReader, _ position: Int
    ) throws(LogError) -> Record? {
        do throws(RecordError) {
            var reader = RecordReader(batch)
            while let record = try reader.next() {
                if record.timestamp >= timestamp, record.offset >= offsets.lowerBound {
                    return record
                }
            }
            return nil
        } catch {
            throw .corruptBatch(segment: segment.path, position: position, error)
        }
    }
}

/// A record's offset and its timestamp, in milliseconds since 1970.
package struct TimedOffset: Sendable, Hashable {
    package let offset: Offset
    package let timestamp: Int64
}
