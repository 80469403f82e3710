internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import NIOCore
internal import Protocol
internal import Quorum
internal import RPC
internal import Raft

/// The quorum, as far as an operator asks of it.
protocol QuorumControl: AnyObject {
    /// Who votes at present.
    var voters: [Voter] { get }
    func describe() -> WireDescribeQuorumResponse
    func addVoter(
        id: NodeID, directory: DirectoryID?, host: String, port: Int, deadline: NIODeadline,
        check: @escaping (_ levels: ClosedRange<Int32>?) throws(QuorumError) -> Void,
        completion: @escaping (Result<[Voter], QuorumError>) -> Void)
    func removeVoter(
        id: NodeID, directory: DirectoryID?, deadline: NIODeadline,
        completion: @escaping (Result<[Voter], QuorumError>) -> Void)
    func transferLeadership(
        to successor: NodeID?, deadline: NIODeadline,
        completion: @escaping (Result<(leader: NodeID, epoch: LeaderEpoch), QuorumError>) -> Void)
    /// Which levels of the metadata records the nodes said they support.
    var heardLevels: HeardLevels { get }
    func readLog(from offset: Offset?, maxRecords: Int) throws(QuorumError) -> QuorumLogPage
}

extension QuorumNode: QuorumControl {}

/// The quorum and its voters.
extension AdminServices {
    /// How long a change may take for a caller that sets no limit.
    private static let patience = TimeAmount.seconds(30)
    /// So much before the caller's deadline it is told why the change did not happen.
    private static let headStart = TimeAmount.milliseconds(200)

    func answerQuorum(_ call: ServerCall) throws(RPCError) {
        _ = try call.decode(WireDescribeQuorumRequest.self)
        read(call) { [quorum] _ in quorum.describe() }
    }

    func addVoter(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireAddVoterRequest.self)
        guard wire.hasID else {
            throw RPCError(.invalidRequest, "say which controller: `id` is missing")
        }
        let id = NodeID(wire.id)
        quorum.addVoter(
            id: id, directory: try directory(wire.directoryID), host: wire.host,
            port: Int(wire.port), deadline: deadline(of: call),
            check: { [self] levels throws(QuorumError) in try checkNewVoter(id, levels) }
        ) { [self] result in
            finish(call, answer(of: result)) { voters in
                var answer = WireAddVoterResponse()
                answer.voters = voters.map(WireQuorumReplica.init)
                return answer
            }
        }
    }

    /// Whether the controller may vote, by what is decided so far.
    private func checkNewVoter(
        _ id: NodeID, _ levels: ClosedRange<Int32>?
    ) throws(QuorumError) {
        let image = controller.leadership?.state.image ?? controller.committed
        if let broker = image.brokers[id] {
            throw .refused(
                .invalidRequest,
                "node.id \(id) is that of the broker at \(broker.host):\(broker.port); give the "
                    + "controller one of its own")
        }
        // One that has not said is not heard from, which is a refusal of its own.
        if let levels, image.featureLevel > levels.upperBound {
            throw .refused(
                .unsupportedVersion,
                "the cluster's metadata is at level \(image.featureLevel), and controller \(id) "
                    + "understands \(levels.upperBound) at most; upgrade it")
        }
    }

    func removeVoter(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireRemoveVoterRequest.self)
        guard wire.hasID else {
            throw RPCError(.invalidRequest, "say which controller: `id` is missing")
        }
        quorum.removeVoter(
            id: NodeID(wire.id), directory: try directory(wire.directoryID),
            deadline: deadline(of: call)
        ) { [self] result in
            finish(call, answer(of: result)) { voters in
                var answer = WireRemoveVoterResponse()
                answer.voters = voters.map(WireQuorumReplica.init)
                return answer
            }
        }
    }

    func transferLeadership(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireTransferLeadershipRequest.self)
        let successor = wire.hasTo ? NodeID(wire.to) : nil
        if successor == local, let epoch = controller.leadership?.epoch {
            // Done already, if this node leads indeed.
            return read(call) { [local] _ in WireTransferLeadershipResponse(local, epoch) }
        }
        quorum.transferLeadership(to: successor, deadline: deadline(of: call)) { [self] result in
            finish(call, answer(of: result)) { leader, epoch in
                WireTransferLeadershipResponse(leader, epoch)
            }
        }
    }

    private func answer<Value>(
        of result: Result<Value, QuorumError>
    ) -> Result<Value, RPCError> {
        result.mapError { error in
            if case .notLeader = error { return controller.notController() }
            return RPCError(error.code, "\(error)")
        }
    }

    private func directory(_ text: String) throws(RPCError) -> DirectoryID? {
        if text.isEmpty { return nil }
        guard let id = DirectoryID(text), id != .zero else {
            throw RPCError(
                .invalidRequest,
                "directory_id '\(text)' is none; 'millrace storage info' shows it on the node itself"
            )
        }
        return id
    }

    private func deadline(of call: ServerCall) -> NIODeadline {
        call.deadline.map { $0 - Self.headStart } ?? .now() + Self.patience
    }
}

extension WireQuorumReplica {
    fileprivate init(_ voter: Voter) {
        self.init()
        id = voter.id.rawValue
        directoryID = voter.directory?.description ?? ""
        host = voter.host
        port = Int32(clamping: voter.port)
    }
}

extension WireTransferLeadershipResponse {
    fileprivate init(_ leader: NodeID, _ epoch: LeaderEpoch) {
        self.init()
        leaderID = leader.rawValue
        leaderEpoch = epoch.rawValue
    }
}
