package import Essentials
package import Records

/// A transaction that was aborted: read_committed readers leave its records out.
package struct AbortedTransaction: Sendable, Hashable {
    package var producerID: Int64
    /// The offset of its first record.
    package var firstOffset: Offset
    /// The offset of its marker.
    package var lastOffset: Offset
    /// Where the oldest other transaction that was open started, or else the offset after the marker.
    package var lastStableOffset: Offset

    package init(
        producerID: Int64, firstOffset: Offset, lastOffset: Offset, lastStableOffset: Offset
    ) {
        self.producerID = producerID
        self.firstOffset = firstOffset
        self.lastOffset = lastOffset
        self.lastStableOffset = lastStableOffset
    }
}

/// What a partition knows of its idempotent and transactional producers.
///
/// It follows from the log's batches alone: applied to the same ones in the same order, on the leader,
/// on a follower or at a restart, it is the same. Three things only take away from it: `expire`, which
/// forgets producers that have been idle for long, `makeRoom`, which forgets those idle for longest when
/// there are very many, and `settle`, which forgets ended transactions once nothing depends on them.
package struct ProducerStates: Sendable {
    struct OpenTransaction: Sendable, Hashable {
        var producerID: Int64
        var firstOffset: Offset
    }

    /// A transaction that ended with the marker at `lastOffset`.
    struct EndedTransaction: Sendable, Hashable {
        var firstOffset: Offset
        var lastOffset: Offset
    }

    package internal(set) var producers: [Int64: ProducerState] = [:]
    /// In the order in which they began.
    private(set) var open: [OpenTransaction] = []
    /// In the order in which they ended; those whose marker was not known to be committed.
    var ended: [EndedTransaction] = []
    /// The offset after the last batch that changed anything; 0 for none.
    package internal(set) var end: Offset = 0
    /// How many batches could not follow on what was before them.
    package private(set) var contradictions = 0

    /// How many producers there may be before some make way.
    package static let maxProducers = 100_000
    private var roomFor = maxProducers

    package init() {}

    package var isEmpty: Bool { producers.isEmpty && ended.isEmpty }

    // MARK: From the log

    /// Takes note of a batch in the log, which is right whatever was known before.
    ///
    /// - Parameter marker: what a control batch holds.
    /// - Returns: the transaction that the batch aborted.
    @discardableResult
    package mutating func apply(
        _ header: RecordBatchHeader, marker: TransactionMarker? = nil
    ) -> AbortedTransaction? {
        let id = header.producerID
        guard id >= 0 else { return nil }
        end = header.nextOffset
        defer { if producers.count > roomFor { makeRoom() } }
        guard !header.isControl else { return end(of: id, header, marker) }
        var contradicts = false
        var opens = false
        producers[id, default: ProducerState()].change { state in
            let isFollowing = state.epoch == header.producerEpoch
            if header.producerEpoch < state.epoch {
                contradicts = true
            } else {
                contradicts =
                    isFollowing
                    ? !state.batches.isEmpty && header.baseSequence != state.nextSequence
                    : state.epoch >= 0 && header.baseSequence != 0
                state.begin(epoch: header.producerEpoch)
                // What comes from elsewhere may have no sequence, and is never repeated.
                if header.baseSequence >= 0 { state.add(ProducerState.Batch(header)) }
            }
            state.lastTimestamp = header.maxTimestamp
            if header.isTransactional {
                // One that compaction has emptied has nothing that could be undecided.
                opens = state.transactionStart == nil && header.recordCount > 0
                if opens { state.transactionStart = header.baseOffset }
            } else if state.transactionStart != nil {
                contradicts = true
            }
        }
        if opens { open.append(OpenTransaction(producerID: id, firstOffset: header.baseOffset)) }
        if contradicts { contradictions += 1 }
        return nil
    }

    private mutating func end(
        of id: Int64, _ header: RecordBatchHeader, _ marker: TransactionMarker?
    ) -> AbortedTransaction? {
        var contradicts = false
        var start: Offset?
        producers[id, default: ProducerState()].change { state in
            contradicts =
                header.producerEpoch < state.epoch
                || marker.map { $0.coordinatorEpoch < state.coordinatorEpoch } ?? false
            state.begin(epoch: max(state.epoch, header.producerEpoch))
            if let marker {
                state.coordinatorEpoch = max(state.coordinatorEpoch, marker.coordinatorEpoch)
            }
            state.lastTimestamp = header.maxTimestamp
            start = state.transactionStart
            state.transactionStart = nil
        }
        if contradicts { contradictions += 1 }
        guard let start else { return nil }
        let index = open.partitioningIndex { $0.firstOffset >= start }
        if index < open.count, open[index].firstOffset == start { open.remove(at: index) }
        ended.append(EndedTransaction(firstOffset: start, lastOffset: header.lastOffset))
        guard marker?.outcome == .abort else { return nil }
        return AbortedTransaction(
            producerID: id, firstOffset: start, lastOffset: header.lastOffset,
            lastStableOffset: open.first?.firstOffset ?? header.nextOffset)
    }

    // MARK: What is stable

    /// Where the first transaction starts whose outcome is open, or not committed yet: all below is
    /// decided, and nothing from there on that isn't.
    ///
    /// Never falls while the high watermark doesn't, since transactions open above that (T10).
    package func lastStableOffset(highWatermark: Offset) -> Offset {
        var stable = min(highWatermark, open.first?.firstOffset ?? .max)
        for transaction in ended where transaction.lastOffset >= highWatermark {
            stable = min(stable, transaction.firstOffset)
        }
        return stable
    }

    /// Forgets ended transactions whose markers are committed.
    package mutating func settle(highWatermark: Offset) {
        guard let first = ended.first, first.lastOffset < highWatermark else { return }
        ended.removeFirst(ended.partitioningIndex { $0.lastOffset >= highWatermark })
    }

    // MARK: Forgetting

    /// Forgets producers without an open transaction whose last timestamp is older than `cutoff` and
    /// that have appended nothing from `limit` on; returns how many.
    ///
    /// By both, since timestamps are what clients say: those that write old records are not idle, and
    /// those that write of the future don't make others look idle.
    @discardableResult
    package mutating func expire(before cutoff: Int64, belowOffset limit: Offset) -> Int {
        let idle = producers.filter { _, state in
            state.transactionStart == nil && state.lastTimestamp < cutoff
                && state.batches.last?.lastOffset ?? -1 < limit
        }
        for id in idle.keys { producers[id] = nil }
        return idle.count
    }

    /// Forgets an eighth of all producers: those without an open transaction whose last batch lies lowest.
    private mutating func makeRoom() {
        let idle = producers.filter { $0.value.transactionStart == nil }
            .map { (id: $0.key, last: $0.value.batches.last?.lastOffset ?? -1) }
            .sorted { $0.last < $1.last }
        for (id, _) in idle.prefix(Self.maxProducers / 8) { producers[id] = nil }
        // If too few could go, not with every batch again.
        roomFor = max(Self.maxProducers, producers.count + Self.maxProducers / 8)
    }

    package mutating func removeAll() {
        self = ProducerStates()
    }

    /// Puts a state from a snapshot in place.
    mutating func restore(_ state: ProducerState, of id: Int64) {
        producers[id] = state
        guard let start = state.transactionStart else { return }
        let index = open.partitioningIndex { $0.firstOffset >= start }
        open.insert(OpenTransaction(producerID: id, firstOffset: start), at: index)
    }
}

extension ProducerStates: Equatable {
    /// Whether both know the same; how they came by it does not matter.
    package static func == (left: ProducerStates, right: ProducerStates) -> Bool {
        left.producers == right.producers && left.open == right.open && left.ended == right.ended
    }
}

extension ProducerState {
    /// Changes the value where it is.
    fileprivate mutating func change(_ body: (inout ProducerState) -> Void) {
        body(&self)
    }
}

extension ProducerState.Batch {
    init(_ header: RecordBatchHeader) {
        self.init(
            lastSequence: header.lastSequence, lastOffset: header.lastOffset,
            offsetDelta: header.lastOffsetDelta, timestamp: header.maxTimestamp)
    }
}

extension RecordBatchHeader {
    /// The sequence of the last record; compaction may have removed that, and others.
    var lastSequence: Int32 {
        ProducerSequence.advance(baseSequence, by: Int64(lastOffsetDelta))
    }
}
