package import Essentials

/// The largest epoch of a log that is not above the one asked for, and where its records end.
package struct EpochEnd: Hashable, Sendable {
    package var epoch: LeaderEpoch
    /// Exclusive: where the next epoch starts, or the log ends.
    package var endOffset: Offset

    package init(epoch: LeaderEpoch, endOffset: Offset) {
        self.epoch = epoch
        self.endOffset = endOffset
    }
}

/// Where an epoch's records start in a log.
package struct EpochStart: Hashable, Sendable {
    package var epoch: LeaderEpoch
    package var startOffset: Offset

    package init(epoch: LeaderEpoch, startOffset: Offset) {
        self.epoch = epoch
        self.startOffset = startOffset
    }
}

/// One record batch as the state machine knows it; the bytes stay with the driver.
package struct BatchSpan: Hashable, Sendable {
    package var baseOffset: Offset
    /// Inclusive.
    package var lastOffset: Offset
    package var epoch: LeaderEpoch
    /// The set it holds, if it is a control batch of voters.
    package var voters: VoterSet?

    package init(
        baseOffset: Offset, lastOffset: Offset, epoch: LeaderEpoch, voters: VoterSet? = nil
    ) {
        self.baseOffset = baseOffset
        self.lastOffset = lastOffset
        self.epoch = epoch
        self.voters = voters
    }
}

