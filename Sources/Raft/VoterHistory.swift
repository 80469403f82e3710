package import Essentials

/// The voter sets that a replica's snapshot and log hold, by the offset of their records.
///
/// The newest is in force from the moment it is appended, committed or not; when its record is
/// truncated the one before it is again (KIP-853).
package struct VoterHistory: Hashable, Sendable {
    package struct Entry: Hashable, Sendable {
        package var offset: Offset
        package var voters: VoterSet
    }

    /// The set below all records: of the newest snapshot, or as the directory was formatted.
    package private(set) var base: VoterSet?
    /// At or above the record of `base` and below all entries; `nil` if `base` was never in a log.
    package private(set) var baseOffset: Offset?
    /// Sets whose records are in the log; their offsets rise.
    package private(set) var entries: [Entry] = []

    /// - Parameter baseOffset: the end of the snapshot that holds `base`; `nil` for the one that a
    ///   directory is formatted with, whose set the first leader still has to write into the log.
    package init(base: VoterSet?, baseOffset: Offset?) {
        self.base = base
        self.baseOffset = baseOffset
    }

    /// The set in force; `nil` if this replica has not learned of any.
    package var current: VoterSet? { entries.last?.voters ?? base }

    /// Where the set in force was written; `nil` if it is in no log.
    package var currentOffset: Offset? { entries.last?.offset ?? baseOffset }

    /// The set that was in force before the last record of one that is still in the log.
    package var previous: VoterSet? { entries.dropLast().last?.voters ?? base }

    /// The set that the records below `offset` end with.
    package func set(before offset: Offset) -> VoterSet? {
        entries.last { $0.offset < offset }?.voters ?? base
    }

    /// Notes the set in the record at `offset`.
    ///
    /// One that `base` is at least as new as is no news.
    package mutating func append(_ voters: VoterSet, at offset: Offset) {
        if let baseOffset, offset < baseOffset { return }
        truncate(to: offset)
        entries.append(Entry(offset: offset, voters: voters))
    }

    /// Forgets the sets in records at or above `offset`.
    package mutating func truncate(to offset: Offset) {
        while let last = entries.last, last.offset >= offset { entries.removeLast() }
    }

    /// The log was replaced by a snapshot with this set.
    package mutating func reset(to voters: VoterSet?, at snapshot: SnapshotID) {
        base = voters
        baseOffset = snapshot.endOffset
        entries = []
    }

    /// Records below `offset` are removed from the log; a snapshot that ends there holds the set.
    package mutating func trim(before offset: Offset) {
        while let first = entries.first, first.offset < offset {
            base = first.voters
            baseOffset = first.offset
            entries.removeFirst()
        }
    }
}
