package import Essentials
import NIOCore
import Records

/// What a partition knew of its producers at some offset, as a file keeps it (`.snapshot`).
///
/// The file begins as Kafka's do, which know of each producer's last batch only: a version (2), a CRC-32C
/// of all that follows it (4), the number of producers (4), and for each its id (8), epoch (2), last
/// sequence (4), last offset (8), offset delta (4), timestamp (8), coordinator epoch (4) and the first
/// offset of its open transaction (8). What else has to last follows: which log and offset it is of, the
/// batches before the last, transactions that ended not long ago, and how long the transaction indexes
/// are. Readers of Kafka's part need not look at it.
package struct ProducerSnapshot: Sendable, Equatable {
    /// The batch before the snapshot's offset, by which a snapshot of another log, or of one that has been
    /// truncated since, is told.
    struct LastBatch: Sendable, Equatable {
        var baseOffset: Offset
        var leaderEpoch: LeaderEpoch
        var crc: UInt32
    }

    /// Where the log ended; `nil` in a file that Kafka wrote.
    package internal(set) var offset: Offset?
    /// `nil` if the log was empty, or it isn't known.
    var lastBatch: LastBatch?
    package internal(set) var states: ProducerStates
    var transactions: [TransactionIndexSummary] = []

    init(
        of states: ProducerStates, at offset: Offset, lastBatch: LastBatch?,
        transactions: [TransactionIndexSummary]
    ) {
        self.states = states
        self.offset = offset
        self.lastBatch = lastBatch
        self.transactions = transactions
    }
}

extension ProducerSnapshot {
    private static let version: Int16 = 1
    /// Version and checksum.
    private static let headSize = 6
    private static let entrySize = 46
    private static let batchSize = 24
    private static let magic: UInt32 = 0x4d4c_5053  // "MLPS"
    private static let extensionVersion: Int16 = 1

    /// The file's bytes; equal states give equal ones.
    package var encoded: [UInt8] {
        let producers = states.producers.sorted { $0.key < $1.key }
        var body = ByteBuffer()
        body.reserveCapacity(64 + producers.count * (Self.entrySize + 1 + 4 * Self.batchSize))
        body.writeInteger(Int32(clamping: producers.count))
        for (id, state) in producers {
            let last = state.batches.last
            body.writeMultipleIntegers(
                id, state.epoch, last?.lastSequence ?? -1, last?.lastOffset.rawValue ?? -1,
                last?.offsetDelta ?? 0, state.lastTimestamp, state.coordinatorEpoch,
                state.transactionStart?.rawValue ?? -1)
        }
        if let offset {
            body.writeMultipleIntegers(Self.magic, Self.extensionVersion, offset.rawValue)
            body.writeMultipleIntegers(
                lastBatch?.baseOffset.rawValue ?? -1, lastBatch?.leaderEpoch.rawValue ?? -1,
                lastBatch?.crc ?? 0, states.end.rawValue)
            for (_, state) in producers {
                // The last one's timestamp need not be the producer's: a marker may follow it.
                body.writeInteger(state.batches.last?.timestamp ?? -1)
                body.writeInteger(UInt8(max(0, state.batches.count - 1)))
                for batch in state.batches.dropLast() { body.write(batch) }
            }
            body.writeInteger(Int32(clamping: states.ended.count))
            for transaction in states.ended {
                body.writeMultipleIntegers(
                    transaction.firstOffset.rawValue, transaction.lastOffset.rawValue)
            }
            body.writeInteger(Int32(clamping: transactions.count))
            for summary in transactions {
                body.writeMultipleIntegers(
                    summary.segment.rawValue, Int32(clamping: summary.count), summary.crc)
            }
        }
        var bytes = ByteBuffer()
        bytes.reserveCapacity(Self.headSize + body.readableBytes)
        bytes.writeInteger(Self.version)
        bytes.writeInteger(body.withUnsafeReadableBytes { CRC32C.checksum($0) })
        bytes.writeBuffer(&body)
        return Array(bytes.readableBytesView)
    }

