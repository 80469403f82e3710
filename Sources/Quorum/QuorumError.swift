package import Essentials
package import Storage

/// Why the quorum can't do what is asked of it.
package enum QuorumError: Error, Hashable, Sendable {
    /// This node does not lead that epoch.
    case notLeader(NodeID?, epoch: LeaderEpoch)
    case stopped
    /// The records of one decision are more than one batch can carry.
    case batchTooLarge(bytes: Int, limit: Int)
    /// The file that says how this node voted makes no sense.
    case damagedState(path: String, reason: String)
    /// Records that were on stable storage are not readable any more.
    case damagedLog(path: String, at: Offset)
    /// A snapshot is not whole, or its bytes are not what was written.
    case damagedSnapshot(path: String, reason: String)
    /// The log's older records were removed, and the snapshot that stands for them is not there.
    ///
    /// With a start of 0, there is neither a log nor what a new controller begins with.
    case missingSnapshot(folder: String, logStart: Offset)
    /// A file that was to be looked at is no part of a metadata log, or makes no sense.
    case unreadable(path: String, reason: String)
    /// Configuration that contradicts itself.
    case invalidOptions(String)
    case storage(LogError)
    /// The voters belong to another cluster than this node; says which.
    case otherCluster(String)
    /// Committed records of this node contradict the leader's.
    case diverged(String)
    /// A change of the voters, or a hand-over, is refused; the code names the kind of reason.
    case refused(ErrorCode, String)
    /// The time was up, or the leadership ended, before it was known what became of the change.
    case unknownOutcome(String)
}

extension QuorumError: CustomStringConvertible {
    /// The way back for a controller that lost records which it may have acknowledged.
    ///
    /// With an empty log under its old identity it could elect a leader that lacks them.
    private static let replacement =
        "remove this controller with 'millrace quorum remove-voter', empty its directory and format "
        + "that anew with 'millrace storage format --no-initial-controllers', which gives it a new "
        + "directory id, and add it with 'millrace quorum add-voter'"

    package var description: String {
        switch self {
        case .notLeader(let leader, let epoch):
            "not the leader of epoch \(epoch); "
                + (leader.map { "that is \($0)" } ?? "none is known")
        case .stopped: "the quorum node has stopped"
        case .batchTooLarge(let bytes, let limit):
            "one change of \(bytes) bytes does not fit into a batch of at most \(limit); "
                + "change less at once"
        case .damagedState(let path, let reason):
            "\(path) is damaged (\(reason)), so this node can't know how it voted; restore the file, "
                + "or replace this controller's disk and format it anew"
        case .damagedLog(let path, let offset):
            "the metadata log in \(path) is damaged at offset \(offset); " + Self.replacement
        case .damagedSnapshot(let path, let reason):
            "\(path) is damaged (\(reason)); restore it from a copy; if there is none, "
                + Self.replacement
        case .missingSnapshot(let folder, let start) where start == 0:
            "the metadata log in \(folder) is gone, though this controller took part in elections; "
                + "restore the folder; if that can't be done, " + Self.replacement
        case .missingSnapshot(let folder, let start):
            "the metadata log in \(folder) begins at offset \(start), and no snapshot there holds what "
                + "came before; restore it; if that can't be done, " + Self.replacement
        case .unreadable(let path, let reason):
            "\(path) can't be read as metadata: \(reason)"
        case .invalidOptions(let reason): reason
        case .otherCluster(let reason): reason
        case .storage(let error): "\(error)"
        case .diverged(let reason): reason
        case .refused(_, let reason): reason
        case .unknownOutcome(let reason): reason
        }
    }
}

extension QuorumError {
    /// The name under which a caller hears of it.
    package var code: ErrorCode {
        switch self {
        case .notLeader, .stopped: .notController
        case .batchTooLarge: .recordListTooLarge
        case .refused(let code, _): code
        case .unknownOutcome: .requestTimedOut
        case .otherCluster: .inconsistentClusterID
        case .invalidOptions: .invalidConfig
        case .damagedState, .damagedLog, .damagedSnapshot, .missingSnapshot, .unreadable, .storage,
            .diverged:
            .kafkaStorageError
        }
    }
}
