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
    private let maxWait: TimeAmount
    private let completion: @Sendable (Result<FetchOutcome, RPCError>) -> Void
    private var isExpired = false
    private var isDone = false
    private var wait: WaitToken?
    private var timer: Scheduled<Void>?

    init(
        _ request: WireFetchRequest, from replica: Replica, maxBytes: Int,
        completion: @escaping @Sendable (Result<FetchOutcome, RPCError>) -> Void
    ) {
        self.replica = replica
        offset = Offset(request.offset)
        minBytes = max(1, Int(request.minBytes))
        self.maxBytes = maxBytes
        currentLeaderEpoch =
            request.hasCurrentLeaderEpoch ? LeaderEpoch(request.currentLeaderEpoch) : nil
        maxWait = .milliseconds(Int64(min(max(0, request.maxWaitMs), 300_000)))
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
        timer?.cancel()
    }

    private func attempt() {
        guard !isDone else { return }
        wait?.cancel()
        do throws(RPCError) {
            let outcome = try replica.fetch(
                from: offset, maxBytes: maxBytes, currentLeaderEpoch: currentLeaderEpoch)
            // What ends before the high watermark is all that fits: waiting brings no more of it.
            let end = try outcome.end ?? offset
            if isExpired || outcome.batches.readableBytes >= min(minBytes, maxBytes)
                || end > offset && end < outcome.highWatermark
            {
                finish(.success(outcome))
            } else {
                wait = replica.whenReadable(beyond: max(offset, outcome.highWatermark)) {
                    self.attempt()
                }
            }
        } catch {
            finish(.failure(error))
        }
    }

    private func finish(_ result: Result<FetchOutcome, RPCError>) {
        isDone = true
        timer?.cancel()
        completion(result)
    }
}
