package import Essentials

/// What a follower says of itself with each fetch.
package struct FollowerFetch: Equatable, Sendable {
    package var follower: NodeID
    package var brokerEpoch: BrokerEpoch
    /// The leader epoch the follower is in.
    package var leaderEpoch: LeaderEpoch
    /// The offset asked for: everything below is appended at the follower.
    package var position: Offset
    /// The newest epoch in the follower's log; `none` for an empty log.
    package var lastFetchedEpoch: LeaderEpoch
    /// Everything below is on stable storage at the follower; never past `position`.
    package var durableEnd: Offset
    /// Where the follower's log starts; `nil` if that is not told.
    package var logStartOffset: Offset?
    /// The high watermark the follower knows.
    package var highWatermark: Offset

    package init(
        follower: NodeID, brokerEpoch: BrokerEpoch, leaderEpoch: LeaderEpoch, position: Offset,
        lastFetchedEpoch: LeaderEpoch, durableEnd: Offset, logStartOffset: Offset? = nil,
        highWatermark: Offset
    ) {
        self.follower = follower
        self.brokerEpoch = brokerEpoch
        self.leaderEpoch = leaderEpoch
        self.position = position
        self.lastFetchedEpoch = lastFetchedEpoch
        self.durableEnd = durableEnd
        self.logStartOffset = logStartOffset
        self.highWatermark = highWatermark
    }
}

/// The last offset, exclusive, that a log holds of an epoch, or of the newest one before it
/// (KIP-101, KIP-279).
///
/// `epoch` is `none` when the log holds nothing that old.
package struct EpochEnd: Equatable, Sendable {
    package var epoch: LeaderEpoch
    package var endOffset: Offset

    package init(epoch: LeaderEpoch, endOffset: Offset) {
        self.epoch = epoch
        self.endOffset = endOffset
    }
}

/// How a leader answers a follower's fetch.
package enum FetchVerdict: Equatable, Sendable {
    /// The logs agree below the position: send what comes next, if anything.
    case serve
    /// The logs part before the position; the follower compares epochs and truncates.
    case diverging(EpochEnd)
    case refused(Refusal)

    package enum Refusal: Equatable, Sendable {
        /// The follower is in an older leader epoch than this leader.
        case fencedLeaderEpoch
        /// The follower is in a newer leader epoch: this leader has been replaced, or is about to learn
        /// of its own newer epoch.
        case unknownLeaderEpoch
        /// The sender is no replica of this partition, as far as this leader knows.
        case notAReplica
        /// A newer incarnation of the sender is known.
        case staleBrokerEpoch
        /// The position is outside the leader's log and no epoch says where to go on.
        case offsetOutOfRange
    }
}
