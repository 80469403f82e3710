import Essentials
import NIOCore
import Records
import Testing

@testable import Storage

@Suite struct ProducerSnapshotTests {
    private func sample() throws -> ProducerSnapshot {
        var log = HeaderLog()
        for sequence in 0..<7 { try log.send(producerBatch(3, sequence: Int32(sequence))) }
        try log.send(producerBatch(2, 1, sequence: 0, count: 3, transactional: true))
        try log.send(producerBatch(9, 6, sequence: 0, transactional: true, timestamp: 77))
        try log.send(.abort, 2, 2, coordinator: 5)
        return ProducerSnapshot(
            of: log.states, at: log.end,
            lastBatch: ProducerSnapshot.LastBatch(baseOffset: 11, leaderEpoch: 4, crc: 99),
            transactions: [TransactionIndexSummary(segment: 0, count: 1, crc: 12)])
    }

    @Test func whatIsWrittenIsRead() throws {
        let snapshot = try sample()
        let read = try #require(ProducerSnapshot(decoding: snapshot.encoded))
        #expect(read == snapshot)
        #expect(read.states.end == snapshot.states.end)
        #expect(read.encoded == snapshot.encoded)
        #expect(read.states.producers[3]?.batches.count == 5)
        let empty = ProducerSnapshot(of: ProducerStates(), at: 0, lastBatch: nil, transactions: [])
        #expect(ProducerSnapshot(decoding: empty.encoded) == empty)
    }

    /// Kafka's reader takes version, checksum and entries, and looks no further.
    @Test func theBeginningIsAsKafkaHasIt() throws {
        var buffer = ByteBuffer(bytes: try sample().encoded)
        let version = buffer.readInteger(as: Int16.self)
        let crc = buffer.readInteger(as: UInt32.self)
        #expect(version == 1)
        #expect(crc == buffer.withUnsafeReadableBytes { CRC32C.checksum($0) })
        #expect(buffer.readInteger(as: Int32.self) == 3)
        func entry() throws -> [Int64] {
            let read = buffer.readMultipleIntegers(
                as: (Int64, Int16, Int32, Int64, Int32, Int64, Int32, Int64).self)
            let entry = try #require(read)
            return [
                entry.0, Int64(entry.1), Int64(entry.2), entry.3, Int64(entry.4), entry.5,
                Int64(entry.6), entry.7,
            ]
        }
        // Id, epoch, last sequence, last offset, offset delta, timestamp, coordinator, transaction.
        #expect(try entry() == [2, 2, -1, -1, 0, 2_000, 5, -1])
        #expect(try entry() == [3, 0, 6, 6, 0, 1_000, -1, -1])
        #expect(try entry() == [9, 6, 0, 10, 0, 77, -1, 10])
    }

    @Test func kafkasOwnIsRead() throws {
        var body = ByteBuffer()
        body.writeInteger(1 as Int32)
        body.writeMultipleIntegers(
            5 as Int64, 1 as Int16, 8 as Int32, 20 as Int64, 2 as Int32, 1_000 as Int64,
            3 as Int32, 18 as Int64)
        var file = ByteBuffer()
        file.writeInteger(1 as Int16)
        file.writeInteger(body.withUnsafeReadableBytes { CRC32C.checksum($0) })
        file.writeBuffer(&body)
        let read = try #require(ProducerSnapshot(decoding: Array(file.readableBytesView)))
        #expect(read.offset == nil)
        let state = try #require(read.states.producers[5])
        #expect(state.batches.map(\.firstOffset) == [18])
        #expect(state.batches.map(\.firstSequence) == [6])
        #expect(read.states.lastStableOffset(highWatermark: 100) == 18)
    }

    /// D15: also with a checksum that is right, so that more than that is tried.
    @Test func mutatedFilesAreRefusedOrRead() throws {
        let bytes = try sample().encoded
        for count in bytes.indices {
            #expect(ProducerSnapshot(decoding: [UInt8](bytes[..<count])) == nil)
        }
        var generator = SeededGenerator(seed: 15)
        for _ in 0..<3_000 {
            var mutated = bytes
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                mutated[Int.random(in: 6..<bytes.count, using: &generator)] = .random(
                    in: 0...255, using: &generator)
            }
            if Bool.random(using: &generator) {
                mutated.removeLast(Int.random(in: 1...60, using: &generator))
            }
            #expect(mutated == bytes || ProducerSnapshot(decoding: mutated) == nil)
            let crc = mutated[6...].withUnsafeBytes { CRC32C.checksum($0) }
            withUnsafeBytes(of: crc.bigEndian) { mutated.replaceSubrange(2..<6, with: $0) }
            if let read = ProducerSnapshot(decoding: mutated) {
                #expect(ProducerSnapshot(decoding: read.encoded) == read)
                _ = read.states.lastStableOffset(highWatermark: 5)
            }
        }
    }

    @Test func transactionIndexesAreKafkas() throws {
        let entry = AbortedTransaction(
            producerID: 1, firstOffset: 2, lastOffset: 3, lastStableOffset: 4)
        var index = TransactionIndex()
        index.append(entry)
        #expect(
            index.encoded == [
                0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3,
                0, 0, 0, 0, 0, 0, 0, 4,
            ])
        #expect(TransactionIndex(decoding: index.encoded) == index)
        #expect(TransactionIndex(decoding: []) == TransactionIndex())
        #expect(TransactionIndex(decoding: [UInt8](index.encoded.dropLast())) == nil)
        #expect(TransactionIndex(decoding: index.encoded + index.encoded) == nil)
        var generator = SeededGenerator(seed: 16)
        for _ in 0..<500 {
            var mutated = index.encoded
            mutated[Int.random(in: 0..<34, using: &generator)] = .random(
                in: 0...255, using: &generator)
            if let read = TransactionIndex(decoding: mutated) { #expect(read.encoded == mutated) }
        }
    }
}
