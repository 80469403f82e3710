import Essentials
import FoundationEssentials
import Logging
import NIOPosix

/// What every replica of a broker shares; immutable.
final class ReplicaEnvironment: Sendable {
    let nodeID: NodeID
    let fetchers: ReplicaFetchers
    let proposals: ReplicaProposals
    let reports: ReplicaReports
    let fetchMemory: FetchMemory
    /// The clock on the wall, in milliseconds since 1970; it may step either way.
    let wallClock: @Sendable () -> Int64
    /// How long partitions know a producer that sends nothing.
    let producerExpiration: Duration
    let logger: Logger
    private let pool: NIOThreadPool

    init(
        nodeID: NodeID, fetchers: ReplicaFetchers, proposals: ReplicaProposals,
        reports: ReplicaReports, fetchMemory: FetchMemory, pool: NIOThreadPool,
        producerExpiration: Duration, wallClock: @escaping @Sendable () -> Int64, logger: Logger
    ) {
        self.fetchMemory = fetchMemory
        self.pool = pool
        self.producerExpiration = producerExpiration
        self.wallClock = wallClock
        self.nodeID = nodeID
        self.fetchers = fetchers
        self.proposals = proposals
        self.reports = reports
        self.logger = logger
    }

    @Sendable static func systemWallClock() -> Int64 {
        Int64(Date().timeIntervalSince1970 * 1_000)
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
