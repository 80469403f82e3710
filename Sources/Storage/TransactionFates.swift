import Essentials
import Records

/// How the transactions in a part of a log ended, by their markers.
///
/// A transaction's records may not be told from others before its marker is seen, which can lie far
/// behind them, so that this is found out before anything else.
struct TransactionFates {
    /// For each producer, the offsets from the first record of each aborted transaction to its marker.
    private var aborted: [Int64: [Range<Offset>]] = [:]
    /// Where the transactions begin that no marker was found for.
    private var open: [Int64: Offset] = [:]
    private(set) var abortedCount = 0

    /// The first record of a transaction whose fate is not known; `nil` when all are.
    var firstUndecided: Offset? { open.values.min() }

    /// Takes note of a batch; in the order of their offsets.
    mutating func note(_ header: RecordBatchHeader, marker: TransactionMarker?) {
        guard header.producerID >= 0 else { return }
        if header.isControl {
            let start = open.removeValue(forKey: header.producerID)
            guard marker?.outcome == .abort, let start else { return }
            aborted[header.producerID, default: []].append(start..<header.nextOffset)
            abortedCount += 1
        } else if header.isTransactional, open[header.producerID] == nil {
            open[header.producerID] = header.baseOffset
        }
    }

    /// Whether the batch belongs to a transaction that was aborted.
    func isAborted(_ header: RecordBatchHeader) -> Bool {
        guard header.isTransactional, !header.isControl,
            let ranges = aborted[header.producerID]
        else { return false }
        let after = ranges.partitioningIndex { $0.lowerBound > header.baseOffset }
        return after > 0 && ranges[after - 1].contains(header.baseOffset)
    }
}
