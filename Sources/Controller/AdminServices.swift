internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import NIOCore
internal import Protocol
internal import Quorum
internal import RPC
internal import SwiftProtobuf

/// `millrace.v1.Admin` and `millrace.v1.Quorum`, on every controller: a standby passes them on.
///
/// `@unchecked Sendable`: used on the control loop only, where the server's connections live too.
final class AdminServices: @unchecked Sendable {
    let clusterID: String
    let local: NodeID
    let controller: ActiveController
    let quorum: any QuorumControl
    private let forwarder: ActiveControllerForwarder

    init(
        clusterID: String, local: NodeID, controller: ActiveController,
        forwarder: ActiveControllerForwarder, quorum: any QuorumControl
    ) {
        self.clusterID = clusterID
        self.local = local
        self.controller = controller
        self.forwarder = forwarder
        self.quorum = quorum
    }

    func register(in router: inout Router) {
        for method in ActiveControllerMethod.allCases {
            router.register(method.path) { self.route($0, to: method) }
        }
    }

    /// Serves the call on the active controller; elsewhere passes it on, once.
    private func route(_ call: ServerCall, to method: ActiveControllerMethod) {
        let serveHere: @Sendable () -> Bool = { [self] in
            guard controller.isActive else { return false }
            do throws(RPCError) {
                try serve(call, method)
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

    private func serve(
        _ call: ServerCall, _ method: ActiveControllerMethod
    ) throws(RPCError) {
        switch method {
        case .createTopic: try createTopic(call)
        case .deleteTopic: try deleteTopic(call)
        case .describeCluster: try describeCluster(call)
        case .alterConfigs: try alterConfigs(call)
        case .describeConfigs: try describeConfigs(call)
        case .unregisterBroker: try unregisterBroker(call)
        case .describeFeatures: try describeFeatures(call)
        case .updateFeatures: try updateFeatures(call)
        case .describeQuorum: try answerQuorum(call)
        case .addVoter: try addVoter(call)
        case .removeVoter: try removeVoter(call)
        case .transferLeadership: try transferLeadership(call)
        case .showMetadata: try showMetadata(call)
        case .dumpMetadata: try dumpMetadata(call)
        }
    }

    /// Answers with what `body` makes of a success, or with the failure.
    ///
    /// A call that nothing came of, because this node leads no more, goes to whoever leads now.
    func finish<Reply: Sendable>(
        _ call: ServerCall, _ result: Result<Reply, RPCError>,
        _ body: @escaping (Reply) throws(RPCError) -> some Message
    ) {
        do throws(RPCError) {
            call.respond(try body(try result.get()))
        } catch {
            guard error.code == .notController,
                let method = ActiveControllerMethod(rawValue: call.path)
            else { return call.fail(error) }
            // The end of the leadership may still be on its way here.
            call.eventLoop.execute { [self] in
                if controller.isActive { call.fail(error) } else { route(call, to: method) }
            }
        }
    }

    /// Answers with what `body` makes of the committed image, which no deposed controller gives.
    func read(
        _ call: ServerCall, _ body: @escaping (MetadataImage) throws(RPCError) -> some Message
    ) {
        controller.read { [self] in finish(call, $0, body) }
    }

    // MARK: Topics

    private func createTopic(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireCreateTopicRequest.self)
        let topic = NewTopic(
            name: wire.name, request: try topicID(wire.requestID, "request_id"),
            partitions: Int(wire.partitions),
            replicationFactor: Int(wire.replicationFactor), configs: wire.configs,
            assignments: wire.assignments.map { $0.replicas.map { NodeID($0) } })
        controller.submit { state, _ throws(ControllerError) in
            let result = try state.createTopic(topic)
            return wire.validateOnly ? state.checkOnly(result) : result
        } completion: { result in
            self.finish(call, result) { created in
                var answer = WireCreateTopicResponse()
                answer.name = created.name
                answer.topicID = wire.validateOnly ? "" : created.id.description
                answer.partitions = Int32(created.partitions)
                answer.replicationFactor = Int32(created.replicationFactor)
                return answer
            }
        }
    }

    private func topicID(
        _ text: String, _ field: String = "topic_id"
    ) throws(RPCError) -> TopicID? {
        if text.isEmpty { return nil }
        guard let id = TopicID(text), id != .zero else {
            throw RPCError(.invalidRequest, "\(field) '\(text)' is not an id")
        }
        return id
    }

    private func deleteTopic(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireDeleteTopicRequest.self)
        let id = try topicID(wire.topicID)
        controller.submit { state, _ throws(ControllerError) in
            try state.deleteTopic(named: wire.name, id: id)
        } completion: { result in
            self.finish(call, result) { id in
                var answer = WireDeleteTopicResponse()
                answer.topicID = id.description
                return answer
            }
        }
    }
}