/// The shape of a replica's log: its ends, and where each epoch starts.
///
/// Two logs that agree on an offset and its epoch agree on everything before it (Raft's log
/// matching), so this is all that is needed to compare them.
package struct LogState: Hashable, Sendable {
    /// The first offset still kept.
    package private(set) var startOffset: Offset
    /// The epoch of the record before `startOffset`; none while nothing was ever removed.
    package private(set) var epochBeforeStart: LeaderEpoch
    /// Where the next record goes.
    package private(set) var endOffset: Offset
    /// Everything below is on stable storage; at most `endOffset`.
    package private(set) var durableEnd: Offset
    /// Rises in epoch and in offset; every start is in `startOffset ..< endOffset`.
    package private(set) var epochs: [EpochStart]
    /// How often the log was truncated or reset; tells a late durability report from a current one.
    package private(set) var truncations = 0

    /// A log as found on disk; all of it is durable.
    ///
    /// `nil` unless `epochs` rises in epoch and offset within the log and covers its start.
    package init?(
        startOffset: Offset, epochBeforeStart: LeaderEpoch = .none, endOffset: Offset,
        epochs: [EpochStart]
    ) {
        self.startOffset = startOffset
        self.epochBeforeStart = epochBeforeStart
        self.endOffset = endOffset
        self.durableEnd = endOffset
        self.epochs = epochs
        guard isValid else { return nil }
    }

    package static let empty: LogState = LogState()

    private init() {
        startOffset = 0
        epochBeforeStart = .none
        endOffset = 0
        durableEnd = 0
        epochs = []
    }

    /// The epoch of the last record, or of the last one removed.
    package var lastEpoch: LeaderEpoch { epochs.last?.epoch ?? epochBeforeStart }

    /// The largest epoch not above `epoch`, and where it ends (KIP-101, KIP-279).
    package func end(of epoch: LeaderEpoch) -> EpochEnd {
        // The first entry above `epoch`, by bisection.
        var low = 0
        var high = epochs.count
        while low < high {
            let middle = (low + high) / 2
            if epochs[middle].epoch <= epoch { low = middle + 1 } else { high = middle }
        }
        let endOffset = low < epochs.count ? epochs[low].startOffset : endOffset
        guard low > 0 else {
            return EpochEnd(
                epoch: epochBeforeStart <= epoch ? epochBeforeStart : .none,
                endOffset: startOffset)
        }
        return EpochEnd(epoch: epochs[low - 1].epoch, endOffset: endOffset)
    }

    /// Whether records that would tell where a log of `epoch` parts from this one are gone.
    func hasForgotten(_ epoch: LeaderEpoch) -> Bool {
        startOffset > 0 && end(of: epoch).epoch == .none
    }

    /// Whether the log reaches `id` and went through its last record, so that only the records
    /// below can have been replaced by it.
    func holds(_ id: SnapshotID) -> Bool {
        guard id.endOffset >= startOffset, id.endOffset <= endOffset else { return false }
        return id.endOffset == 0 || epoch(before: id.endOffset) == id.epoch
    }

    /// The epoch of the last record below `offset`, which lies within the log.
    package func epoch(before offset: Offset) -> LeaderEpoch {
        epochs.last { $0.startOffset < offset }?.epoch ?? epochBeforeStart
    }

    /// Whether a log that ends like this holds everything ours may hold: Raft's comparison.
    func isCovered(byLogEndingAt endOffset: Offset, epoch: LeaderEpoch) -> Bool {
        (epoch, endOffset) >= (lastEpoch, self.endOffset)
    }

    mutating func append(through lastOffset: Offset, epoch: LeaderEpoch) {
        invariant(lastOffset >= endOffset, "append to \(lastOffset) at the end \(endOffset)")
        invariant(epoch >= lastEpoch, "append of epoch \(epoch) after epoch \(lastEpoch)")
        if epochs.last?.epoch != epoch {
            epochs.append(EpochStart(epoch: epoch, startOffset: endOffset))
        }
        endOffset = lastOffset + 1
    }

    mutating func truncate(to offset: Offset) {
        invariant(
            offset >= startOffset && offset < endOffset,
            "truncation to \(offset) of a log from \(startOffset) to \(endOffset)")
        endOffset = offset
        durableEnd = min(durableEnd, offset)
        while let last = epochs.last, last.startOffset >= offset { epochs.removeLast() }
        truncations += 1
    }

    /// Drops everything; the log goes on where a snapshot, which is durable, ends.
    mutating func reset(to offset: Offset, epochBefore: LeaderEpoch) {
        startOffset = offset
        endOffset = offset
        durableEnd = offset
        epochBeforeStart = epochBefore
        epochs = []
        truncations += 1
    }

    /// Removes the records below `offset`.
    mutating func advanceStart(to offset: Offset) {
        invariant(
            offset >= startOffset && offset <= endOffset,
            "log start to \(offset) in a log from \(startOffset) to \(endOffset)")
        epochBeforeStart = epoch(before: offset)
        var kept = epochs.filter { end(of: $0.epoch).endOffset > offset }
        if !kept.isEmpty { kept[0].startOffset = max(kept[0].startOffset, offset) }
        epochs = kept
        startOffset = offset
    }

    /// Takes from a snapshot that ends at the log's start what the epoch before the start was.
    mutating func noteEpochBeforeStart(_ id: SnapshotID) {
        guard id.endOffset == startOffset, startOffset > 0, epochBeforeStart == .none,
            id.epoch <= epochs.first?.epoch ?? id.epoch
        else { return }
        epochBeforeStart = id.epoch
    }

    mutating func markDurable(to offset: Offset) {
        durableEnd = max(durableEnd, min(offset, endOffset))
    }

    /// Whether the rules stated on the fields hold.
    package var isValid: Bool {
        guard startOffset >= 0, startOffset <= endOffset, durableEnd <= endOffset else {
            return false
        }
        if startOffset < endOffset {
            guard let first = epochs.first, first.startOffset == startOffset,
                first.epoch >= 0, first.epoch >= epochBeforeStart
            else { return false }
        } else if !epochs.isEmpty {
            return false
        }
        return zip(epochs, epochs.dropFirst()).allSatisfy {
            $0.epoch < $1.epoch && $0.startOffset < $1.startOffset
        } && (epochs.last.map { $0.startOffset < endOffset } ?? true)
    }
}
