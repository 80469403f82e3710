import Essentials
import RPC
import Replication
import Storage

/// The answer to one question after an offset; waits for the disk if it must.
///
/// On the replica's event loop only.
final class ReplicaOffsets: @unchecked Sendable {
    // Sendable: used on the replica's event loop only.

    private let replica: Replica
    private let query: OffsetQuery
    private let currentLeaderEpoch: LeaderEpoch?
    private let isolation: ReadIsolation
    private var completion: ((Result<OffsetOutcome, RPCError>) -> Void)?
    private var ticket: DiskReads.Ticket?

    /// - Parameter completion: called once, unless it is cancelled.
    init(
        of replica: Replica, _ query: OffsetQuery, currentLeaderEpoch: LeaderEpoch?,
        isolation: ReadIsolation = .uncommitted,
        completion: @escaping (Result<OffsetOutcome, RPCError>) -> Void
    ) {
        self.replica = replica
        self.query = query
        self.currentLeaderEpoch = currentLeaderEpoch
        self.isolation = isolation
        self.completion = completion
    }

    func start() {
        attempt { () throws(RPCError) in
            guard let log = replica.log, let leaderEpoch = replica.leader?.leaderEpoch else {
                throw replica.unavailable()
            }
            try replica.check(currentLeaderEpoch, against: leaderEpoch)
            var outcome = OffsetOutcome(leaderEpoch: leaderEpoch)
            switch query {
            case .earliest:
                outcome.offset = log.logStartOffset
                complete(.success(outcome))
            case .latest:
                outcome.offset = try latestOffset()
                complete(.success(outcome))
            case .timestamp(let timestamp):
                let end = try latestOffset()
                try go(on: log, leaderEpoch) { () throws(LogError) in
                    try log.findCached(timestamp: timestamp, below: end)
                }
            }
        }
    }

    /// Nobody wants the answer any more.
    func cancel() {
        completion = nil
        ticket?.cancel()
    }

    private func latestOffset() throws(RPCError) -> Offset {
        guard let latest = replica.leader?.latestOffset else {
            throw RPCError(
                .offsetNotAvailable,
                "the new leader of \(replica.name) does not yet know how far its records are"
                    + " committed; try again in a moment")
        }
        return isolation == .committed ? min(latest, replica.readableEnd(.committed)) : latest
    }

    private func go(
        on log: Log, _ epoch: LeaderEpoch, _ search: () throws(LogError) -> LogRead<TimedOffset>
    ) throws(RPCError) {
        let result: LogRead<TimedOffset>
        do throws(LogError) {
            result = try search()
        } catch {
            replica.readFailed(error)
            throw RPCError(error.code, "\(error)")
        }
        switch result {
        case .found(let found):
            complete(
                .success(
                    OffsetOutcome(
                        offset: found?.offset, timestamp: found?.timestamp, leaderEpoch: epoch)))
        case .needsDisk(let cold):
            guard let disk = replica.opened?.disk else { throw replica.unavailable() }
            ticket = disk.reads.perform(
                cold, of: ObjectIdentifier(replica), on: replica.eventLoop
            ) { outcome in
                self.resume(outcome, log, epoch)
            }
        }
    }

    private func resume(
        _ outcome: ColdRead<TimedOffset>.Outcome, _ log: Log, _ epoch: LeaderEpoch
    ) {
        guard completion != nil else { return }
        guard replica.log === log, replica.leader?.leaderEpoch == epoch else { return start() }
        attempt { () throws(RPCError) in
            try go(on: log, epoch) { () throws(LogError) in try log.resume(outcome) }
        }
    }

    private func attempt(_ body: () throws(RPCError) -> Void) {
        do throws(RPCError) {
            try body()
        } catch {
            complete(.failure(error))
        }
    }

    private func complete(_ result: Result<OffsetOutcome, RPCError>) {
        let completion = completion
        self.completion = nil
        completion?(result)
    }
}
