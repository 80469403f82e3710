package import Essentials

/// Records of aborted transactions, which readers of committed ones are not shown.
package struct AbortedRecords: Sendable {
    /// For each producer, the offsets from a transaction's first record to its marker.
    private var ranges: [Int64: [ClosedRange<Offset>]] = [:]

    package init() {}

    package var isEmpty: Bool { ranges.isEmpty }

    package mutating func add(producerID: Int64, from first: Offset, to marker: Offset) {
        // What came over a network may make no sense.
        guard first <= marker else { return }
        ranges[producerID, default: []].append(first...marker)
    }

    /// Whether the batch is part of an aborted transaction.
    package func contains(_ header: RecordBatchHeader) -> Bool {
        guard header.isTransactional, !header.isControl,
            let ranges = ranges[header.producerID]
        else { return false }
        return ranges.contains { $0.contains(header.baseOffset) }
    }
}
