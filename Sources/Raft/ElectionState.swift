package import Essentials

/// What a replica must never forget: its epoch, and whom it voted for in it.
///
/// It is durable before anything that follows from it leaves the node. The leader is kept as well,
/// so that a restarted follower goes straight back to its leader and a restarted leader knows that
/// it must not lead this epoch again.
package struct ElectionState: Hashable, Sendable {
    package var epoch: LeaderEpoch
    /// The one candidate this replica granted its vote in `epoch`; itself when it campaigned.
    package var votedFor: ReplicaKey?
    /// The leader of `epoch`, once known.
    package var leader: NodeID?

    package init(epoch: LeaderEpoch, votedFor: ReplicaKey? = nil, leader: NodeID? = nil) {
        self.epoch = epoch
        self.votedFor = votedFor
        self.leader = leader
    }

    /// A replica that has taken part in nothing yet.
    package static let initial = ElectionState(epoch: 0)

    /// For a replica that can't know how it voted in `epoch`: its vote there counts as spent.
    ///
    /// It is held by an id that no candidate has.
    package static func voteSpent(in epoch: LeaderEpoch) -> ElectionState {
        ElectionState(epoch: epoch, votedFor: ReplicaKey(id: NodeID(-1)))
    }

    /// The largest epoch accepted from outside; it leaves room to count on without overflow.
    package static let maxEpoch = LeaderEpoch(.max - 1)

    /// How far ahead of its own a voter believes an epoch; more than elections can get to while it
    /// is away, so that no single message uses up all epochs.
    package static let maxEpochJump: Int32 = 1 << 20

    /// Whether a voter in this state may enter `epoch`.
    ///
    /// One that has taken part in nothing yet has nothing to measure it by.
    func canReach(_ epoch: LeaderEpoch) -> Bool {
        guard epoch <= Self.maxEpoch else { return false }
        return self.epoch <= 0 || epoch.rawValue <= self.epoch.rawValue
            || epoch.rawValue - self.epoch.rawValue <= Self.maxEpochJump
    }
}
