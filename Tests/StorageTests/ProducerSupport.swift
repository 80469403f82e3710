import Essentials
import NIOCore
import Records
import Storage
import Testing

/// A batch of an idempotent producer, whose records tell their sequence.
func producerBatch(
    _ id: Int64, _ epoch: Int16 = 0, sequence: Int32, count: Int = 1, transactional: Bool = false,
    timestamp: Int64 = 1_000
) -> ByteBuffer {
    var builder = RecordBatchBuilder(isTransactional: transactional)
    builder.producerID = id
    builder.producerEpoch = epoch
    builder.baseSequence = sequence
    for index in 0..<count {
        builder.append(
            key: nil, value: ByteBuffer(string: "\(id)/\(epoch) \(Int64(sequence) + Int64(index))"),
            timestamp: timestamp)
    }
    return builder.finish()
}

/// A log of nothing but headers, and what follows from it.
struct HeaderLog {
    var states = ProducerStates()
    var end: Offset = 0
    var aborted: [AbortedTransaction] = []

    /// Does with a batch what a leader does; returns the offset that its sender hears of.
    @discardableResult
    mutating func send(_ batch: ByteBuffer) throws -> Offset {
        let headers = try RecordBatches.headers(of: batch)
        let admission = try states.admit(headers)
        var first = admission.firstOffset
        for header in headers.dropFirst(admission.duplicates) {
            if first == nil { first = end }
            append(header)
        }
        return try #require(first)
    }

    /// Does with a batch what a follower does.
    mutating func append(_ header: RecordBatchHeader, marker: TransactionMarker? = nil) {
        var header = header
        header.baseOffset = end
        if let transaction = states.apply(header, marker: marker) { aborted.append(transaction) }
        end = header.nextOffset
    }

    @discardableResult
    mutating func send(
        _ outcome: TransactionMarker.Outcome, _ id: Int64, _ epoch: Int16, coordinator: Int32 = 0
    ) throws -> ProducerStates.MarkerAdmission {
        let marker = TransactionMarker(outcome, coordinatorEpoch: coordinator)
        let admission = try states.admit(marker, producerID: id, producerEpoch: epoch)
        guard admission == .append else { return admission }
        let batch = marker.batch(producerID: id, producerEpoch: epoch, timestamp: 2_000)
        append(try RecordBatches.headers(of: batch)[0], marker: TransactionMarker(ofBatch: batch))
        return admission
    }
}

extension Log {
    /// Does with a batch what a leader does; returns the offset that its sender hears of.
    @discardableResult
    func send(_ batch: ByteBuffer, epoch: LeaderEpoch = 0) throws -> Offset {
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 30)
        let admission = try admit(headers)
        guard admission.duplicates < headers.count else {
            return try #require(admission.firstOffset)
        }
        var rest = batch
        let repeated = headers.prefix(admission.duplicates).reduce(0) { $0 + $1.totalSize }
        rest.moveReaderIndex(forwardBy: repeated)
        let offsets = try appendAsLeader(
            rest.slice(), headers: Array(headers.dropFirst(admission.duplicates)),
            leaderEpoch: epoch)
        return admission.firstOffset ?? offsets.lowerBound
    }

    @discardableResult
    func send(
        _ outcome: TransactionMarker.Outcome, _ id: Int64, _ producerEpoch: Int16,
        epoch: LeaderEpoch = 0
    ) throws -> MarkerOutcome {
        try appendMarker(
            TransactionMarker(outcome, coordinatorEpoch: 0), producerID: id,
            producerEpoch: producerEpoch, timestamp: 2_000, leaderEpoch: epoch)
    }

    /// What replaying every batch gives.
    func replayed() throws -> (states: ProducerStates, aborted: [AbortedTransaction]) {
        var states = ProducerStates()
        var aborted: [AbortedTransaction] = []
        var offset = logStartOffset
        while offset < logEndOffset {
            let bytes = try read(from: offset, below: .max, maxBytes: 1)
            let header = try RecordBatchHeader(bytes, at: bytes.readerIndex)
            let marker = header.isControl ? TransactionMarker(ofBatch: bytes) : nil
            if let transaction = states.apply(header, marker: marker) {
                aborted.append(transaction)
            }
            offset = header.nextOffset
        }
        return (states, aborted)
    }
}
