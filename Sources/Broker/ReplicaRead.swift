import Essentials
import NIOCore
import RPC
import Replication
import Storage

/// One read of committed batches for a consumer.
///
/// Waits for memory and for the disk, if it must, but not for records. On the replica's event loop only.
final class ReplicaRead: @unchecked Sendable {
    // Sendable: used on the replica's event loop only.

    private let replica: Replica
    private let offset: Offset
    private let maxBytes: Int
    private let currentLeaderEpoch: LeaderEpoch?
    private let isolation: ReadIsolation
    private let owner: ObjectIdentifier
    private var completion: ((Result<FetchOutcome, RPCError>) -> Void)?
    private var share: FetchMemory.Share?
    private var waiter: FetchMemory.Waiter?
    private var ticket: DiskReads.Ticket?

    /// - Parameters:
    ///   - owner: the connection that the answer goes to.
    ///   - completion: called once, unless the read is cancelled; before `start` returns if all is in
    ///     memory.
    init(
        of replica: Replica, from offset: Offset, maxBytes: Int, currentLeaderEpoch: LeaderEpoch?,
        isolation: ReadIsolation = .uncommitted, owner: ObjectIdentifier,
        completion: @escaping (Result<FetchOutcome, RPCError>) -> Void
    ) {
        self.replica = replica
        self.offset = offset
        self.maxBytes = maxBytes
        self.currentLeaderEpoch = currentLeaderEpoch
        self.isolation = isolation
        self.owner = owner
        self.completion = completion
    }

    func start() {
        attempt { () throws(RPCError) in
            let (log, leaderEpoch) = try replica.readable(
                from: offset, currentLeaderEpoch: currentLeaderEpoch)
            let end = replica.readableEnd(isolation)
            guard offset < end else { return finish(nil) }
            guard let share = takeMemory() else { return }
            try go(on: log, leaderEpoch) { () throws(LogError) in
                try log.readCached(
                    from: offset, below: end,
                    maxBytes: min(maxBytes, share.byteCount))
            }
        }
    }

    /// Nobody wants the answer any more.
    func cancel() {
        completion = nil
        waiter?.cancel()
        ticket?.cancel()
        share = nil
    }

    private func takeMemory() -> FetchMemory.Share? {
        if let share { return share }
        let taken = replica.environment.fetchMemory.take(maxBytes, for: owner) { share in
            self.replica.eventLoop.execute {
                guard self.completion != nil else { return }
                self.share = share
                self.start()
            }
        }
        switch taken {
        case .share(let share):
            self.share = share
            return share
        case .waits(let waiter):
            self.waiter = waiter
            return nil
        }
    }

    private func go(
        on log: Log, _ epoch: LeaderEpoch, _ read: () throws(LogError) -> LogRead<ReadBatches>
    ) throws(RPCError) {
        let result: LogRead<ReadBatches>
        do throws(LogError) {
            result = try read()
        } catch {
            replica.readFailed(error)
            throw RPCError(error.code, "\(error)")
        }
        switch result {
        case .found(let batches):
            finish(batches)
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
        _ outcome: ColdRead<ReadBatches>.Outcome, _ log: Log, _ epoch: LeaderEpoch
    ) {
        guard completion != nil else { return }
        // Another leader epoch, or another log: what was read may not be what is committed now.
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

    private func finish(_ batches: ReadBatches?) {
        guard let log = replica.log, let leaderEpoch = replica.leader?.leaderEpoch,
            let highWatermark = replica.leader?.highWatermark
        else { return complete(.failure(replica.unavailable())) }
        var outcome = FetchOutcome(
            batches: ByteBuffer(), highWatermark: highWatermark,
            logStartOffset: log.logStartOffset, leaderEpoch: leaderEpoch)
        if isolation == .committed { outcome.lastStableOffset = replica.readableEnd(isolation) }
        if let batches, batches.bytes.readableBytes > 0 {
            outcome.batches = batches.bytes
            outcome.end = batches.end
            outcome.share = share
            share?.resize(to: batches.bytes.readableBytes)
        }
        if isolation == .committed, let end = outcome.end {
            do throws(LogError) {
                outcome.aborted = try log.abortedTransactions(from: offset, below: end)
            } catch {
                replica.readFailed(error)
                return complete(.failure(RPCError(error.code, "\(error)")))
            }
        }
        complete(.success(outcome))
    }

    private func complete(_ result: Result<FetchOutcome, RPCError>) {
        let completion = completion
        self.completion = nil
        share = nil
        completion?(result)
    }
}
