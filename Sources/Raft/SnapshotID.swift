package import Essentials

/// Names a snapshot: the state after exactly the records below `endOffset` (KIP-630).
package struct SnapshotID: Hashable, Sendable {
    /// Exclusive.
    package var endOffset: Offset
    /// The epoch of the last record below `endOffset`.
    package var epoch: LeaderEpoch

    package init(endOffset: Offset, epoch: LeaderEpoch) {
        self.endOffset = endOffset
        self.epoch = epoch
    }
}

extension SnapshotID: Comparable, CustomStringConvertible {
    package static func < (left: SnapshotID, right: SnapshotID) -> Bool {
        (left.endOffset, left.epoch) < (right.endOffset, right.epoch)
    }

    package var description: String { "\(endOffset)-\(epoch)" }
}
