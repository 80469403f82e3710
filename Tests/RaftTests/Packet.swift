import Essentials
import Raft

/// A message on its way, with what only tests need: the run of the process it belongs to.
struct Packet: Hashable, Sendable {
    enum Content: Hashable, Sendable {
        case request(RaftRequest, RequestID)
        case response(RaftResponse, RequestID, payload: Payload)
        case failure(RequestID)
        case connectionLost
    }

    /// What the bytes of a response would be.
    enum Payload: Hashable, Sendable {
        case none
        case entries([Entry])
        case piece(SnapshotFile, count: Int64)
    }

    var from: NodeID
    var to: NodeID
    /// Which run of the requesting process this belongs to: connections die with a process.
    var run: Int
    var content: Content
}

/// What a replica did that its messages do not show.
enum ReplicaEvent {
    case appended(Offset, Entry, previousEpoch: LeaderEpoch?)
    case proposedVoters(VoterSet, offset: Offset, VoterContext)
    case truncated(wasLeading: Bool)
    case movedStart(SnapshotID)
    case loaded(SnapshotFile)
    case tookSnapshot(SnapshotFile)
    case applied(from: Int, entries: [Entry], state: UInt64, epoch: LeaderEpoch)
    case startedLeading(LeaderEpoch)
    case stoppedLeading(LeaderEpoch)
    case confirmedRead(RequestToken, answer: Offset)
    case answeredClient(RequestToken)
    case broke(String)
}

/// What a leader's log held when it proposed another voter set.
struct VoterContext {
    var epoch: LeaderEpoch
    var previous: VoterSet?
    /// Where the previous set's record is; `nil` when it was never in the log.
    var previousOffset: Offset?
    var highWatermark: Offset?
    var epochStart: Offset
}
