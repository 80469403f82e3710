import Essentials
import NIOCore
import Records

/// Finds out what a log's producers were at its end, from a snapshot and the batches after that.
struct ProducerRebuild {
    let segments: [Segment]
    let logEnd: Offset
    /// Below, compaction may have changed the batches since a snapshot was taken.
    let compactedTo: Offset

    private(set) var states = ProducerStates()
    /// From where on batches were looked at; `nil` if there was no need to.
    private(set) var replayedFrom: Offset?

    init(segments: [Segment], logEnd: Offset, compactedTo: Offset? = nil) {
        self.segments = segments
        self.logEnd = logEnd
        self.compactedTo = compactedTo ?? 0
    }

    private var logBase: Offset { segments.first?.baseOffset ?? logEnd }

    /// Makes `states` those of the newest good snapshot, and of the batches after it.
    ///
    /// Snapshots that are no good are removed.
    /// - Parameters:
    ///   - indexes: what is known of aborted transactions; made anew along with `states` from where the
    ///     snapshot is, or left alone if `nil`.
    ///   - quietFrom: from there on no batch has a producer.
    mutating func run(
        _ snapshots: inout ProducerSnapshots, indexes: inout TransactionIndexes?, quietFrom: Offset
    ) throws(LogError) {
        var from = logBase
        while let offset = snapshots.offsets.last {
            if offset <= logEnd, let snapshot = snapshots.read(offset), try isTrue(snapshot),
                try adopt(snapshot, &indexes)
            {
                states = snapshot.states
                from = offset
                break
            }
            try io { () throws(FileError) in try snapshots.remove(offset) }
        }
        if snapshots.offsets.isEmpty { _ = try indexes?.adopt([]) }
        guard from < min(logEnd, quietFrom) else { return }
        replayedFrom = from
        try replay(from: from, &indexes)
    }

    private func adopt(
        _ snapshot: ProducerSnapshot, _ indexes: inout TransactionIndexes?
    ) throws(LogError) -> Bool {
        guard indexes != nil else { return true }
        let summaries = snapshot.transactions.filter { $0.segment >= logBase }
        return try indexes?.adopt(summaries) ?? true
    }

    /// Whether the snapshot was taken of this log, and of what is in it.
    private func isTrue(_ snapshot: ProducerSnapshot) throws(LogError) -> Bool {
        guard let offset = snapshot.offset, offset >= logBase else { return false }
        guard offset > logBase else { return true }
        guard let header = try lastBatch(before: offset), let last = snapshot.lastBatch else {
            return false
        }
        if offset <= compactedTo { return header.leaderEpoch == last.leaderEpoch }
        return last == ProducerSnapshot.LastBatch(header)
    }

    /// The batch that ends at `offset`.
    func lastBatch(before offset: Offset) throws(LogError) -> RecordBatchHeader? {
        guard let segment = segments.last(where: { $0.baseOffset < offset }) else { return nil }
        do throws(LogError) {
            let start = try segment.loadIndex().position(for: offset + -1)
            var scanner = try segment.scanner(from: start, checksCRC: false, window: 4_096)
            while case .batch(let header, _) = try io({ () throws(FileError) in
                try scanner.next()
            }) {
                guard header.nextOffset <= offset else { return nil }
                if header.nextOffset == offset { return header }
            }
            return nil
        } catch {
            guard case .corruptBatch = error else { throw error }
            return nil
        }
    }

    private mutating func replay(
        from start: Offset, _ indexes: inout TransactionIndexes?
    ) throws(LogError) {
        for (number, segment) in segments.enumerated() {
            let isLast = number == segments.count - 1
            guard isLast || segments[number + 1].baseOffset > start else { continue }
            do throws(LogError) {
                try replay(segment, from: start, &indexes)
            } catch {
                // Damage in a segment that was not checked is found when it is read.
                guard case .corruptBatch = error else { throw error }
            }
            if !isLast { segment.release() }
        }
    }

    private mutating func replay(
        _ segment: Segment, from start: Offset, _ indexes: inout TransactionIndexes?
    ) throws(LogError) {
        let position =
            start > segment.baseOffset ? try segment.loadIndex().position(for: start) : 0
        var scanner = try segment.scanner(from: position, checksCRC: false)
        while case .batch(let header, let position) = try io({ () throws(FileError) in
            try scanner.next()
        }) {
            guard header.baseOffset < logEnd else { return }
            guard header.producerID >= 0, header.baseOffset >= start else { continue }
            var marker: TransactionMarker?
            if header.isControl, header.totalSize <= Self.maxMarkerBytes {
                marker = TransactionMarker(
                    ofBatch: try SegmentReader(segment, waits: true)
                        .bytes(at: position, count: header.totalSize))
            }
            if let aborted = states.apply(header, marker: marker) {
                indexes?.append(aborted, to: segment.baseOffset)
            }
        }
    }

    /// A control batch is small; a larger one isn't a marker.
    static let maxMarkerBytes = 1 << 16
}

extension ProducerSnapshot.LastBatch {
    init(_ header: RecordBatchHeader) {
        self.init(
            baseOffset: header.baseOffset, leaderEpoch: header.leaderEpoch, crc: header.crc)
    }
}
