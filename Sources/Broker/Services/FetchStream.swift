internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC
internal import Records

/// One open `FetchStream`: pushes a partition's committed batches as they arrive, as fast as the
/// reader's flow-control window allows.
///
/// Its state belongs to the call's event loop; it visits the replica's loop to read.
final class FetchStream: @unchecked Sendable {
    // Sendable: `replica`, `epoch` and the sizes never change, `wait` is touched on the replica's
    // loop only, and everything else on the call's loop only.

    private let call: ServerCall
    private let callLoop: any EventLoop
    private let replica: Replica
    private let maxBytes: Int
    private let epoch: LeaderEpoch?
    private var cursor: Offset
    private var isReading = false
    private var isOpen = true
    private var sentAny = false
    private var wait: WaitToken?

    init(_ request: WireFetchRequest, from replica: Replica, maxBytes: Int, call: ServerCall) {
        self.call = call
        callLoop = call.eventLoop
        self.replica = replica
        self.maxBytes = maxBytes
        epoch = request.hasCurrentLeaderEpoch ? LeaderEpoch(request.currentLeaderEpoch) : nil
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
        let result: Result<FetchOutcome, RPCError>
        do throws(RPCError) {
            let outcome = try replica.fetch(
                from: offset, maxBytes: maxBytes, currentLeaderEpoch: epoch)
            // The first answer comes at once, so that the reader learns the high watermark.
            if outcome.batches.readableBytes == 0, !answerEmpty {
                wait = replica.whenReadable(beyond: max(offset, outcome.highWatermark)) {
                    self.readFromReplica(offset, answerEmpty: false)
                }
                return
            }
            result = .success(outcome)
        } catch {
            result = .failure(error)
        }
        callLoop.runNow { self.deliver(result) }
    }

    private func deliver(_ result: Result<FetchOutcome, RPCError>) {
        isReading = false
        guard isOpen else { return }
        do throws(RPCError) {
            let outcome = try result.get()
            cursor = max(cursor, try outcome.end ?? cursor)
            sentAny = true
            call.send(FetchService.pieces(of: outcome))
            // The next read comes in a later turn of the loop: one long log must not hold it.
            callLoop.execute { self.read() }
        } catch {
            close()
            call.fail(error)
        }
    }
}

extension FetchOutcome {
    /// The offset after the last whole batch; `nil` when there is none.
    var end: Offset? {
        get throws(RPCError) {
            var end: Offset?
            var index = batches.readerIndex
            while batches.writerIndex - index >= RecordBatchHeader.size {
                do {
                    let header = try RecordBatchHeader(batches, at: index)
                    end = header.nextOffset
                    index += header.totalSize
                } catch {
                    throw RPCError(
                        .corruptMessage, "the stored batches can't be read: \(error)")
                }
            }
            return end
        }
    }
}
