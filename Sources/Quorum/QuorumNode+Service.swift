internal import Essentials
internal import Foundation
internal import Logging
internal import NIOCore
internal import Protocol
package import RPC
internal import Raft
internal import Storage
internal import SwiftProtobuf

/// What others ask of this replica: `millrace.internal.v1.Raft`, served by controllers.
extension QuorumNode {
    package func register(in router: inout Router) {
        serve(WireVoteRequest.self, at: Self.votePath, in: &router, cluster: \.clusterID) {
            .vote(VoteRequest($0))
        }
        serve(
            WireBeginQuorumEpochRequest.self, at: Self.beginPath, in: &router,
            cluster: \.clusterID,
            noting: { node, request in
                guard request.hasLeaderEndpoint else { return }
                node.learn(
                    request.leaderEndpoint, of: request.leaderID, epoch: request.leaderEpoch)
            }
        ) {
            .beginQuorumEpoch(BeginQuorumEpochRequest($0))
        }
        serve(WireEndQuorumEpochRequest.self, at: Self.endPath, in: &router, cluster: \.clusterID) {
            .endQuorumEpoch(EndQuorumEpochRequest($0))
        }
        serve(
            WireFetchLogRequest.self, at: Self.fetchPath, in: &router, cluster: \.clusterID,
            maxBytes: { Int($0.maxBytes) },
            noting: { node, request in
                node.noteLevels(
                    request.minMetadataLevel, request.maxMetadataLevel,
                    of: ReplicaKey(id: request.replicaID, directory: request.replicaDirectoryID))
            }
        ) {
            .fetch(FetchRequest($0))
        }
        serve(
            WireFetchSnapshotRequest.self, at: Self.fetchSnapshotPath, in: &router,
            cluster: \.clusterID, maxBytes: { Int($0.maxBytes) }
        ) {
            .fetchSnapshot(FetchSnapshotRequest($0))
        }
        registerUpdateVoter(in: &router)
    }

    private func serve<Request: Message & Sendable>(
        _ type: Request.Type, at path: String, in router: inout Router,
        cluster: @escaping @Sendable (Request) -> String,
        maxBytes: @escaping @Sendable (Request) -> Int = { _ in 0 },
        noting note: @escaping @Sendable (QuorumNode, Request) -> Void = { _, _ in },
        as read: @escaping @Sendable (Request) -> RaftRequest
    ) {
        router.register(path) { call in
            let request: Request
            do throws(RPCError) {
                request = try call.decode(Request.self)
                try self.check(clusterID: cluster(request))
            } catch {
                return call.fail(error)
            }
            let pending = PendingRequest(call: call, maxBytes: maxBytes(request))
            let input = read(request)
            self.onLoop {
                note(self, request)
                self.receive(input, pending)
            }
        }
    }

    func check(clusterID: String) throws(RPCError) {
        guard clusterID == options.clusterID else {
            throw RPCError(
                .inconsistentClusterID,
                "this controller belongs to cluster \(options.clusterID), not to \(clusterID); "
                    + "check controller.quorum.bootstrap.servers")
        }
    }

    func onLoop(_ body: @escaping @Sendable () -> Void) {
        if eventLoop.inEventLoop { body() } else { eventLoop.execute(body) }
    }

    private func receive(_ request: RaftRequest, _ pending: PendingRequest) {
        guard raft != nil else { return pending.fail(.unavailable) }
        lastToken += 1
        let token = RequestToken(rawValue: lastToken)
        requests[token] = pending
        step(.request(request, token: token))
    }

    func answer(_ token: RequestToken, _ response: RaftResponse) {
        let leader: NodeID? =
            switch response {
            case .vote(let response): response.leader
            case .beginQuorumEpoch(let response), .endQuorumEpoch(let response): response.leader
            case .fetch(let response): response.leader
            case .fetchSnapshot(let response): response.leader
            }
        requests.removeValue(forKey: token)?.answer(
            response, leader: leader.flatMap { wireEndpoint(of: $0) })
    }

    func answerFetch(_ token: RequestToken, _ answer: FetchAnswer) {
        guard let pending = requests.removeValue(forKey: token) else { return }
        var response = WireFetchLogResponse()
        response.leaderEpoch = answer.epoch.rawValue
        response.leaderID = answer.leader.rawValue
        response.highWatermark = answer.highWatermark?.rawValue ?? -1
        response.logStartOffset = answer.logStartOffset.rawValue
        if let endpoint = wireEndpoint(of: answer.leader) { response.leaderEndpoint = endpoint }
        guard answer.below > answer.from else {
            return pending.answer(response, batches: ByteBuffer())
        }
        do throws(LogError) {
            let most = min(max(pending.maxBytes, 1), options.maxFetchBytes)
            let batches = try log?.read(from: answer.from, below: answer.below, maxBytes: most)
            pending.answer(response, batches: batches ?? ByteBuffer())
        } catch {
            logger.error("the metadata log can't be read", metadata: ["error": "\(error)"])
            response.status = .unavailable
            pending.answer(response, batches: ByteBuffer())
        }
    }
}
