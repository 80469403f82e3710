internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import NIOCore
internal import Protocol
internal import Quorum
internal import RPC

/// `millrace.v1.Admin` and `millrace.v1.Quorum`, on every controller: a standby passes them on.
///
/// `@unchecked Sendable`: used on the control loop only, where the server's connections live too.
final class AdminServices: @unchecked Sendable {
    private let clusterID: String
    private let voters: [QuorumVoter]
    private let local: NodeID
    private let controller: ActiveController
    private let forwarder: ActiveControllerForwarder
    private let describeQuorum: () -> WireDescribeQuorumResponse

    init(
        clusterID: String, voters: [QuorumVoter], local: NodeID, controller: ActiveController,
        forwarder: ActiveControllerForwarder,
        describeQuorum: @escaping () -> WireDescribeQuorumResponse
    ) {
        self.clusterID = clusterID
        self.voters = voters
        self.local = local
        self.controller = controller
        self.forwarder = forwarder
        self.describeQuorum = describeQuorum
    }

    func register(in router: inout Router) {
        serve("/millrace.v1.Admin/CreateTopic", in: &router, AdminServices.createTopic)
        serve("/millrace.v1.Admin/DeleteTopic", in: &router, AdminServices.deleteTopic)
        serve("/millrace.v1.Admin/DescribeCluster", in: &router, AdminServices.describeCluster)
        serve("/millrace.v1.Quorum/DescribeQuorum", in: &router, AdminServices.answerQuorum)
    }

    /// Answers with `body` on the active controller; elsewhere passes the call on, once.
    private func serve(
        _ path: String, in router: inout Router,
        _ body: @escaping @Sendable (AdminServices) -> (ServerCall) throws(RPCError) -> Void
    ) {
        router.register(path) { [self] call in
            let serveHere: @Sendable () -> Bool = { [self] in
                guard controller.isActive else { return false }
                do throws(RPCError) {
                    try body(self)(call)
                } catch {
                    call.fail(error)
                }
                return true
            }
            if serveHere() { return }
            if call.header(ActiveControllerForwarder.header) != nil {
                call.fail(controller.notController())
            } else {
                forwarder.forward(call, orServe: serveHere)
            }
        }
    }

    private func createTopic(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireCreateTopicRequest.self)
        let topic = NewTopic(
            name: wire.name, id: try topicID(wire.topicID), partitions: Int(wire.partitions),
            replicationFactor: Int(wire.replicationFactor), configs: wire.configs,
            assignments: wire.assignments.map { $0.replicas.map { NodeID($0) } })
        controller.submit { state, _ throws(ControllerError) in
            let result = try state.createTopic(topic)
            return wire.validateOnly ? state.checkOnly(result) : result
        } completion: { result in
            call.end(result) { created in
                var answer = WireCreateTopicResponse()
                answer.name = created.name
                answer.topicID = wire.validateOnly ? "" : created.id.description
                answer.partitions = Int32(created.partitions)
                answer.replicationFactor = Int32(created.replicationFactor)
                return answer
            }
        }
    }

    private func topicID(_ text: String) throws(RPCError) -> TopicID? {
        if text.isEmpty { return nil }
        guard let id = TopicID(text), id != .zero else {
            throw RPCError(.invalidRequest, "topic_id '\(text)' is not a topic id")
        }
        return id
    }

    private func deleteTopic(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireDeleteTopicRequest.self)
        let id = try topicID(wire.topicID)
        controller.submit { state, _ throws(ControllerError) in
            try state.deleteTopic(named: wire.name, id: id)
        } completion: { result in
            call.end(result) { id in
                var answer = WireDeleteTopicResponse()
                answer.topicID = id.description
                return answer
            }
        }
    }

    /// What is committed: pushes and answers never follow the speculation.
    private func describeCluster(_ call: ServerCall) throws(RPCError) {
        _ = try call.decode(WireDescribeClusterRequest.self)
        let image = controller.committed
        var answer = WireDescribeClusterResponse()
        answer.clusterID = clusterID
        answer.activeController = local.rawValue
        answer.nodes = voters.sorted { $0.id < $1.id }.map { voter in
            var node = WireClusterNode()
            node.id = voter.id.rawValue
            node.role = "controller"
            node.host = voter.host
            node.port = Int32(clamping: voter.port)
            return node
        }
        answer.nodes += image.brokers.values.sorted { $0.id < $1.id }.map { broker in
            var node = WireClusterNode()
            node.id = broker.id.rawValue
            node.role = "broker"
            node.host = broker.host
            node.port = Int32(clamping: broker.port)
            node.rack = broker.rack ?? ""
            node.fenced = broker.fenced
            node.brokerEpoch = broker.epoch.rawValue
            node.leaders = Int32(clamping: image.leaderCount(of: broker.id))
            node.replicas = Int32(clamping: image.replicaCount(of: broker.id))
            return node
        }
        call.respond(answer)
    }

    private func answerQuorum(_ call: ServerCall) throws(RPCError) {
        _ = try call.decode(WireDescribeQuorumRequest.self)
        call.respond(describeQuorum())
    }
}
