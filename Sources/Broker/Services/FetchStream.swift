internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC

/// One open `FetchStream`: pushes a partition's committed batches as they arrive, as fast as the
/// reader's flow-control window allows.
///
/// Its state belongs to the call's event loop; it visits the replica's loop to read.
final class FetchStream: @unchecked Sendable {
    // Sendable: `replica`, `owner`, `epoch` and the sizes never change, `wait` and `reading` are touched
    // on the replica's loop only, and everything else on the call's loop only.

    private let call: ServerCall
    private let callLoop: any EventLoop
    private let replica: Replica
    /// The connection.
    private let owner: ObjectIdentifier
    private let maxBytes: Int
    private let epoch: LeaderEpoch?
    private let isolation: ReadIsolation
    private var cursor: Offset
    private var isReading = false
    private var isOpen = true
    private var sentAny = false
    private var wait: WaitToken?
    private var reading: ReplicaRead?

    init(_ request: WireFetchRequest, from replica: Replica, maxBytes: Int, call: ServerCall) {
        self.call = call
        callLoop = call.eventLoop
        self.replica = replica
        owner = call.connectionID
        self.maxBytes = maxBytes
        epoch = request.hasCurrentLeaderEpoch ? LeaderEpoch(request.currentLeaderEpoch) : nil
        isolation = ReadIsolation(request.isolation)
        cursor = Offset(request.offset)
    }

    func start() {
        call.onWritable = { self.read() }
        call.onCancel = { self.close() }
        read()
    }

    private func close() {
        isOpen = false
        call.onWritable = nil
        call.onCancel = nil
        replica.eventLoop.runNow {
            self.wait?.cancel()
            self.wait = nil
            self.reading?.cancel()
            self.reading = nil
        }
    }

    private func read() {
        guard isOpen, !isReading, call.isWritable else { return }
        isReading = true
        let offset = cursor
        let answerEmpty = !sentAny
        replica.eventLoop.runNow { self.readFromReplica(offset, answerEmpty: answerEmpty) }
    }

    /// On the replica's loop: reads what is there, or waits for it.
    private func readFromReplica(_ offset: Offset, answerEmpty: Bool) {
        let read = ReplicaRead(
            of: replica, from: offset, maxBytes: maxBytes, currentLeaderEpoch: epoch,
            isolation: isolation, owner: owner
        ) { [self] result in
            reading = nil
            // The first answer comes at once, so that the reader learns the high watermark.
            if case .success(let outcome) = result, outcome.end == nil, !answerEmpty {
                wait = replica.whenReadable(beyond: max(offset, outcome.highWatermark)) {
                    self.readFromReplica(offset, answerEmpty: false)
                }
                return
            }
            callLoop.runNow { self.deliver(result) }
        }
        reading = read
        read.start()
    }

    private func deliver(_ result: Result<FetchOutcome, RPCError>) {
        isReading = false
        guard isOpen else { return }
        do throws(RPCError) {
            let outcome = try result.get()
            cursor = max(cursor, outcome.end ?? cursor)
            sentAny = true
            call.send(FetchService.pieces(of: outcome), holding: outcome.share)
            // The next read comes in a later turn of the loop: one long log must not hold it.
            callLoop.execute { self.read() }
        } catch {
            close()
            call.fail(error)
        }
    }
}