    /// What a file says; `nil` unless it is whole and makes sense.
    package init?(decoding bytes: [UInt8]) {
        guard bytes.count >= Self.headSize + 4 else { return nil }
        let computed = bytes.withUnsafeBytes {
            CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[Self.headSize...]))
        }
        var buffer = ByteBuffer(bytes: bytes)
        guard
            let (version, crc, count) = buffer.readMultipleIntegers(
                as: (Int16, UInt32, Int32).self),
            version == Self.version, crc == computed, count >= 0,
            Int(count) <= buffer.readableBytes / Self.entrySize
        else { return nil }
        var producers: [(id: Int64, state: ProducerState)] = []
        producers.reserveCapacity(Int(count))
        var ids = Set<Int64>(minimumCapacity: Int(count))
        var starts = Set<Int64>()
        for _ in 0..<count {
            guard let (id, state) = buffer.readProducer(), ids.insert(id).inserted else {
                return nil
            }
            if let start = state.transactionStart {
                guard starts.insert(start.rawValue).inserted else { return nil }
            }
            producers.append((id, state))
        }
        states = ProducerStates()
        if buffer.readableBytes > 0 {
            guard readExtension(&buffer, of: &producers) else { return nil }
        }
        for (id, state) in producers { states.restore(state, of: id) }
    }

    private mutating func readExtension(
        _ buffer: inout ByteBuffer, of producers: inout [(id: Int64, state: ProducerState)]
    ) -> Bool {
        guard
            let (magic, version, offset) = buffer.readMultipleIntegers(
                as: (UInt32, Int16, Int64).self),
            let (base, epoch, crc, end) = buffer.readMultipleIntegers(
                as: (Int64, Int32, UInt32, Int64).self),
            magic == Self.magic, version == Self.extensionVersion, offset >= 0,
            (0...offset).contains(end), base >= -1, base < offset
        else { return false }
        self.offset = Offset(offset)
        states.end = Offset(end)
        if base >= 0 {
            lastBatch = LastBatch(
                baseOffset: Offset(base), leaderEpoch: LeaderEpoch(epoch), crc: crc)
        }
        for index in producers.indices {
            guard
                let (timestamp, count) = buffer.readMultipleIntegers(as: (Int64, UInt8).self),
                Int(count) < ProducerState.maxBatches
            else { return false }
            guard var last = producers[index].state.batches.popLast() else {
                guard count == 0 else { return false }
                continue
            }
            last.timestamp = timestamp
            for _ in 0..<count {
                guard let batch = buffer.readBatch() else { return false }
                producers[index].state.batches.append(batch)
            }
            producers[index].state.batches.append(last)
        }
        guard let endedCount = buffer.readInteger(as: Int32.self), endedCount >= 0,
            Int(endedCount) <= buffer.readableBytes / 16
        else { return false }
        for _ in 0..<endedCount {
            guard let (first, last) = buffer.readMultipleIntegers(as: (Int64, Int64).self),
                first >= 0, last > first, last < offset,
                last > states.ended.last?.lastOffset.rawValue ?? -1
            else { return false }
            states.ended.append(
                ProducerStates.EndedTransaction(
                    firstOffset: Offset(first), lastOffset: Offset(last)))
        }
        guard let indexCount = buffer.readInteger(as: Int32.self), indexCount >= 0,
            Int(indexCount) <= buffer.readableBytes / 16
        else { return false }
        for _ in 0..<indexCount {
            guard
                let (segment, count, crc) = buffer.readMultipleIntegers(
                    as: (Int64, Int32, UInt32).self),
                segment > transactions.last?.segment.rawValue ?? -1, segment < offset, count > 0
            else { return false }
            transactions.append(
                TransactionIndexSummary(segment: Offset(segment), count: Int(count), crc: crc))
        }
        return buffer.readableBytes == 0
    }
}

extension ByteBuffer {
    fileprivate mutating func write(_ batch: ProducerState.Batch) {
        writeMultipleIntegers(
            batch.lastSequence, batch.lastOffset.rawValue, batch.offsetDelta, batch.timestamp)
    }

    fileprivate mutating func readBatch() -> ProducerState.Batch? {
        guard
            let (sequence, offset, delta, timestamp) = readMultipleIntegers(
                as: (Int32, Int64, Int32, Int64).self)
        else { return nil }
        return ProducerState.Batch(
            checking: sequence, offset: offset, delta: delta, timestamp: timestamp)
    }

    fileprivate mutating func readProducer() -> (Int64, ProducerState)? {
        guard
            let (id, epoch, sequence, offset, delta, timestamp, coordinator, start) =
                readMultipleIntegers(
                    as: (Int64, Int16, Int32, Int64, Int32, Int64, Int32, Int64).self),
            id >= 0, epoch >= -1, coordinator >= -1, start >= -1, offset >= -1
        else { return nil }
        var state = ProducerState()
        state.epoch = epoch
        state.coordinatorEpoch = coordinator
        state.lastTimestamp = timestamp
        state.transactionStart = start >= 0 ? Offset(start) : nil
        if offset >= 0 {
            guard
                let batch = ProducerState.Batch(
                    checking: sequence, offset: offset, delta: delta, timestamp: timestamp)
            else { return nil }
            state.batches = [batch]
        }
        return (id, state)
    }
}

extension ProducerState.Batch {
    /// `nil` for what no batch can have been.
    fileprivate init?(checking sequence: Int32, offset: Int64, delta: Int32, timestamp: Int64) {
        guard sequence >= 0, delta >= 0, offset >= Int64(delta), offset < .max - 1 else {
            return nil
        }
        self.init(
            lastSequence: sequence, lastOffset: Offset(offset), offsetDelta: delta,
            timestamp: timestamp)
    }
}
