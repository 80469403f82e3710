internal import Essentials
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC

extension FetchService {
    static let listOffsetsPath = "/millrace.v1.Broker/ListOffsets"

    /// Answers which offset a position stands for; passed on to the leader once.
    func listOffsets(_ request: WireListOffsetsRequest, for call: ServerCall) throws(RPCError) {
        let query: OffsetQuery
        switch request.position {
        case .earliest?: query = .earliest
        case .latest?: query = .latest
        case .timestamp(let timestamp)?: query = .timestamp(timestamp)
        case nil:
            throw RPCError(
                .invalidRequest, "say which offset: `earliest`, `latest` or a `timestamp`")
        }
        let image = metadata.current
        let epoch =
            request.hasCurrentLeaderEpoch ? LeaderEpoch(request.currentLeaderEpoch) : nil
        let bound = NIOLoopBound(call, eventLoop: call.eventLoop)
        switch try route(request.topic, request.partition, image: image) {
        case .here(let replica):
            let offsets = ReplicaOffsets(
                of: replica, query, currentLeaderEpoch: epoch,
                isolation: ReadIsolation(request.isolation)
            ) { result in
                bound.eventLoop.runNow {
                    switch result {
                    case .success(let outcome): bound.value.respond(Self.response(outcome))
                    case .failure(let error): bound.value.fail(error)
                    }
                }
            }
            call.onCancel = { replica.eventLoop.runNow { offsets.cancel() } }
            replica.eventLoop.runNow { offsets.start() }
        case .elsewhere(let leader):
            guard call.header("millrace-forwarded") == nil,
                let peer = peers.client(for: leader, in: image)
            else {
                throw PartitionRoute.notLeader(
                    topic: request.topic, partition: request.partition, leader: leader,
                    image: image)
            }
            peer.unary(
                Self.listOffsetsPath, [try PayloadEncoding.protobuf.encode(request)],
                headers: [("millrace-forwarded", "1")], timeout: .seconds(10)
            ) { answer in
                bound.eventLoop.runNow {
                    do throws(RPCError) {
                        bound.value.respond(
                            try PayloadEncoding.protobuf.decode(
                                WireListOffsetsResponse.self, from: try answer.get()))
                    } catch {
                        bound.value.fail(error)
                    }
                }
            }
        }
    }

    private static func response(_ outcome: OffsetOutcome) -> WireListOffsetsResponse {
        var response = WireListOffsetsResponse()
        if let offset = outcome.offset { response.offset = offset.rawValue }
        if let timestamp = outcome.timestamp { response.timestamp = timestamp }
        response.leaderEpoch = outcome.leaderEpoch.rawValue
        return response
    }
}
