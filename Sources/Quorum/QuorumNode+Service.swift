internal import Essentials
internal import Foundation
internal import Logging
internal import NIOCore
package import Protocol
package import RPC
internal import Raft
internal import Storage
internal import SwiftProtobuf

/// What others ask of this replica: `millrace.internal.v1.Raft`, served by voters.
extension QuorumNode {
    package func register(in router: inout Router) {
        serve(WireVoteRequest.self, at: Self.votePath, in: &router, cluster: \.clusterID) {
            .vote(VoteRequest($0))
        }
        serve(
            WireBeginQuorumEpochRequest.self, at: Self.beginPath, in: &router, cluster: \.clusterID
        ) {
            .beginQuorumEpoch(BeginQuorumEpochRequest($0))
        }
        serve(WireEndQuorumEpochRequest.self, at: Self.endPath, in: &router, cluster: \.clusterID) {
            .endQuorumEpoch(EndQuorumEpochRequest($0))
        }
        serve(
            WireFetchLogRequest.self, at: Self.fetchPath, in: &router, cluster: \.clusterID,
            maxBytes: { Int($0.maxBytes) }
        ) {
            .fetch(FetchRequest($0))
        }
    }

    private func serve<Request: Message & Sendable>(
        _ type: Request.Type, at path: String, in router: inout Router,
        cluster: @escaping @Sendable (Request) -> String,
        maxBytes: @escaping @Sendable (Request) -> Int = { _ in 0 },
        as read: @escaping @Sendable (Request) -> RaftRequest
    ) {
        router.register(path) { call in
            let request: Request
            do throws(RPCError) {
                request = try call.decode(Request.self)
                guard cluster(request) == self.options.clusterID else {
                    throw RPCError(
                        .inconsistentClusterID,
                        "this controller belongs to cluster \(self.options.clusterID), not to "
                            + "\(cluster(request)); check controller.quorum.voters")
                }
            } catch {
                return call.fail(error)
            }
            let pending = PendingRequest(call: call, maxBytes: maxBytes(request))
            let input = read(request)
            if self.eventLoop.inEventLoop {
                self.receive(input, pending)
            } else {
                self.eventLoop.execute { self.receive(input, pending) }
            }
        }
    }

    private func receive(_ request: RaftRequest, _ pending: PendingRequest) {
        guard raft != nil else { return pending.fail(.unavailable) }
        lastToken += 1
        let token = RequestToken(rawValue: lastToken)
        requests[token] = pending
        step(.request(request, token: token))
    }

    func answerFetch(_ token: RequestToken, _ answer: FetchAnswer) {
        guard let pending = requests.removeValue(forKey: token) else { return }
        var response = WireFetchLogResponse()
        response.leaderEpoch = answer.epoch.rawValue
        response.leaderID = answer.leader.rawValue
        response.highWatermark = answer.highWatermark?.rawValue ?? -1
        response.logStartOffset = answer.logStartOffset.rawValue
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

    // MARK: Inspection

    /// The quorum as its leader sees it; on another node only who that leader is.
    package func describe() -> WireDescribeQuorumResponse {
        var response = WireDescribeQuorumResponse()
        response.clusterID = options.clusterID
        guard let raft else { return response }
        response.leaderEpoch = raft.election.epoch.rawValue
        if let leader = raft.leader { response.leaderID = leader.rawValue }
        guard case .leader(let leading) = raft.role else { return response }
        response.highWatermark = (leading.highWatermark ?? raft.highWatermark ?? 0).rawValue
        let now = MonotonicTime.now
        let wallClock = Int64(Date().timeIntervalSince1970 * 1000)
        let end = raft.log.endOffset
        func describe(
            _ id: NodeID, directory: DirectoryID?, held: Offset?, lastFetch: MonotonicTime?,
            lastCaughtUp: MonotonicTime?
        ) -> WireQuorumReplica {
            var replica = WireQuorumReplica()
            replica.id = id.rawValue
            replica.directoryID = directory?.description ?? ""
            if let held {
                replica.logEndOffset = held.rawValue
                replica.lag = max(0, end - held)
            }
            if let time = lastFetch {
                replica.lastFetchTimestamp = wallClock - (now - time).milliseconds
            }
            if let time = lastCaughtUp {
                replica.lastCaughtUpTimestamp = wallClock - (now - time).milliseconds
            }
            if let voter = options.voters.first(where: { $0.id == id }) {
                replica.host = voter.host
                replica.port = Int32(clamping: voter.port)
            }
            return replica
        }
        func describe(_ id: NodeID, _ progress: ReplicaProgress) -> WireQuorumReplica {
            describe(
                id, directory: progress.directory, held: progress.endOffset,
                lastFetch: progress.lastFetch, lastCaughtUp: progress.lastCaughtUp)
        }
        response.voters = leading.voters.map { describe($0, $1) }
        response.voters.append(
            describe(
                options.local, directory: options.directory, held: raft.log.durableEnd,
                lastFetch: now, lastCaughtUp: now))
        response.voters.sort { $0.id < $1.id }
        response.observers = leading.observers.sorted { $0.key < $1.key }
            .map { describe($0.key.id, $0.value) }
        return response
    }
}
