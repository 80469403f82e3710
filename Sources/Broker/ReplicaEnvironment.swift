import Essentials
import Logging

/// What every replica of a broker shares; immutable.
final class ReplicaEnvironment: Sendable {
    let nodeID: NodeID
    let fetchers: ReplicaFetchers
    let proposals: ReplicaProposals
    let logger: Logger

    init(
        nodeID: NodeID, fetchers: ReplicaFetchers, proposals: ReplicaProposals, logger: Logger
    ) {
        self.nodeID = nodeID
        self.fetchers = fetchers
        self.proposals = proposals
        self.logger = logger
    }
}
