package import Essentials

/// What a replica is in its current epoch.
///
/// - `resigned`: led this epoch, perhaps before a restart, and must not lead it again. Becomes
///   prospective when its time is up.
/// - `unattached`: knows no leader; may have voted. A voter becomes prospective when its time is
///   up, an observer asks the voters for the leader.
/// - `prospective`: asks for pre-votes. With a majority it becomes a candidate of the next epoch;
///   without one it goes back to the leader it knows, or asks again.
/// - `candidate`: voted for itself, asks for votes. With a majority it becomes leader; without
///   one, prospective.
/// - `follower`: fetches from the leader of the epoch. Without success for a fetch timeout a voter
///   becomes prospective, an observer unattached.
/// - `leader`: won the epoch. Resigns when asked to, or when a majority stops fetching from it.
///
/// From each of them a message of a higher epoch leads to follower, if it names the leader, or
/// unattached. A replica that is not a voter is never resigned for long, and prospective, candidate
/// or leader only until its own removal is committed.
package enum Role: Hashable, Sendable {
    case resigned(Resigned)
    case unattached(Unattached)
    case prospective(Campaign)
    case candidate(Campaign)
    case follower(Follower)
    case leader(Leader)

    package var name: String {
        switch self {
        case .resigned: "resigned"
        case .unattached: "unattached"
        case .prospective: "prospective"
        case .candidate: "candidate"
        case .follower: "follower"
        case .leader: "leader"
        }
    }
}

/// A request that is repeated until it is answered as wished.
package struct Errand: Hashable, Sendable {
    /// The request that waits for its answer.
    package var outstanding: RequestID?
    /// When to send the request: for the first time, or again because no answer came.
    package var due: MonotonicTime

    static func due(_ time: MonotonicTime) -> Errand { Errand(outstanding: nil, due: time) }
    static let done = Errand(outstanding: nil, due: .distantFuture)
}

package struct Resigned: Hashable, Sendable {
    /// When to look for another leader.
    package var deadline: MonotonicTime
    package var preferredSuccessors: [NodeID]
    /// The voters still to be told.
    package var notices: [NodeID: Errand]
}

package struct Unattached: Hashable, Sendable {
    /// When to campaign; of no meaning on an observer.
    package var deadline: MonotonicTime
    /// An observer's question for the leader.
    package var search: Errand
}

/// One round of asking for votes or pre-votes.
package struct Campaign: Hashable, Sendable {
    package enum Ballot: Hashable, Sendable {
        case granted
        case refused
        /// No answer yet, or the voter can't be reached.
        case missing(isUnreachable: Bool)
    }

    /// When the round is over.
    package var deadline: MonotonicTime
    /// The leader to go back to after a lost pre-vote.
    package var leader: NodeID?
    /// Of every other voter.
    package var ballots: [NodeID: Ballot]
    package var errands: [NodeID: Errand]
    /// A question for the leader to a bootstrap server: the voters that we know may all be gone.
    package var search: Errand
    /// Whether the round was already cut short because it can't be won.
    package var isHopeless = false

    func count(_ ballot: Ballot) -> Int {
        ballots.values.count { $0 == ballot }
    }
}

package struct Follower: Hashable, Sendable {
    package enum LeaderHealth: Hashable, Sendable {
        case alive
        /// The connection broke; the next fetch tells.
        case connectionLost
        /// It said that it leads no more.
        case resigned
    }

    package let leader: NodeID
    /// When to look for another leader.
    package var deadline: MonotonicTime
    /// Whether a fetch has succeeded in this epoch: this is what "heard from the leader" means.
    package var hasFetched = false
    package var health = LeaderHealth.alive
    package var fetch: Errand
}

package struct Leader: Hashable, Sendable {
    package let epoch: LeaderEpoch
    /// The offset of the epoch's first record.
    package let epochStart: Offset
    package let since: MonotonicTime
    /// Unknown until something of this epoch is committed.
    package var highWatermark: Offset?
    /// The other voters.
    package var voters: [NodeID: ReplicaProgress]
    package var observers: [ReplicaKey: ReplicaProgress] = [:]
    /// Fetches that wait for something to answer, one a replica.
    package var parked: [ReplicaKey: ParkedFetch] = [:]
    /// The voters still to be told that we lead.
    package var notices: [NodeID: Errand]
    package var transfer: Transfer?
    /// Reads that wait for the next round.
    package var waitingReads: [RequestToken] = []
    package var readRound: ReadRound?

    /// What is known of a voter, or of one that was removed and goes on as an observer.
    func progress(of voter: Voter) -> ReplicaProgress? {
        voters[voter.id]
            ?? observers.first { voter.isSame(as: $0.key) }?.value
    }
}

/// A leadership that is handed over once the successor holds everything.
package struct Transfer: Hashable, Sendable {
    package var successor: NodeID
    package var token: RequestToken
    package var deadline: MonotonicTime
}

/// A question to the voters, sent after these reads arrived, whether they know of a newer epoch.
package struct ReadRound: Hashable, Sendable {
    package var tokens: [RequestToken]
    /// The voters that are still in our epoch.
    package var confirmed: Set<NodeID> = []
    package var errands: [NodeID: Errand]
    /// When to give up: voters may reach us that we can't reach.
    package var deadline: MonotonicTime
}

/// A snapshot on its way from the leader.
package struct SnapshotDownload: Hashable, Sendable {
    package let snapshot: SnapshotID
    /// Whose snapshot it is: another leader's may differ in its bytes.
    package let leader: NodeID
    package let epoch: LeaderEpoch
    /// So many bytes are held.
    package var position: Int64 = 0
    /// In bytes; unknown until the first piece came.
    package var size: Int64?

    /// Whether all is here, and being verified.
    package var isComplete: Bool { position == size }
}

/// What a leader knows of another replica in this epoch.
package struct ReplicaProgress: Hashable, Sendable {
    /// The directory it fetched with; another one under the same id is another replica.
    package var directory: DirectoryID?
    /// It holds everything below, a voter durably; unknown until its first valid fetch.
    package var endOffset: Offset?
    package var lastFetch: MonotonicTime?
    /// When it last held all that the leader then had.
    package var lastCaughtUp: MonotonicTime?
    /// The leader's log end at `lastFetch`.
    package var leaderEndAtLastFetch: Offset = 0
    /// Whether its last fetch told of records that are on stable storage.
    package var isDurable = false
}

package struct ParkedFetch: Hashable, Sendable {
    package var token: RequestToken
    package var fetchOffset: Offset
    package var highWatermark: Offset?
    package var deadline: MonotonicTime
}
