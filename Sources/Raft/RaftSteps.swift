package import Essentials

/// What happens to a replica.
package enum RaftInput: Hashable, Sendable {
    /// `nextDeadline` has been reached. Any other input notices that too.
    case timePassed
    /// The write with this number, and so every earlier one, is durable or was replaced by it.
    case electionStatePersisted(write: UInt64)
    /// The log is durable below `end`, as of `LogState.truncations`.
    case logDurable(end: Offset, truncations: Int)
    case request(RaftRequest, token: RequestToken)
    case response(RaftResponse, to: RequestID)
    /// No answer will come: the peer can't be reached, or did not understand.
    case requestFailed(RequestID)
    /// The connection to this node broke or was refused.
    case connectionLost(to: NodeID)
    /// Stop leading, and tell the others who should follow.
    case resign
    /// Hand the leadership over to this voter, or to the best one; answered by `transferred`.
    case transfer(to: NodeID?, RequestToken)
    /// Make sure that this replica leads, as of now or later; answered by `readConfirmed` or
    /// `readRefused`.
    case read(RequestToken)
    /// A snapshot of ours, of committed records only, is durable.
    case snapshotTaken(SnapshotID)
    /// The snapshot that was fetched is durable and whole; it holds these voters.
    case snapshotInstalled(SnapshotID, voters: VoterSet?)
    /// The snapshot that is or was fetched could not be written, or is not whole.
    case snapshotFailed(SnapshotID)
}

/// What a replica's driver has to do, in this order.
package enum RaftEffect: Hashable, Sendable {
    /// Make this durable, replacing what was there; then report `electionStatePersisted`.
    /// Of several that wait, only the last need be written.
    case persistElectionState(ElectionState, write: UInt64)
    case send(RaftRequest, to: NodeID, id: RequestID)
    case answer(RequestToken, RaftResponse)
    /// Answer a fetch with whole batches of the log in this range, as many as are wanted.
    case answerFetch(RequestToken, FetchAnswer)
    /// Too much waits already; fail the request.
    case refuse(RequestToken)
    /// Append, as leader, the control batch that starts an epoch.
    case appendLeaderChange(LeaderChange)
    /// Append, as leader, the control batch that holds this voter set, as one record.
    case appendVoters(VoterSet, offset: Offset, epoch: LeaderEpoch)
    /// Append, as leader, the batch that was proposed.
    case appendProposed(BatchSpan)
    /// Append the batches of the fetch response being handled.
    case appendFetched([BatchSpan])
    /// Remove every record from this offset on.
    case truncateLog(to: Offset)
    /// Drop the whole log: it is empty, and starts where the snapshot, which is durable, ends.
    case resetLog(to: SnapshotID)
    /// Hand the snapshot's state to whoever is told of committed records, in place of all before.
    case loadSnapshot(SnapshotID)
    /// Remove records below the snapshot's end, in whole segments.
    case advanceLogStart(to: SnapshotID)
    /// Append the bytes of the response being handled to the partial snapshot, at `position`.
    /// If they are the last, verify it and make it durable, then report `snapshotInstalled`.
    case appendSnapshotChunk(SnapshotID, position: Int64, isLast: Bool)
    /// Delete the partial snapshot.
    case discardSnapshotDownload
    /// Answer with at most so many bytes of the snapshot from `position` on, or with why not.
    case answerSnapshot(RequestToken, SnapshotID, position: Int64, maxBytes: Int32)
    /// Everything below is committed.
    case advanceHighWatermark(to: Offset)
    case leaderChanged(NodeID?, epoch: LeaderEpoch)
    /// Another voter set is in force.
    case votersChanged(VoterSet?)
    /// This replica led when the read arrived: what was committed then is below the high watermark.
    case readConfirmed(RequestToken)
    /// This replica does not lead, or can't tell whether it still does.
    case readRefused(RequestToken)
    case transferred(RequestToken, TransferOutcome)
    /// The log is committed up to and including the first record of our own epoch.
    case startedLeading(epoch: LeaderEpoch)
    case stoppedLeading(epoch: LeaderEpoch)
    /// Nothing is safe any more; every later input is ignored.
    case halt(HaltReason)
}

/// The part of the log that answers a fetch.
package struct FetchAnswer: Hashable, Sendable {
    package var epoch: LeaderEpoch
    package var leader: NodeID
    package var from: Offset
    /// Exclusive; equal to `from` when there is nothing but a high watermark to tell.
    package var below: Offset
    package var highWatermark: Offset?
    package var logStartOffset: Offset
}

/// The record every leader's epoch begins with.
package struct LeaderChange: Hashable, Sendable {
    package var leader: NodeID
    package var epoch: LeaderEpoch
    package var offset: Offset
    package var voters: [NodeID]
    package var grantingVoters: [NodeID]
}

/// What became of a wish to hand the leadership over.
package enum TransferOutcome: Hashable, Sendable {
    /// This replica leads no more, and has asked that voter to campaign at once.
    case handedOver(to: NodeID)
    /// This replica does not lead; it says what it knows of the present epoch.
    case notLeader(NodeID?, epoch: LeaderEpoch)
    case notVoter
    /// There is no other voter.
    case noSuccessor
    /// Another hand-over is under way.
    case busy
    /// The voter lacked so many records until the end; this replica goes on leading.
    case behind(records: Int64)
}

/// Why a replica refuses to go on.
package enum HaltReason: Hashable, Sendable {
    /// The leader's log contradicts records known to be committed.
    case committedRecordsDiverge(highWatermark: Offset, truncation: Offset)
    /// No epoch is left to campaign in.
    case epochsExhausted
}

/// Why a record can't be proposed.
package enum ProposeError: Error, Hashable, Sendable {
    /// This replica does not lead that epoch; it says what it knows of the present one.
    case notLeader(NodeID?, epoch: LeaderEpoch)
}
