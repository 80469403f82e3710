import Essentials
import Replication

/// A log of single records on a disk that forgets what was not flushed.
struct SimulatedLog {
    struct Entry: Equatable {
        var value: UInt64
        var epoch: LeaderEpoch
    }

    private(set) var entries: [Entry] = []
    private(set) var epochs: [(epoch: LeaderEpoch, start: Offset)] = []
    private(set) var durableEnd: Offset = 0
    /// Rises with each truncation, so that a flush that began before one counts for nothing.
    private(set) var truncations = 0

    var end: Offset { Offset(Int64(entries.count)) }
    var lastEpoch: LeaderEpoch { epochs.last?.epoch ?? .none }

    mutating func append(_ new: some Sequence<Entry>) {
        for entry in new {
            invariant(entry.epoch >= lastEpoch, "epoch \(entry.epoch) after \(lastEpoch)")
            assign(entry.epoch)
            entries.append(entry)
        }
    }

    mutating func assign(_ epoch: LeaderEpoch) {
        if epoch > lastEpoch { epochs.append((epoch, end)) }
    }

    mutating func truncate(to newEnd: Offset) {
        entries.removeSubrange(Int(newEnd.rawValue)...)
        epochs.removeAll { $0.start >= newEnd }
        durableEnd = min(durableEnd, newEnd)
        truncations += 1
    }

    mutating func flushed(to newEnd: Offset, truncations: Int) {
        guard truncations == self.truncations else { return }
        durableEnd = max(durableEnd, newEnd)
    }

    /// Loses what a crash at this moment loses: any part of the unflushed end.
    mutating func crash(using generator: inout SeededGenerator) {
        let kept = Int.random(
            in: Int(durableEnd.rawValue)...entries.count, using: &generator)
        let keepsEmptyEpoch = Bool.random(using: &generator)
        entries.removeSubrange(kept...)
        let newEnd = end
        epochs.removeAll { $0.start > newEnd || ($0.start == newEnd && !keepsEmptyEpoch) }
        durableEnd = newEnd
        truncations += 1
    }

    func epochEnd(_ epoch: LeaderEpoch) -> EpochEnd {
        guard let index = epochs.lastIndex(where: { $0.epoch <= epoch }) else {
            return EpochEnd(epoch: .none, endOffset: 0)
        }
        return EpochEnd(
            epoch: epochs[index].epoch,
            endOffset: index + 1 < epochs.count ? epochs[index + 1].start : end)
    }

    func entries(from offset: Offset, count: Int) -> [Entry] {
        Array(entries.dropFirst(Int(offset.rawValue)).prefix(count))
    }

    func holds(_ prefix: some Collection<Entry>) -> Bool { entries.starts(with: prefix) }
}
