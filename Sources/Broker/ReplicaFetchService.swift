import Essentials
import NIOCore
import RPC
import Replication
import Synchronization

/// `millrace.internal.v1.Replica/Fetch`: followers fetch from the partitions that this broker leads.
final class ReplicaFetchService: Sendable {
    static let path = "/millrace.internal.v1.Replica/Fetch"

    private let clusterID: String
    private let find: @Sendable (TopicPartition) -> Replica?
    // A lock: a follower that reconnects fetches on another connection's loop.
    private let parked = Mutex<[NodeID: ReplicaParkedFetch]>([:])

    init(clusterID: String, find: @escaping @Sendable (TopicPartition) -> Replica?) {
        self.clusterID = clusterID
        self.find = find
    }

    func register(in router: inout Router) {
        router.register(Self.path) { self.handle($0) }
    }

    private func handle(_ call: ServerCall) {
        let request: ReplicaFetchCoding.Request
        do throws(RPCError) {
            request = try ReplicaFetchCoding.Request(call.request)
            guard request.clusterID == clusterID else {
                throw RPCError(
                    .inconsistentClusterID,
                    "this broker belongs to cluster '\(clusterID)', not '\(request.clusterID)'")
            }
        } catch {
            call.fail(error)
            return
        }
        var shares: [ObjectIdentifier: [(replica: Replica, fetch: FollowerFetch)]] = [:]
        var unknown: [FollowerAnswer] = []
        for (id, fetch) in request.fetches {
            if let replica = find(id) {
                shares[ObjectIdentifier(replica.shard), default: []].append((replica, fetch))
            } else {
                unknown.append(.failure(id, fetch, .unknownTopicOrPartition))
            }
        }
        let fetch = ReplicaParkedFetch(
            follower: request.follower, brokerEpoch: request.brokerEpoch, call: call,
            parts: shares.count, answers: unknown, onEnd: { self.ended($0) })
        supersede(by: fetch)
        fetch.start(maxWait: request.maxWait)
        let maxBytes = max(1, request.maxBytes / max(1, shares.count))
        for share in shares.values {
            guard let eventLoop = share.first?.replica.eventLoop else { continue }
            let part = FollowerFetchPart(
                parked: fetch, eventLoop: eventLoop, fetches: share, maxBytes: maxBytes)
            eventLoop.runNow { part.start() }
        }
    }

    /// Sends the follower's earlier fetch home: this one knows more.
    private func supersede(by fetch: ReplicaParkedFetch) {
        let old = parked.withLock { parked -> ReplicaParkedFetch? in
            let old = parked[fetch.follower]
            // A late fetch of an older incarnation supersedes nothing.
            if let old, old.brokerEpoch > fetch.brokerEpoch { return nil }
            parked[fetch.follower] = fetch
            return old
        }
        if let old { old.eventLoop.runNow { old.supersede() } }
    }

    private func ended(_ fetch: ReplicaParkedFetch) {
        parked.withLock { parked in
            if parked[fetch.follower] === fetch { parked[fetch.follower] = nil }
        }
    }
}
