import Essentials
import Logging

/// What every replica of a broker shares; immutable.
final class ReplicaEnvironment: Sendable {
    let nodeID: NodeID
    /// How long a follower may lag (`replica.lag.time.max.ms`).
    let maxReplicaLag: Duration
    /// How often logs under `flush.policy=interval` are flushed.
    let flushInterval: Duration
    let fetchers: ReplicaFetchers
    let proposals: ReplicaProposals
    let logger: Logger

    init(
        nodeID: NodeID, maxReplicaLag: Duration, flushInterval: Duration,
        fetchers: ReplicaFetchers, proposals: ReplicaProposals, logger: Logger
    ) {
        self.nodeID = nodeID
        self.maxReplicaLag = maxReplicaLag
        self.flushInterval = flushInterval
        self.fetchers = fetchers
        self.proposals = proposals
        self.logger = logger
    }
}
