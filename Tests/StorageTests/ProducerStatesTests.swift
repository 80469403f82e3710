import Essentials
import NIOCore
import Records
import Storage
import Testing

@Suite struct ProducerStatesTests {
    /// Batches of one producer, as `epoch:first+count`, and what becomes of each.
    private static let table = """
        # In order, each once.
        0:0+1 -> 0
        0:1+3 -> 1
        0:4+1 -> 4
        # Any of the last five repeated gets its first offset, and is not appended.
        0:1+3 -> 1
        0:0+1 -> 0
        0:5+1 -> 5
        # A gap.
        0:7+1 -> OUT_OF_ORDER_SEQUENCE_NUMBER
        0:6+1 -> 6
        # Overlaps are no repetitions.
        0:6+2 -> OUT_OF_ORDER_SEQUENCE_NUMBER
        0:5+2 -> OUT_OF_ORDER_SEQUENCE_NUMBER
        0:7+2 -> 7
        # The first is not among the last five any more.
        0:0+1 -> DUPLICATE_SEQUENCE_NUMBER
        0:2+1 -> DUPLICATE_SEQUENCE_NUMBER
        0:1+3 -> 1
        # A new epoch starts with 0, and ends the old one.
        1:9+1 -> OUT_OF_ORDER_SEQUENCE_NUMBER
        1:1+1 -> OUT_OF_ORDER_SEQUENCE_NUMBER
        1:0+2 -> 9
        0:9+1 -> INVALID_PRODUCER_EPOCH
        0:7+2 -> INVALID_PRODUCER_EPOCH
        1:0+2 -> 9
        1:2+1 -> 11
        # Epochs may be left out.
        7:0+1 -> 12
        1:3+1 -> INVALID_PRODUCER_EPOCH
        7:1+1 -> 13
        """

    /// T1, T2, T3.
    @Test func eachBatchIsTakenOnceAndInOrder() throws {
        var log = HeaderLog()
        for line in Self.table.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split { " :+->".contains($0) }.map(String.init)
            let epoch = try #require(Int16(words[0])), sequence = try #require(Int32(words[1]))
            let batch = producerBatch(
                7, epoch, sequence: sequence, count: try #require(Int(words[2])))
            let result: String
            do {
                result = "\(try log.send(batch))"
            } catch let error as ProducerError {
                result = error.code.name
            }
            #expect(result == words[3], "\(line)")
        }
        #expect(log.states.contradictions == 0)
    }

