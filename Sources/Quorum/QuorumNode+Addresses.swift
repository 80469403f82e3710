internal import Configuration
package import Essentials
internal import Logging
internal import Protocol
internal import RPC
internal import Raft

/// Where the others are.
extension QuorumNode {
    /// More leaders than this were never heard of by an honest node.
    private static let maxLearned = 1_000
    private static let maxHostBytes = 1_024

    /// Where a controller listens: as it said itself when it led, or else as the voter set says.
    package func address(of id: NodeID) -> (host: String, port: Int)? {
        if id == options.local, let listener = options.listener {
            return (listener.host, listener.port)
        }
        if id.rawValue < 0 {
            let index = Self.bootstrapIndex(of: id)
            guard options.bootstrapServers.indices.contains(index) else { return nil }
            let server = options.bootstrapServers[index]
            return (server.host, server.port)
        }
        if let known = learned[id] { return (known.host, known.port) }
        return raft?.voterSet?[id].map { ($0.host, $0.port) }
    }

    func wireEndpoint(of id: NodeID) -> WireNodeEndpoint? {
        guard id >= 0, let (host, port) = address(of: id) else { return nil }
        var wire = WireNodeEndpoint()
        wire.host = host
        wire.port = Int32(clamping: port)
        return wire
    }

    /// Notes where the leader of an epoch says that it listens.
    func learn(_ endpoint: WireNodeEndpoint, of leader: Int32, epoch: Int32) {
        guard let id = NodeID(wire: leader), id != options.local, LeaderEpoch(epoch) >= self.epoch,
            (1...Self.maxHostBytes).contains(endpoint.host.utf8.count),
            (1...65_535).contains(endpoint.port)
        else { return }
        if learned[id] == nil, learned.count >= Self.maxLearned { learned = [:] }
        learned[id] = Endpoint(host: endpoint.host, port: Int(endpoint.port))
    }

    /// The connection to a peer, at the address it has now.
    func client(of peer: NodeID) -> RPCClient? {
        guard phase == .running, let (host, port) = address(of: peer) else { return nil }
        if let known = peers[peer] {
            if known.host == host, known.port == port { return known }
            known.onDisconnect = nil
            known.close()
        }
        let client = RPCClient(host: host, port: port, eventLoop: eventLoop, logger: logger)
        client.onDisconnect = { [weak self] in self?.step(.connectionLost(to: peer)) }
        peers[peer] = client
        return client
    }

    /// So many times a voter is asked where it should be before it is looked for elsewhere.
    private static let patience = 3

    /// Whom to ask for a voter's vote: mostly that voter.
    ///
    /// One that is not found where the voter set says may be at one of the bootstrap servers, as all
    /// are when every controller has moved; the request names the voter, and others refuse it.
    func respondent(for peer: NodeID) -> NodeID {
        let servers = bootstrapIDs
        guard peer >= 0, let failures = searches[peer], failures >= Self.patience,
            !servers.isEmpty
        else { return peer }
        let turn = failures % (servers.count + 1)
        return turn == 0 ? peer : servers[turn - 1]
    }

    /// Notes whether a voter was found where it was asked for its vote.
    func noteSearch(for peer: NodeID, at respondent: NodeID, wasFound: Bool) {
        guard wasFound else {
            searches[peer, default: 0] &+= 1
            return
        }
        searches[peer] = nil
        guard respondent != peer, let (host, port) = address(of: respondent) else { return }
        learned[peer] = Endpoint(host: host, port: port)
    }

    /// Another voter set is in force.
    func votersChanged(_ set: VoterSet?) {
        let voters = set?.voters ?? []
        // What the set says of a voter that moved is newer than what it once said itself.
        for voter in voters where lastAnnounced[voter.id] != voter { learned[voter.id] = nil }
        lastAnnounced = Dictionary(uniqueKeysWithValues: voters.map { ($0.id, $0) })
        logger.info("quorum voters", metadata: ["voters": "\(voters)"])
        listener?.votersChanged(voters)
        updateOwnVoter()
    }
}
