import Essentials
import Logging
import NIOPosix

/// What every replica of a broker shares; immutable.
final class ReplicaEnvironment: Sendable {
    let nodeID: NodeID
    let fetchers: ReplicaFetchers
    let proposals: ReplicaProposals
    let reports: ReplicaReports
    /// How long the files of removed records stay.
    let fileDeleteDelay: Duration
    let logger: Logger
    private let pool: NIOThreadPool

    init(
        nodeID: NodeID, fetchers: ReplicaFetchers, proposals: ReplicaProposals,
        reports: ReplicaReports, pool: NIOThreadPool, fileDeleteDelay: Duration, logger: Logger
    ) {
        self.pool = pool
        self.fileDeleteDelay = fileDeleteDelay
        self.nodeID = nodeID
        self.fetchers = fetchers
        self.proposals = proposals
        self.reports = reports
        self.logger = logger
    }

    /// Runs `body` on a storage thread, unless the broker stops first.
    func onPool(_ body: @escaping @Sendable () -> Void) {
        pool.submit { state in
            switch state {
            case .active: body()
            // The broker stops, and the next start finds what was not done.
            case .cancelled: break
            }
        }
    }
}
