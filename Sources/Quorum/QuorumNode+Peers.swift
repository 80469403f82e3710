internal import Essentials
internal import Foundation
internal import Logging
internal import NIOCore
internal import Protocol
internal import RPC
internal import Raft
internal import Records
internal import SwiftProtobuf

/// What this replica asks of others.
extension QuorumNode {
    static let votePath = "/millrace.internal.v1.Raft/Vote"
    static let beginPath = "/millrace.internal.v1.Raft/BeginQuorumEpoch"
    static let endPath = "/millrace.internal.v1.Raft/EndQuorumEpoch"
    /// The least a fetch asks for, however slow the way.
    private static let minFetchBytes = 64 << 10

    static let fetchPath = "/millrace.internal.v1.Raft/Fetch"

    func send(_ request: RaftRequest, to peer: NodeID, id: RequestID) {
        switch request {
        case .vote(let request):
            send(Self.votePath, request.wire(options.clusterID), to: peer, id: id) {
                (answer: WireVoteResponse) in (.vote(VoteResponse(answer)), nil)
            }
        case .beginQuorumEpoch(let request):
            send(Self.beginPath, request.wire(options.clusterID), to: peer, id: id) {
                (answer: WireBeginQuorumEpochResponse) in
                (
                    .beginQuorumEpoch(
                        EpochResponse(
                            epoch: LeaderEpoch(answer.epoch), leader: NodeID(wire: answer.leaderID))
                    ), nil
                )
            }
        case .endQuorumEpoch(let request):
            send(Self.endPath, request.wire(options.clusterID), to: peer, id: id) {
                (answer: WireEndQuorumEpochResponse) in
                (
                    .endQuorumEpoch(
                        EpochResponse(
                            epoch: LeaderEpoch(answer.epoch), leader: NodeID(wire: answer.leaderID))
                    ), nil
                )
            }
        case .fetch(let request):
            let wire = request.wire(options.clusterID, maxBytes: fetchBytes)
            send(Self.fetchPath, wire, to: peer, id: id) {
                (answer: WireFetchLogResponse) throws(RPCError) in
                let batches = ByteBuffer(bytes: answer.recordBatches)
                do throws(RecordError) {
                    let spans = try QuorumBatches.spans(of: batches)
                    return (.fetch(FetchResponse(answer, spans: spans)), batches)
                } catch {
                    throw RPCError(.corruptMessage, "the leader's batches are no good: \(error)")
                }
            }
        }
    }

    /// Asks for less when an answer was too large for the time there is, or the way too slow.
    private func adaptFetches(inTime: Bool) {
        fetchBytes =
            inTime
            ? min(fetchBytes * 2, options.maxFetchBytes)
            : max(fetchBytes / 2, min(Self.minFetchBytes, options.maxFetchBytes))
    }

    private func send<Answer: Message>(
        _ path: String, _ request: some Message, to peer: NodeID, id: RequestID,
        read: @escaping @Sendable (Answer) throws(RPCError) -> (RaftResponse, ByteBuffer?)
    ) {
        guard let client = peers[peer], let body = try? PayloadEncoding.protobuf.encode(request)
        else {
            eventLoop.execute { self.step(.requestFailed(id)) }
            return
        }
        let timeout = raft?.config.requestTimeout ?? .seconds(1)
        let incarnation = incarnation
        // The state machine spaces its attempts, and knows better which of them are urgent.
        client.resetBackoff()
        client.unary(path, [body], timeout: timeout) { [weak self] result in
            // The state machine that asked was dropped; the present one uses the same ids.
            guard let self, self.incarnation == incarnation else { return }
            do throws(RPCError) {
                let answer = try PayloadEncoding.protobuf.decode(
                    Answer.self, from: try result.get())
                let (response, batches) = try read(answer)
                if path == Self.fetchPath { self.adaptFetches(inTime: true) }
                self.step(.response(response, to: id), fetched: batches)
            } catch {
                self.logger.debug(
                    "quorum request failed",
                    metadata: ["peer": "\(peer)", "path": "\(path)", "error": "\(error)"])
                if error.code == .inconsistentClusterID, !self.options.isVoter {
                    // It will not change its mind. A voter goes on: its other peers may be right.
                    return self.giveUp(.otherCluster(error.message))
                }
                if path == Self.fetchPath, error.status == .deadlineExceeded {
                    self.adaptFetches(inTime: false)
                }
                if error.isConnectionRefused { self.step(.connectionLost(to: peer)) }
                self.step(.requestFailed(id))
            }
        }
    }
}
