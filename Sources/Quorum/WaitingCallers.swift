internal import Essentials
internal import NIOCore
internal import Raft

/// Who waits for this node, as leader, to have done something.
struct WaitingCallers {
    /// For a voter change to be committed.
    struct Change {
        let offset: Offset
        let epoch: LeaderEpoch
        let complete: (Result<[Voter], QuorumError>) -> Void
        let timeout: Scheduled<Void>
    }

    /// For another leader.
    struct HandOver {
        let epoch: LeaderEpoch
        let complete: (Result<(leader: NodeID, epoch: LeaderEpoch), QuorumError>) -> Void
        let timeout: Scheduled<Void>
    }

    var changes: [UInt64: Change] = [:]
    /// For the state machine to say whether it leads.
    var reads: [RequestToken: (Result<Offset, QuorumError>) -> Void] = [:]
    /// For what is committed to have been handed out up to here.
    var confirmedReads: [(end: Offset, complete: (Result<Offset, QuorumError>) -> Void)] = []
    /// For the state machine to have handed over.
    var transfers: [RequestToken: HandOver] = [:]
    /// For the successor to lead.
    var handOvers: [UInt64: HandOver] = [:]
}
