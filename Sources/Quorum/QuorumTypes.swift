package import Configuration
package import Essentials
internal import Raft
package import Storage

/// One controller of the metadata quorum, and where it listens.
package struct QuorumVoter: Hashable, Sendable {
    package var id: NodeID
    package var host: String
    package var port: Int

    package init(id: NodeID, host: String, port: Int) {
        self.id = id
        self.host = host
        self.port = port
    }
}

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
}

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
    /// Configuration that contradicts itself.
    case invalidOptions(String)
    case storage(LogError)
    /// The voters belong to another cluster than this node; says which.
    case otherCluster(String)
    /// Committed records of this node contradict the leader's.
    case diverged(String)
}

extension QuorumError: CustomStringConvertible {
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
            "the metadata log in \(path) is damaged at offset \(offset); move the folder away, and "
                + "let this node fetch the log again from the others"
        case .invalidOptions(let reason): reason
        case .otherCluster(let reason): reason
        case .storage(let error): "\(error)"
        case .diverged(let reason): reason
        }
    }
}

/// What a quorum node has to know to start.
package struct QuorumOptions: Sendable {
    package var clusterID: String
    package var local: NodeID
    package var directory: DirectoryID
    package var voters: [QuorumVoter]
    /// `metadata.log.dir`: the folder in which the metadata log lies.
    package var directoryPath: String
    package var electionTimeout: Duration = .seconds(1)
    package var fetchTimeout: Duration = .seconds(2)
    /// The most bytes a fetch of the log answers.
    package var maxFetchBytes = 4 << 20

    package init(
        clusterID: String, local: NodeID, directory: DirectoryID, voters: [QuorumVoter],
        directoryPath: String
    ) {
        self.clusterID = clusterID
        self.local = local
        self.directory = directory
        self.voters = voters
        self.directoryPath = directoryPath
    }

    package init(_ configuration: NodeConfiguration, properties: MetaProperties) {
        self.init(
            clusterID: properties.clusterID, local: configuration.nodeID,
            directory: properties.directoryID,
            voters: configuration.voters.map {
                QuorumVoter(id: $0.id, host: $0.endpoint.host, port: $0.endpoint.port)
            }, directoryPath: configuration.metadataLogDirectory)
        electionTimeout = configuration.quorumElectionTimeout
        fetchTimeout = configuration.quorumFetchTimeout
    }

    /// Whether this node votes; otherwise it only observes.
    package var isVoter: Bool { voters.contains { $0.id == local } }
}
