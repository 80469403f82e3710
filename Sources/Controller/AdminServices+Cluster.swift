internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import Protocol
internal import Quorum
internal import Raft
internal import RPC

/// Nodes: who there is, and who is forgotten.
extension AdminServices {
    /// What is committed: answers never follow the speculation.
    func describeCluster(_ call: ServerCall) throws(RPCError) {
        _ = try call.decode(WireDescribeClusterRequest.self)
        read(call) { [self] image in
            var answer = WireDescribeClusterResponse()
            answer.clusterID = clusterID
            answer.activeController = local.rawValue
            answer.nodes = quorum.voters.map { voter in
                var node = WireClusterNode()
                node.id = voter.id.rawValue
                node.role = "controller"
                node.host = voter.host
                node.port = Int32(clamping: voter.port)
                return node
            }
            answer.nodes += image.brokers.values.sorted { $0.id < $1.id }.map {
                WireClusterNode($0, in: image)
            }
            return answer
        }
    }

    func unregisterBroker(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireUnregisterBrokerRequest.self)
        guard wire.hasID else {
            throw RPCError(.invalidRequest, "say which broker: `id` is missing")
        }
        controller.submit { state, now throws(ControllerError) in
            try state.unregisterBroker(NodeID(wire.id), now: now)
        } completion: { [self] result in
            finish(call, result) { WireUnregisterBrokerResponse() }
        }
    }
}

extension WireClusterNode {
    fileprivate init(_ broker: BrokerRegistration, in image: MetadataImage) {
        self.init()
        id = broker.id.rawValue
        role = "broker"
        host = broker.host
        port = Int32(clamping: broker.port)
        rack = broker.rack ?? ""
        fenced = broker.fenced
        brokerEpoch = broker.epoch.rawValue
        leaders = Int32(clamping: image.leaderCount(of: broker.id))
        replicas = Int32(clamping: image.replicaCount(of: broker.id))
        offlineReplicas = Int32(clamping: image.offlineCount(of: broker.id))
    }
}
