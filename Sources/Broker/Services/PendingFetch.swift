internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC

/// One fetch that waits until enough committed bytes are there, or its time is up (KIP-74).
///
/// Lives on its replica's event loop once started.
final class PendingFetch: @unchecked Sendable {
    // Sendable: but for `init`, used on the replica's event loop only.

    private let replica: Replica
    private let offset: Offset
    private let minBytes: Int
    private let maxBytes: Int
    private let currentLeaderEpoch: LeaderEpoch?
    private let isolation: ReadIsolation
    private let maxWait: TimeAmount
    private let owner: ObjectIdentifier
    private let completion: @Sendable (Result<FetchOutcome, RPCError>) -> Void
    /// What is being read; `nil` while there is nothing, or not enough.
    private var reading: ReplicaRead?
    private var isExpired = false
    private var isDone = false
    private var wait: WaitToken?
    private var timer: Scheduled<Void>?

    /// - Parameter owner: the connection that the answer goes to.
    init(
        _ request: WireFetchRequest, from replica: Replica, maxBytes: Int, owner: ObjectIdentifier,
        completion: @escaping @Sendable (Result<FetchOutcome, RPCError>) -> Void
    ) {
        self.replica = replica
        offset = Offset(request.offset)
        minBytes = max(1, Int(request.minBytes))
        self.maxBytes = maxBytes
        currentLeaderEpoch =
            request.hasCurrentLeaderEpoch ? LeaderEpoch(request.currentLeaderEpoch) : nil
        maxWait = .milliseconds(Int64(min(max(0, request.maxWaitMs), 300_000)))
        isolation = ReadIsolation(request.isolation)
        self.owner = owner
        self.completion = completion
    }

    func start() {
        guard !isDone else { return }
        if maxWait == .zero {
            isExpired = true
        } else {
            timer = replica.eventLoop.scheduleTask(in: maxWait) {
                self.isExpired = true
                self.attempt()
            }
        }
        attempt()
    }

    /// Nobody wants the answer any more.
    func cancel() {
        isDone = true
        wait?.cancel()
        wait = nil
        reading?.cancel()
        reading = nil
        timer?.cancel()
    }

    private func attempt() {
        // What is being read is answered when it is there, be the time up or not.
        guard !isDone, reading == nil else { return }
        wait?.cancel()
        let read = ReplicaRead(
            of: replica, from: offset, maxBytes: maxBytes, currentLeaderEpoch: currentLeaderEpoch,
            isolation: isolation, owner: owner
        ) { [self] result in
            reading = nil
            judge(result)
        }
        reading = read
        read.start()
    }

    private func judge(_ result: Result<FetchOutcome, RPCError>) {
        guard case .success(let outcome) = result else { return finish(result) }
        // What ends before all that may be read is all that fits: waiting brings no more of it.
        let end = outcome.end ?? offset
        if isExpired || outcome.batches.readableBytes >= min(minBytes, maxBytes)
            || end > offset && end < outcome.lastStableOffset ?? outcome.highWatermark
        {
            finish(result)
        } else {
            wait = replica.whenReadable(beyond: max(offset, outcome.highWatermark)) {
                self.attempt()
            }
        }
    }

    private func finish(_ result: Result<FetchOutcome, RPCError>) {
        isDone = true
        timer?.cancel()
        completion(result)
    }
}
