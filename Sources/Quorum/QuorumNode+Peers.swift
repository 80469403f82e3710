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
    static let fetchSnapshotPath = "/millrace.internal.v1.Raft/FetchSnapshot"
    static let updateVoterPath = "/millrace.internal.v1.Raft/UpdateVoter"

    func send(_ request: RaftRequest, to peer: NodeID, id: RequestID) {
        switch request {
        case .vote(let request):
            send(Self.votePath, request.wire(options.clusterID), to: peer, id: id) {
                (answer: WireVoteResponse) in
                Received(
                    response: .vote(VoteResponse(answer)), leader: answer.leaderID,
                    epoch: answer.epoch,
                    endpoint: answer.hasLeaderEndpoint ? answer.leaderEndpoint : nil)
            }
        case .beginQuorumEpoch(let request):
            var wire = request.wire(options.clusterID)
            if let endpoint = wireEndpoint(of: options.local) { wire.leaderEndpoint = endpoint }
            send(Self.beginPath, wire, to: peer, id: id) {
                (answer: WireBeginQuorumEpochResponse) in
                Received(
                    response: .beginQuorumEpoch(
                        EpochResponse(
                            epoch: LeaderEpoch(answer.epoch), leader: NodeID(wire: answer.leaderID))
                    ), leader: answer.leaderID, epoch: answer.epoch,
                    endpoint: answer.hasLeaderEndpoint ? answer.leaderEndpoint : nil)
            }
        case .endQuorumEpoch(let request):
            send(Self.endPath, request.wire(options.clusterID), to: peer, id: id) {
                (answer: WireEndQuorumEpochResponse) in
                Received(
                    response: .endQuorumEpoch(
                        EpochResponse(
                            epoch: LeaderEpoch(answer.epoch), leader: NodeID(wire: answer.leaderID))
                    ), leader: answer.leaderID, epoch: answer.epoch,
                    endpoint: answer.hasLeaderEndpoint ? answer.leaderEndpoint : nil)
            }
        case .fetch(let request):
            var wire = request.wire(options.clusterID, maxBytes: fetchBytes)
            wire.minMetadataLevel = options.metadataLevels.lowerBound
            wire.maxMetadataLevel = options.metadataLevels.upperBound
            send(Self.fetchPath, wire, to: peer, id: id) {
                (answer: WireFetchLogResponse) throws(RPCError) in
                let batches = ByteBuffer(bytes: answer.recordBatches)
                do throws(QuorumRecordError) {
                    let spans = try QuorumBatches.spans(of: batches)
                    return Received(
                        response: .fetch(FetchResponse(answer, spans: spans)), bytes: batches,
                        leader: answer.leaderID, epoch: answer.leaderEpoch,
                        endpoint: answer.hasLeaderEndpoint ? answer.leaderEndpoint : nil)
                } catch {
                    throw RPCError(
                        .corruptMessage, "the leader's batches are no good: \(error.reason)")
                }
            }
        case .fetchSnapshot(let request):
            let chunkBytes = min(options.snapshotChunkBytes, fetchBytes)
            let wire = request.wire(options.clusterID, maxBytes: Int32(clamping: chunkBytes))
            send(Self.fetchSnapshotPath, wire, to: peer, id: id) {
                (answer: WireFetchSnapshotResponse) throws(RPCError) in
                guard answer.size <= Self.maxSnapshotBytes, answer.data.count <= chunkBytes
                else {
                    throw RPCError(
                        .messageTooLarge,
                        "the leader's snapshot is larger than can be: \(answer.size) bytes")
                }
                return Received(
                    response: .fetchSnapshot(FetchSnapshotResponse(answer)),
                    bytes: ByteBuffer(bytes: answer.data), leader: answer.leaderID,
                    epoch: answer.leaderEpoch,
                    endpoint: answer.hasLeaderEndpoint ? answer.leaderEndpoint : nil)
            }
        }
    }

    /// An answer, and what it says of the leader.
    private struct Received {
        var response: RaftResponse
        /// Record batches, or a piece of a snapshot.
        var bytes: ByteBuffer?
        var leader: Int32
        var epoch: Int32
        var endpoint: WireNodeEndpoint?
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
        read: @escaping @Sendable (Answer) throws(RPCError) -> Received
    ) {
        let isVote = path == Self.votePath
        let respondent = isVote ? respondent(for: peer) : peer
        guard let client = client(of: respondent),
            let body = try? PayloadEncoding.protobuf.encode(request)
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
                let received = try read(answer)
                if path == Self.fetchPath { self.adaptFetches(inTime: true) }
                if isVote { self.noteSearch(for: peer, at: respondent, wasFound: true) }
                if let endpoint = received.endpoint {
                    self.learn(endpoint, of: received.leader, epoch: received.epoch)
                }
                self.step(.response(received.response, to: id), fetched: received.bytes)
            } catch {
                self.logger.debug(
                    "quorum request failed",
                    metadata: ["peer": "\(peer)", "path": "\(path)", "error": "\(error)"])
                if error.code == .inconsistentClusterID, !self.options.isController {
                    // It will not change its mind. A controller goes on: its other peers may be right.
                    return self.giveUp(.otherCluster(error.message))
                }
                if path == Self.fetchPath || path == Self.fetchSnapshotPath,
                    error.status == .deadlineExceeded
                {
                    self.adaptFetches(inTime: false)
                }
                if isVote { self.noteSearch(for: peer, at: respondent, wasFound: false) }
                if error.isConnectionRefused { self.step(.connectionLost(to: peer)) }
                self.step(.requestFailed(id))
            }
        }
    }
}
