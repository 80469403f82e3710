internal import Essentials
internal import Logging
internal import Raft
internal import Storage

/// Making a replica of what is on disk.
extension QuorumNode {
    /// The folder of the log and its snapshots.
    var metadataFolder: String { "\(options.directoryPath)/\(MetadataLog.folder)" }

    /// The first pseudo id of a bootstrap server; the others count down from it.
    private static let firstBootstrapID: Int32 = -2
    /// How large a segment gets: small enough for a snapshot to let most of them go.
    private static let segmentBytes = (64 << 10)...(64 << 20)

    /// The servers to ask for the leader, and the ids that the state machine calls them by.
    var bootstrapIDs: [NodeID] {
        options.bootstrapServers.indices.map { NodeID(Self.firstBootstrapID - Int32($0)) }
    }

    /// The position in `bootstrapServers` of the server with this pseudo id.
    static func bootstrapIndex(of id: NodeID) -> Int { Int(firstBootstrapID) - Int(id.rawValue) }

    /// Makes a replica of what is on disk.
    func open() throws(QuorumError) {
        var config = RaftConfig()
        config.electionTimeout = options.electionTimeout
        config.fetchTimeout = options.fetchTimeout
        config.maxFetchWait = min(config.maxFetchWait, options.fetchTimeout / 4)
        config.requestTimeout = max(config.maxFetchWait * 2, .milliseconds(500))
        config.isDurable = options.isController
        if let problem = config.problem { throw .invalidOptions(problem) }
        let stored = options.isController ? try storedElection() : interruptedElection
        let found = try MetadataLog.open(
            directory: directory, path: options.directoryPath,
            segmentBytes: min(
                max(options.snapshotBytes / 2, Self.segmentBytes.lowerBound),
                Self.segmentBytes.upperBound), fileSystem: fileSystem)
        guard !bootstrapIDs.isEmpty || found.voters.current != nil else {
            throw .invalidOptions(
                "controller.quorum.bootstrap.servers must name at least one controller")
        }
        if options.isController, stored == nil {
            // It is written before there can be any records: here.
            guard found.state.endOffset == 0, found.snapshot == nil else {
                throw .damagedState(
                    path: stateFile.path, reason: "it is missing beside a metadata log")
            }
            try storeElection(.initial)
        }
        if options.isController, let stored, stored != .initial, !found.hasSnapshot,
            found.state.endOffset == 0
        {
            // A new directory has its first snapshot. Here somebody took the folder away: with an empty
            // log this replica would vote for one that lacks what it acknowledged.
            throw .missingSnapshot(folder: metadataFolder, logStart: 0)
        }
        bootstrapRecords = found.bootstrapRecords
        let local = ReplicaKey(id: options.local, directory: options.directory)
        if options.isController, !(found.voters.current?.isVoter(local) ?? false) {
            logger.notice(
                "this controller is no voter; it observes until 'millrace quorum add-voter'",
                metadata: ["replica": "\(local)"])
        }
        begin(
            RaftNode(
                local: local,
                voters: found.voters, bootstrap: bootstrapIDs, config: config,
                election: stored ?? .initial, log: found.state, snapshot: found.snapshot,
                generator: SeededGenerator(seed: .random(in: .min ... .max)), now: .now),
            found.log)
        snapshots = SnapshotState()
        snapshots.newest = found.snapshot
        if let snapshot = found.snapshot { deliver(.load(snapshot)) }
        votersChanged(found.voters.current)
    }
}