    /// E4.
    @Test func sequencesGoOnWithZeroAfterTheLargest() throws {
        var log = HeaderLog()
        let largest = Int32.max
        log.append(
            try RecordBatches.headers(of: producerBatch(1, sequence: largest - 4, count: 3))[0])
        #expect(try log.send(producerBatch(1, sequence: largest - 1, count: 1)) == 3)
        // The batch that wraps, once.
        #expect(try log.send(producerBatch(1, sequence: largest, count: 4)) == 4)
        #expect(try log.send(producerBatch(1, sequence: largest, count: 4)) == 4)
        #expect(throws: ProducerError.outOfOrder(producerID: 1, expected: 3, found: 4)) {
            try log.send(producerBatch(1, sequence: 4))
        }
        #expect(try log.send(producerBatch(1, sequence: 3)) == 8)
        #expect(
            throws: ProducerError.alreadyAppended(
                producerID: 1, first: largest - 3, last: largest - 3)
        ) { try log.send(producerBatch(1, sequence: largest - 3)) }

        var exact = HeaderLog()
        exact.append(try RecordBatches.headers(of: producerBatch(1, sequence: largest))[0])
        #expect(try exact.send(producerBatch(1, sequence: 0)) == 1)
        #expect(try exact.send(producerBatch(1, sequence: 0)) == 1)
        #expect(try exact.send(producerBatch(1, sequence: largest)) == 0)
    }

    @Test func unknownProducersStartWithSequenceZero() throws {
        var log = HeaderLog()
        #expect(throws: ProducerError.unknown(producerID: 4, sequence: 3)) {
            try log.send(producerBatch(4, sequence: 3))
        }
        #expect(try log.send(producerBatch(4, 9, sequence: 0, count: 3)) == 0)
        #expect(try log.send(producerBatch(4, 9, sequence: 3)) == 3)
        // Others don't matter to it, nor do batches of nobody.
        #expect(try log.send(producerBatch(5, sequence: 0)) == 4)
        let admission = try log.states.admit(RecordBatches.headers(of: makeBatch(3)))
        #expect(admission == ProducerStates.Admission())
    }

    @Test func oneRequestMayHoldSeveralBatches() throws {
        var log = HeaderLog()
        func request(_ batches: ByteBuffer...) -> ByteBuffer {
            batches.reduce(into: ByteBuffer()) { $0.writeImmutableBuffer($1) }
        }
        let first = producerBatch(1, sequence: 0, count: 2)
        let second = producerBatch(1, sequence: 2)
        let third = producerBatch(2, sequence: 0)
        #expect(try log.send(request(first, second, third)) == 0)
        #expect(log.end == 4)
        #expect(try log.send(request(first, second, third)) == 0)
        #expect(log.end == 4)
        // After a crash in the middle only the rest is appended.
        #expect(try log.send(request(second, third, producerBatch(1, sequence: 3))) == 2)
        #expect(log.end == 5)
        #expect(throws: ProducerError.self) {
            try log.send(request(producerBatch(1, sequence: 4), producerBatch(1, sequence: 6)))
        }
        #expect(throws: ProducerError.self) {
            try log.send(request(producerBatch(1, sequence: 4), producerBatch(1, sequence: 4)))
        }
        #expect(log.end == 5)
    }

    /// T10.
    @Test func whatIsStableEndsWhereTheOldestTransactionBegins() throws {
        var log = HeaderLog()
        try log.send(producerBatch(1, sequence: 0))
        try log.send(producerBatch(2, sequence: 0, transactional: true))
        try log.send(producerBatch(3, sequence: 0, transactional: true))
        try log.send(producerBatch(2, sequence: 1, transactional: true))
        #expect(log.states.lastStableOffset(highWatermark: 1) == 1)
        #expect(log.states.lastStableOffset(highWatermark: 4) == 1)
        try log.send(.commit, 2, 1)
        // Decided, but not for sure while the marker may be lost.
        #expect(log.states.lastStableOffset(highWatermark: 4) == 1)
        #expect(log.states.lastStableOffset(highWatermark: 5) == 2)
        log.states.settle(highWatermark: 4)
        #expect(log.states.lastStableOffset(highWatermark: 4) == 1)
        log.states.settle(highWatermark: 5)
        try log.send(.abort, 3, 1)
        #expect(log.states.lastStableOffset(highWatermark: 5) == 2)
        #expect(log.states.lastStableOffset(highWatermark: 6) == 6)
        #expect(
            log.aborted == [
                AbortedTransaction(
                    producerID: 3, firstOffset: 2, lastOffset: 5, lastStableOffset: 6)
            ])
    }

    /// T8, T11.
    @Test func markersEndOnlyTheTransactionTheyAreFor() throws {
        var log = HeaderLog()
        try log.send(producerBatch(1, 4, sequence: 0, count: 2, transactional: true))
        // One that is late, of the transaction before.
        #expect(throws: ProducerError.staleEpoch(producerID: 1, 4, current: 4)) {
            try log.send(.abort, 1, 4)
        }
        #expect(throws: ProducerError.transactionOpen(producerID: 1)) {
            try log.send(producerBatch(1, 4, sequence: 2))
        }
        #expect(throws: ProducerError.transactionNotEnded(producerID: 1)) {
            try log.send(producerBatch(1, 5, sequence: 0, transactional: true))
        }
        #expect(try log.send(.commit, 1, 5, coordinator: 7) == .append)
        #expect(try log.send(.commit, 1, 5, coordinator: 7) == .alreadyEnded)
        #expect(log.end == 3)
        #expect(throws: ProducerError.coordinatorFenced(producerID: 1, 6, current: 7)) {
            try log.send(.abort, 1, 6, coordinator: 6)
        }
        // E12: what comes after the end of its transaction.
        #expect(throws: ProducerError.staleEpoch(producerID: 1, 4, current: 5)) {
            try log.send(producerBatch(1, 4, sequence: 2, transactional: true))
        }
        #expect(throws: ProducerError.outOfOrder(producerID: 1, expected: 0, found: 2)) {
            try log.send(producerBatch(1, 5, sequence: 2, transactional: true))
        }
        #expect(try log.send(producerBatch(1, 5, sequence: 0, transactional: true)) == 3)
        #expect(throws: ProducerError.staleEpoch(producerID: 1, 5, current: 5)) {
            try log.send(.commit, 1, 5, coordinator: 7)
        }
        // A producer that has sent nothing is kept out too.
        #expect(try log.send(.abort, 9, 3) == .append)
        #expect(throws: ProducerError.staleEpoch(producerID: 9, 2, current: 3)) {
            try log.send(producerBatch(9, 2, sequence: 0, transactional: true))
        }
        #expect(log.aborted.isEmpty)
        #expect(log.states.lastStableOffset(highWatermark: .max) == 3)
    }

    @Test func theLogIsRightWhateverWasKnown() throws {
        var log = HeaderLog()
        try log.send(producerBatch(1, 3, sequence: 0, transactional: true))
        for batch in [
            producerBatch(1, 3, sequence: 5), producerBatch(1, 2, sequence: 0),
            producerBatch(1, 4, sequence: 8, transactional: true),
        ] {
            log.append(try RecordBatches.headers(of: batch)[0])
        }
        #expect(log.states.contradictions == 3)
        #expect(log.states.lastStableOffset(highWatermark: 4) == 0)
        #expect(try log.send(.abort, 1, 5) == .append)
        #expect(log.states.lastStableOffset(highWatermark: 5) == 5)
        // What compaction left of a marker ends a transaction that has lost its outcome.
        try log.send(producerBatch(2, sequence: 0, transactional: true))
        let marker = TransactionMarker(.abort, coordinatorEpoch: 1)
            .batch(producerID: 2, producerEpoch: 1, timestamp: 1)
        log.append(try RecordBatches.headers(of: marker)[0], marker: nil)
        #expect(log.states.lastStableOffset(highWatermark: 7) == 7)
        #expect(log.aborted.count == 1)
    }

    /// A batch that compaction has emptied still tells its producer's last sequence.
    @Test func emptiedBatchesCount() throws {
        var log = HeaderLog()
        var header = try RecordBatches.headers(of: producerBatch(1, sequence: 6, count: 4))[0]
        header.recordCount = 0
        log.append(header)
        #expect(log.end == 4)
        #expect(try log.send(producerBatch(1, sequence: 6, count: 4)) == 0)
        #expect(try log.send(producerBatch(1, sequence: 10)) == 4)
    }

    @Test func ofVeryManyProducersTheIdlestMakeWay() throws {
        var log = HeaderLog()
        try log.send(producerBatch(1, sequence: 0, transactional: true))
        var header = try RecordBatches.headers(of: producerBatch(2, sequence: 0))[0]
        let most = ProducerStates.maxProducers
        for id in 2...Int64(most + 1) {
            header.producerID = id
            log.append(header)
        }
        let known = log.states.producers
        #expect(known.count <= most && known.count > most / 2)
        // An open transaction keeps its producer, however old.
        #expect(known[1] != nil && known[2] == nil && known[Int64(most + 1)] != nil)
    }

    @Test func idleProducersAreForgotten() throws {
        var log = HeaderLog()
        try log.send(producerBatch(1, sequence: 0, timestamp: 100))
        try log.send(producerBatch(2, sequence: 0, transactional: true, timestamp: 100))
        try log.send(producerBatch(3, sequence: 0, timestamp: 900))
        try log.send(producerBatch(4, sequence: 0, timestamp: 50))
        #expect(log.states.expire(before: 500, belowOffset: 3) == 1)
        #expect(log.states.producers.keys.sorted() == [2, 3, 4])
        #expect(throws: ProducerError.unknown(producerID: 1, sequence: 1)) {
            try log.send(producerBatch(1, sequence: 1))
        }
        #expect(try log.send(producerBatch(4, sequence: 0)) == 3)
    }
}
