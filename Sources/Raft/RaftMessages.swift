package import Essentials

/// What one replica asks of another.
package enum RaftRequest: Hashable, Sendable {
    case vote(VoteRequest)
    case beginQuorumEpoch(BeginQuorumEpochRequest)
    case endQuorumEpoch(EndQuorumEpochRequest)
    case fetch(FetchRequest)
    case fetchSnapshot(FetchSnapshotRequest)
}

package enum RaftResponse: Hashable, Sendable {
    case vote(VoteResponse)
    case beginQuorumEpoch(EpochResponse)
    case endQuorumEpoch(EpochResponse)
    case fetch(FetchResponse)
    case fetchSnapshot(FetchSnapshotResponse)
}

/// Asks for a vote in `epoch` or, as a pre-vote, whether one would be granted (KIP-996).
package struct VoteRequest: Hashable, Sendable {
    package var candidate: ReplicaKey
    /// The epoch the candidate campaigns in; for a pre-vote the one it is in.
    package var epoch: LeaderEpoch
    package var lastEpoch: LeaderEpoch
    /// The candidate's log end offset.
    package var endOffset: Offset
    package var isPreVote: Bool
    /// The voter that is asked; another disk under its id has no vote.
    package var voter: ReplicaKey

    package init(
        candidate: ReplicaKey, epoch: LeaderEpoch, lastEpoch: LeaderEpoch, endOffset: Offset,
        isPreVote: Bool, voter: ReplicaKey
    ) {
        self.candidate = candidate
        self.epoch = epoch
        self.lastEpoch = lastEpoch
        self.endOffset = endOffset
        self.isPreVote = isPreVote
        self.voter = voter
    }
}

package struct VoteResponse: Hashable, Sendable {
    package var epoch: LeaderEpoch
    package var leader: NodeID?
    package var isGranted: Bool

    package init(epoch: LeaderEpoch, leader: NodeID?, isGranted: Bool) {
        self.epoch = epoch
        self.leader = leader
        self.isGranted = isGranted
    }
}

/// A leader tells the voters that it leads: when it is new, and whenever it has to be sure that it
/// still does.
package struct BeginQuorumEpochRequest: Hashable, Sendable {
    package var leader: NodeID
    package var epoch: LeaderEpoch
    /// The voter that is told.
    ///
    /// A new disk under its id may have forgotten a vote for somebody else, so that its answer
    /// proves nothing.
    package var voter: ReplicaKey

    package init(leader: NodeID, epoch: LeaderEpoch, voter: ReplicaKey) {
        self.leader = leader
        self.epoch = epoch
        self.voter = voter
    }
}

/// A leader that steps down tells the voters, so that they need not wait to find out.
package struct EndQuorumEpochRequest: Hashable, Sendable {
    package var leader: NodeID
    package var epoch: LeaderEpoch
    /// The order in which voters should campaign: those with most of the log first.
    package var preferredSuccessors: [NodeID]

    package init(leader: NodeID, epoch: LeaderEpoch, preferredSuccessors: [NodeID]) {
        self.leader = leader
        self.epoch = epoch
        self.preferredSuccessors = preferredSuccessors
    }
}

/// What the answering replica knows of the epoch.
package struct EpochResponse: Hashable, Sendable {
    package var epoch: LeaderEpoch
    package var leader: NodeID?

    package init(epoch: LeaderEpoch, leader: NodeID?) {
        self.epoch = epoch
        self.leader = leader
    }
}

/// Asks the leader for what follows `fetchOffset`, and says that everything below is held.
///
/// A voter sends it only when everything below is durable: the leader counts it for commits.
package struct FetchRequest: Hashable, Sendable {
    package var replica: ReplicaKey
    package var epoch: LeaderEpoch
    package var fetchOffset: Offset
    /// The epoch of the record before `fetchOffset`.
    package var lastFetchedEpoch: LeaderEpoch
    /// What the replica knows: news of it alone is worth an answer (KIP-1166).
    package var highWatermark: Offset?
    /// How long the leader may wait for something to answer; it may answer sooner.
    package var maxWait: Duration
    /// Whether everything below `fetchOffset` is on stable storage, and votes would be, too.
    package var isDurable: Bool

    package init(
        replica: ReplicaKey, epoch: LeaderEpoch, fetchOffset: Offset,
        lastFetchedEpoch: LeaderEpoch, highWatermark: Offset?, maxWait: Duration,
        isDurable: Bool = true
    ) {
        self.replica = replica
        self.epoch = epoch
        self.fetchOffset = fetchOffset
        self.lastFetchedEpoch = lastFetchedEpoch
        self.highWatermark = highWatermark
        self.maxWait = maxWait
        self.isDurable = isDurable
    }
}

package struct FetchResponse: Hashable, Sendable {
    package enum Outcome: Hashable, Sendable {
        /// Consecutive batches from the fetch offset on; perhaps none.
        case records([BatchSpan], highWatermark: Offset?, logStartOffset: Offset)
        /// The replica's log is not a prefix of the leader's: it must truncate to this.
        case diverging(EpochEnd)
        /// The records asked for, or those that tell where the logs part, are gone: the replica
        /// must fetch this snapshot, and go on from its end.
        case snapshot(SnapshotID)
        case notLeader
        /// The request's epoch is over.
        case fencedEpoch
        /// The request's epoch is newer than the answering replica's.
        case unknownEpoch
        /// Below the log start.
        case offsetOutOfRange
        /// The log could not be read.
        case unavailable
    }

    package var epoch: LeaderEpoch
    package var leader: NodeID?
    package var outcome: Outcome

    package init(epoch: LeaderEpoch, leader: NodeID?, outcome: Outcome) {
        self.epoch = epoch
        self.leader = leader
        self.outcome = outcome
    }
}

/// Asks the leader for the bytes of a snapshot from `position` on.
package struct FetchSnapshotRequest: Hashable, Sendable {
    package var replica: ReplicaKey
    package var epoch: LeaderEpoch
    package var snapshot: SnapshotID
    /// In bytes from the snapshot's start: so many are held already.
    package var position: Int64

    package init(
        replica: ReplicaKey, epoch: LeaderEpoch, snapshot: SnapshotID, position: Int64
    ) {
        self.replica = replica
        self.epoch = epoch
        self.snapshot = snapshot
        self.position = position
    }
}

package struct FetchSnapshotResponse: Hashable, Sendable {
    package enum Outcome: Hashable, Sendable {
        /// `count` bytes from `position` on, of `size` in all.
        case chunk(position: Int64, count: Int64, size: Int64)
        /// A newer one took its place: a fetch tells which.
        case notFound
        case positionOutOfRange
        case notLeader
        /// The request's epoch is over.
        case fencedEpoch
        /// The request's epoch is newer than the answering replica's.
        case unknownEpoch
        /// The snapshot could not be read.
        case unavailable
    }

    package var epoch: LeaderEpoch
    package var leader: NodeID?
    package var outcome: Outcome

    package init(epoch: LeaderEpoch, leader: NodeID?, outcome: Outcome) {
        self.epoch = epoch
        self.leader = leader
        self.outcome = outcome
    }
}

/// Names one request a replica sent; never used twice by one run of it.
package struct RequestID: RawRepresentable, Hashable, Sendable {
    package var rawValue: UInt64

    package init(rawValue: UInt64) {
        self.rawValue = rawValue
    }
}

/// Names one request a replica received and has to answer; chosen by the driver.
package struct RequestToken: RawRepresentable, Hashable, Sendable {
    package var rawValue: UInt64

    package init(rawValue: UInt64) {
        self.rawValue = rawValue
    }
}
