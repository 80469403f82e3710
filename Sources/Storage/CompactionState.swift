import Essentials
import NIOCore
import Records

/// What becomes of a batch.
enum BatchVerdict {
    case kept
    case replaced(ByteBuffer, RecordBatchHeader)
    case dropped
}

/// How far a compaction is, for whoever slows it down or looks on.
struct CompactionProgress {
    let totalBytes: Int
    let pace: @Sendable (Int, Double) throws(LogError) -> Void
    private var readBytes = 0

    init(totalBytes: Int, pace: @escaping @Sendable (Int, Double) throws(LogError) -> Void) {
        self.totalBytes = totalBytes
        self.pace = pace
    }

    mutating func read(_ bytes: Int) throws(LogError) {
        readBytes += bytes
        try pace(bytes, fraction)
    }

    func willWrite(_ bytes: Int) throws(LogError) {
        try pace(bytes, fraction)
    }

    private var fraction: Double {
        totalBytes == 0 ? 1 : min(1, Double(readBytes) / Double(totalBytes))
    }
}

/// Where the last batches of producers lie in what is compacted for the first time.
struct ProducerEnds {
    private struct End {
        var data: Offset?
        var marker: Offset?
    }

    private var ends: [Int64: End] = [:]
    /// So many are known at most, or the memory they take would have no bound.
    private static let maxCount = 1 << 20

    /// Takes note of a batch, in the order of their offsets; false when there is no room for its producer.
    mutating func note(_ header: RecordBatchHeader) -> Bool {
        guard header.producerID >= 0 else { return true }
        guard ends.count < Self.maxCount || ends[header.producerID] != nil else { return false }
        if header.isControl {
            ends[header.producerID, default: End()].marker = header.lastOffset
        } else {
            ends[header.producerID, default: End()].data = header.lastOffset
        }
        return true
    }

    /// Whether the batch may be the last of its producer.
    func isLast(_ header: RecordBatchHeader) -> Bool {
        let end = ends[header.producerID]
        // Of those that came before nobody knows which was the last, and they are kept until then.
        guard let last = header.isControl ? end?.marker : end?.data else { return true }
        return header.lastOffset == last
    }
}

extension Duration {
    /// The milliseconds, bounded to what fits: a configured time may be longer than any clock runs.
    var wholeMilliseconds: Int64 {
        let (seconds, attoseconds) = components
        let (milliseconds, overflow) = seconds.multipliedReportingOverflow(by: 1_000)
        guard !overflow else { return seconds < 0 ? .min : .max }
        return milliseconds.addingReportingOverflow(attoseconds / 1_000_000_000_000_000)
            .partialValue
    }
}
