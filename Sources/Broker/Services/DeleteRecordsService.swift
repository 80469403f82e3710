internal import Essentials
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC

/// `millrace.v1.Admin/DeleteRecords`: the leader removes records; others pass the call on, once.
struct DeleteRecordsService: Sendable {
    static let path = "/millrace.v1.Admin/DeleteRecords"

    let local: NodeID
    let metadata: BrokerMetadata
    let replicas: ReplicaManager
    let peers: BrokerPeers

    func register(in router: inout Router) {
        router.register(Self.path) { call in
            do throws(RPCError) {
                try serve(try call.decode(WireDeleteRecordsRequest.self), for: call)
            } catch {
                call.fail(error)
            }
        }
    }

    private func serve(_ request: WireDeleteRecordsRequest, for call: ServerCall) throws(RPCError) {
        guard request.beforeOffset >= -1 else {
            throw RPCError(
                .invalidRequest,
                "before_offset is an offset, or -1 for the end of what is committed")
        }
        let image = metadata.current
        let timeout = Duration.milliseconds(request.timeoutMs > 0 ? request.timeoutMs : 30_000)
        let bound = NIOLoopBound(call, eventLoop: call.eventLoop)
        switch try PartitionRoute.find(
            topic: request.topic, partition: request.partition, image: image, local: local,
            replicas: replicas)
        {
        case .here(let replica):
            let offset = request.beforeOffset < 0 ? nil : Offset(request.beforeOffset)
            replica.eventLoop.runNow {
                replica.deleteRecords(before: offset, timeout: timeout) { result in
                    bound.eventLoop.runNow {
                        switch result {
                        case .success(let start):
                            var response = WireDeleteRecordsResponse()
                            response.logStartOffset = start.rawValue
                            bound.value.respond(response)
                        case .failure(let error):
                            bound.value.fail(error)
                        }
                    }
                }
            }
        case .elsewhere(let leader):
            guard call.header("millrace-forwarded") == nil,
                let peer = peers.client(for: leader, in: image)
            else {
                throw PartitionRoute.notLeader(
                    topic: request.topic, partition: request.partition, leader: leader,
                    image: image)
            }
            peer.unary(
                Self.path, [try PayloadEncoding.protobuf.encode(request)],
                headers: [("millrace-forwarded", "1")], timeout: timeout + .seconds(10)
            ) { answer in
                bound.eventLoop.runNow {
                    do throws(RPCError) {
                        bound.value.respond(
                            try PayloadEncoding.protobuf.decode(
                                WireDeleteRecordsResponse.self, from: try answer.get()))
                    } catch {
                        bound.value.fail(error)
                    }
                }
            }
        }
    }
}
