package import NIOCore

/// The record of a control batch that ends a producer's transaction in one partition.
///
/// Its key is a version and a type, its value a version and the epoch of the coordinator that decided
/// (KIP-98). Later versions may add fields at the end; they are ignored.
package struct TransactionMarker: Hashable, Sendable {
    package enum Outcome: Int16, Hashable, Sendable {
        case abort = 0
        case commit = 1
    }

    package var outcome: Outcome
    package var coordinatorEpoch: Int32

    package init(_ outcome: Outcome, coordinatorEpoch: Int32) {
        self.outcome = outcome
        self.coordinatorEpoch = coordinatorEpoch
    }

    /// The marker that a control record holds; `nil` if it is something else.
    package init?(_ record: Record) {
        guard var key = record.key, var value = record.value,
            let (keyVersion, type) = key.readMultipleIntegers(as: (Int16, Int16).self),
            let (valueVersion, coordinatorEpoch) = value.readMultipleIntegers(
                as: (Int16, Int32).self),
            keyVersion >= 0, valueVersion >= 0, let outcome = Outcome(rawValue: type)
        else { return nil }
        self.init(outcome, coordinatorEpoch: coordinatorEpoch)
    }

    /// The marker in a whole control batch; `nil` if it has no record, or another one.
    package init?(ofBatch batch: ByteBuffer) {
        var reader = RecordReader(batch, includesControlBatches: true, checksCRC: false)
        guard let record = try? reader.next() else { return nil }
        self.init(record)
    }

    /// The control batch that ends the transaction of a producer.
    ///
    /// - Parameters:
    ///   - producerEpoch: the producer's from now on; what it sent in an older one comes too late.
    ///   - timestamp: the coordinator's clock, in milliseconds since 1970.
    package func batch(
        producerID: Int64, producerEpoch: Int16, timestamp: Int64
    ) -> ByteBuffer {
        var builder = RecordBatchBuilder(isControl: true, isTransactional: true)
        builder.producerID = producerID
        builder.producerEpoch = producerEpoch
        var key = ByteBuffer()
        key.writeMultipleIntegers(0 as Int16, outcome.rawValue)
        var value = ByteBuffer()
        value.writeMultipleIntegers(0 as Int16, coordinatorEpoch)
        builder.append(key: key, value: value, timestamp: timestamp)
        return builder.finish()
    }
}
