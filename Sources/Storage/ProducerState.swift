package import Essentials

/// What a partition knows of one idempotent producer: enough to take each of its batches once.
package struct ProducerState: Sendable, Hashable {
    /// One of the batches that were appended last.
    package struct Batch: Sendable, Hashable {
        package var lastSequence: Int32
        package var lastOffset: Offset
        /// How many records the batch was appended with, less one.
        package var offsetDelta: Int32
        /// The largest timestamp in the batch; -1 for none.
        package var timestamp: Int64

        package init(lastSequence: Int32, lastOffset: Offset, offsetDelta: Int32, timestamp: Int64)
        {
            self.lastSequence = lastSequence
            self.lastOffset = lastOffset
            self.offsetDelta = offsetDelta
            self.timestamp = timestamp
        }

        package var firstSequence: Int32 {
            ProducerSequence.advance(lastSequence, by: -Int64(offsetDelta))
        }
        package var firstOffset: Offset { lastOffset + -Int64(offsetDelta) }
        package var nextOffset: Offset { lastOffset + 1 }
    }

    /// As many as a producer may have in flight; a repeated one of these is told its offset.
    package static let maxBatches = 5

    /// The largest that was seen; -1 for none.
    package var epoch: Int16 = -1
    /// The epoch of the coordinator that wrote the last marker; -1 for none.
    package var coordinatorEpoch: Int32 = -1
    /// The largest timestamp of the last batch, a marker too; -1 for none.
    package var lastTimestamp: Int64 = -1
    /// Where the producer's open transaction starts in this partition.
    package var transactionStart: Offset?
    /// Of this epoch, the oldest first; no more than `maxBatches`.
    package var batches: [Batch] = []

    package init() {}

    /// The first sequence of the next batch of this epoch.
    package var nextSequence: Int32 {
        batches.last.map { ProducerSequence.advance($0.lastSequence, by: 1) } ?? 0
    }

    /// Goes over to another epoch, whose sequences start anew.
    mutating func begin(epoch: Int16) {
        guard epoch != self.epoch else { return }
        self.epoch = epoch
        batches.removeAll()
    }

    mutating func add(_ batch: Batch) {
        if batches.count == Self.maxBatches { batches.removeFirst() }
        batches.append(batch)
    }
}

/// Sequence numbers count records from 0 to 2^31-1, and go on with 0.
package enum ProducerSequence {
    /// The sequence `count` after `sequence`, or before it.
    package static func advance(_ sequence: Int32, by count: Int64) -> Int32 {
        Int32((Int64(sequence) &+ count) & Int64(Int32.max))
    }

    /// Whether `sequence` comes before `other` rather than after it.
    static func isBehind(_ sequence: Int32, _ other: Int32) -> Bool {
        let distance = advance(other, by: -Int64(sequence))
        return distance > 0 && distance < 1 << 30
    }
}

/// Why a producer's batch, or a coordinator's marker, may not be appended.
package enum ProducerError: Error, Hashable, Sendable {
    /// Something is missing before the batch, or it overlaps with what is there.
    case outOfOrder(producerID: Int64, expected: Int32, found: Int32)
    /// All of the batch was appended long ago; where is not known any more.
    case alreadyAppended(producerID: Int64, first: Int32, last: Int32)
    /// A newer epoch of the producer has been seen.
    case staleEpoch(producerID: Int64, Int16, current: Int16)
    /// Nothing is known of the producer, and this is not its first batch.
    case unknown(producerID: Int64, sequence: Int32)
    /// A batch outside a transaction came while one is open.
    case transactionOpen(producerID: Int64)
    /// A new epoch came while a transaction of an older one has not ended here.
    case transactionNotEnded(producerID: Int64)
    /// A newer coordinator has decided on the producer's transactions.
    case coordinatorFenced(producerID: Int64, Int32, current: Int32)
}

extension ProducerError {
    /// The name under which a client hears of it.
    package var code: ErrorCode {
        switch self {
        case .outOfOrder: .outOfOrderSequenceNumber
        case .alreadyAppended: .duplicateSequenceNumber
        case .staleEpoch: .invalidProducerEpoch
        case .unknown: .unknownProducerID
        case .transactionOpen: .invalidTransactionState
        case .transactionNotEnded: .concurrentTransactions
        case .coordinatorFenced: .transactionCoordinatorFenced
        }
    }
}

extension ProducerError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .outOfOrder(let id, let expected, let found):
            "producer \(id) has to go on with sequence \(expected), and this batch starts with "
                + "\(found); send what lies between first"
        case .alreadyAppended(let id, let first, let last):
            "sequences \(first) to \(last) of producer \(id) are in the log already, and where is no "
                + "longer known; go on with the next batch"
        case .staleEpoch(let id, let epoch, let current):
            "producer \(id) is in epoch \(current), and epoch \(epoch) has ended: another producer took "
                + "over, or its transaction was ended for it; get a new epoch"
        case .unknown(let id, let sequence):
            "nothing is known of producer \(id) here, and sequence \(sequence) can't be its first; send "
                + "what comes before it, or get a new epoch and start with 0"
        case .transactionOpen(let id):
            "producer \(id) has a transaction open, and this batch is not part of one; end it first"
        case .transactionNotEnded(let id):
            "an earlier transaction of producer \(id) has not ended here yet; try again in a moment"
        case .coordinatorFenced(let id, let epoch, let current):
            "the transactions of producer \(id) are decided by a coordinator of epoch \(current), and "
                + "epoch \(epoch) is an older one"
        }
    }
}
