package import Essentials
package import Raft

/// One atomic batch of the metadata log, committed.
package struct CommittedBatch: Sendable {
    package var baseOffset: Offset
    /// The offset after the batch's last record.
    package var nextOffset: Offset
    package var epoch: LeaderEpoch
    /// When the leader appended it, in milliseconds since 1970.
    package var appendTimestamp: Int64
    /// None for the quorum's own control batches, which only take up offsets.
    package var records: [[UInt8]]
}

/// Who applies the metadata log; called on the quorum's event loop only.
package protocol QuorumListener: AnyObject {
    /// The next committed batch: each once, in order.
    func committed(_ batch: CommittedBatch)
    /// The leader is now this one, or is not known.
    func leaderChanged(_ leader: NodeID?, epoch: LeaderEpoch)
    /// This node leads, and everything before its epoch is committed and was handed out.
    func startedLeading(epoch: LeaderEpoch)
    /// This node leads no more: what it proposed and was not told to be committed may be lost.
    func stoppedLeading(epoch: LeaderEpoch)
    /// The voter set in force is another one; it may not be committed yet.
    func votersChanged(_ voters: [Voter])
    /// What to write as a snapshot of everything handed out so far; `nil` if nothing should be now.
    func snapshot() -> QuorumSnapshotSource?
    /// Begins to replace everything handed out before by a snapshot's state.
    ///
    /// What it returns runs off the event loop, reads all records, and returns what installs them,
    /// on the loop; nothing else is handed out until then. It throws when a record makes no sense.
    func load(_ id: SnapshotID) -> QuorumSnapshotLoader
}

/// Reads a snapshot off the event loop, and returns what installs its state on the loop.
package typealias QuorumSnapshotLoader =
    @Sendable (_ reader: inout SnapshotReader) throws -> @Sendable () -> Void

/// The state after a committed prefix of the log, to be written as a snapshot.
package struct QuorumSnapshotSource: Sendable {
    /// Exclusive: the offset after the last batch that is contained.
    package var endOffset: Offset
    package var epoch: LeaderEpoch
    /// When the leader appended that batch, in milliseconds since 1970.
    package var appendTimestamp: Int64
    /// Hands over each encoded metadata record, in an order that loads; runs off the event loop.
    package var records: @Sendable (_ write: ([UInt8]) throws -> Void) throws -> Void

    package init(
        endOffset: Offset, epoch: LeaderEpoch, appendTimestamp: Int64,
        records: @escaping @Sendable (_ write: ([UInt8]) throws -> Void) throws -> Void
    ) {
        self.endOffset = endOffset
        self.epoch = epoch
        self.appendTimestamp = appendTimestamp
        self.records = records
    }
}
