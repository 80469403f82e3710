internal import Essentials
internal import Foundation
internal import NIOCore
internal import Protocol
internal import RPC
internal import Raft
internal import SwiftProtobuf

/// A request of another replica that waits for the state machine's answer.
struct PendingRequest: Sendable {
    enum Failure {
        case stopped, unavailable, refused
    }

    let call: ServerCall
    /// Of a fetch: the most bytes its sender takes.
    let maxBytes: Int

    /// - Parameter leader: where the leader that the answer names listens.
    func answer(_ response: RaftResponse, leader: WireNodeEndpoint?) {
        switch response {
        case .vote(let response):
            var wire = response.wire
            if let leader { wire.leaderEndpoint = leader }
            respond(wire)
        case .beginQuorumEpoch(let response):
            var wire = WireBeginQuorumEpochResponse()
            wire.epoch = response.epoch.rawValue
            wire.leaderID = NodeID.wire(response.leader)
            if let leader { wire.leaderEndpoint = leader }
            respond(wire)
        case .endQuorumEpoch(let response):
            var wire = WireEndQuorumEpochResponse()
            wire.epoch = response.epoch.rawValue
            wire.leaderID = NodeID.wire(response.leader)
            if let leader { wire.leaderEndpoint = leader }
            respond(wire)
        case .fetch(let response):
            var wire = response.wire
            if let leader { wire.leaderEndpoint = leader }
            respond(wire)
        case .fetchSnapshot(let response):
            var wire = response.wire
            if let leader { wire.leaderEndpoint = leader }
            respond(wire)
        }
    }

    /// Answers a fetch; the batches end the message.
    func answer(_ response: WireFetchLogResponse, batches: ByteBuffer) {
        var response = response
        if batches.readableBytes > 0 { response.recordBatches = .init(batches.readableBytesView) }
        respond(response)
    }

    func fail(_ failure: Failure) {
        let error =
            switch failure {
            case .stopped: RPCError(status: .unavailable, "this controller is stopping")
            case .unavailable:
                RPCError(status: .unavailable, "this controller can't write its log")
            case .refused:
                RPCError(status: .resourceExhausted, "too many requests wait; try again")
            }
        onLoop { $0.fail(error) }
    }

    func respond(_ message: some Message & Sendable) {
        onLoop { $0.respond(message) }
    }

    private func onLoop(_ body: @escaping @Sendable (ServerCall) -> Void) {
        if call.eventLoop.inEventLoop {
            body(call)
        } else {
            call.eventLoop.execute { body(call) }
        }
    }
}
