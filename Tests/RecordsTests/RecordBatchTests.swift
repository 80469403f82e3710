import Essentials
import NIOCore
import Records
import Testing

private func sample(records: Int = 3) -> ByteBuffer {
    var builder = RecordBatchBuilder()
    for index in 0..<records {
        builder.append(
            key: index % 2 == 0 ? ByteBuffer(string: "key\(index)") : nil,
            value: ByteBuffer(string: "value \(index)"),
            headers: index == 1
                ? [
                    RecordHeader(name: "h", value: ByteBuffer(string: "x")),
                    RecordHeader(name: "ü", value: nil),
                ] : [],
            timestamp: 1_700_000_000_000 + Int64(index * 1_000) * (index == 2 ? -1 : 1))
    }
    return builder.finish(baseOffset: 100, leaderEpoch: 7)
}

@Test func readerGivesBackWhatTheBuilderTook() throws {
    let batch = sample()
    let header = try RecordBatchHeader(batch, at: 0)
    #expect(header.baseOffset == 100)
    #expect(header.lastOffset == 102)
    #expect(header.nextOffset == 103)
    #expect(header.leaderEpoch == 7)
    #expect(header.recordCount == 3)
    #expect(header.totalSize == batch.readableBytes)
    #expect(header.baseTimestamp == 1_700_000_000_000)
    #expect(header.maxTimestamp == 1_700_000_001_000)
    let records = try records(batch)
    #expect(records.map(\.offset) == [100, 101, 102])
    #expect(records.map(\.timestamp) == [1_700_000_000_000, 1_700_000_001_000, 1_699_999_998_000])
    #expect(records.map { $0.key.map { String(buffer: $0) } } == ["key0", nil, "key2"])
    #expect(
        records.map { $0.value.map { String(buffer: $0) } } == ["value 0", "value 1", "value 2"])
    #expect(
        records[1].headers == [
            RecordHeader(name: "h", value: ByteBuffer(string: "x")),
            RecordHeader(name: "ü", value: nil),
        ])
    #expect(validationError(batch) == nil)
}

/// Written out by hand from the description of the format.
@Test func bytesAreKafkasBitForBit() throws {
    var builder = RecordBatchBuilder(timestamp: 0x0000_0162_1b79_3ed5)
    builder.append(
        key: nil, value: Array("test-message".utf8), timestamp: 0x0000_0162_1b79_3ed5)
    let batch = builder.finish(baseOffset: 0, leaderEpoch: 0)
    let fixed: [UInt8] = [
        0, 0, 0, 0, 0, 0, 0, 0,  // base offset
        0, 0, 0, 68,  // length
        0, 0, 0, 0,  // leader epoch
        2,  // magic
    ]
    let rest: [UInt8] = [
        0, 0,  // attributes
        0, 0, 0, 0,  // last offset delta
        0, 0, 1, 0x62, 0x1b, 0x79, 0x3e, 0xd5,  // base timestamp
        0, 0, 1, 0x62, 0x1b, 0x79, 0x3e, 0xd5,  // max timestamp
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,  // producer id
        0xff, 0xff,  // producer epoch
        0xff, 0xff, 0xff, 0xff,  // base sequence
        0, 0, 0, 1,  // record count
        0x24,  // length 18
        0, 0, 0,  // attributes, timestamp delta, offset delta
        0x01,  // no key
        0x18,  // value of 12 bytes
    ]
    let bytes = Array(batch.readableBytesView)
    #expect(Array(bytes[0..<17]) == fixed)
    #expect(Array(bytes[21...]) == rest + Array("test-message".utf8) + [0])
    let crc = rest.withUnsafeBytes { CRC32C.tableChecksum($0) }
    let whole = Array("test-message\u{0}".utf8).withUnsafeBytes {
        CRC32C.tableChecksum($0, continuing: crc)
    }
    #expect(batch.getInteger(at: 17, as: UInt32.self) == whole)
}

@Test func finishingLeavesAnEmptyBuilder() throws {
    var builder = RecordBatchBuilder()
    builder.append(key: nil, value: [1], timestamp: 5)
    let first = builder.finish()
    #expect(builder.isEmpty)
    builder.append(key: [1], value: nil, timestamp: 9)
    #expect(builder.byteCount > RecordBatchHeader.size)
    let second = builder.finish(baseOffset: 1)
    #expect(try records(first).map(\.timestamp) == [5])
    let read = try records(second)
    #expect(read.map(\.timestamp) == [9])
    #expect(read.map(\.value) == [nil])
}

@Test func severalBatchesInOneBufferAreReadInOrder() throws {
    var buffer = sample()
    var next = RecordBatchBuilder(isControl: true)
    next.append(key: [0, 0, 0, 2], value: [1], timestamp: 3)
    var control = next.finish(baseOffset: 103, leaderEpoch: 7)
    buffer.writeBuffer(&control)
    var last = RecordBatchBuilder()
    last.append(key: nil, value: [9], timestamp: 4)
    var data = last.finish(baseOffset: 104, leaderEpoch: 8)
    buffer.writeBuffer(&data)
    // Readable bytes that don't start at index 0 must make no difference.
    var shifted = ByteBuffer(string: "junk")
    shifted.writeBuffer(&buffer)
    shifted.moveReaderIndex(forwardBy: 4)

    #expect(try RecordBatches.headers(of: shifted).map(\.baseOffset) == [100, 103, 104])
    #expect(try records(shifted).map(\.offset) == [100, 101, 102, 103, 104])
    var reader = RecordReader(shifted)
    var offsets: [Offset] = []
    while let record = try reader.next() { offsets.append(record.offset) }
    #expect(offsets == [100, 101, 102, 104])
    #expect(reader.nextOffset == 105)
    #expect(reader.batch?.leaderEpoch == 8)
}

@Test func stampingLeavesTheChecksumRight() throws {
    var batch = sample()
    RecordBatchHeader.stamp(&batch, at: 0, baseOffset: 5_000_000_000, leaderEpoch: 12)
    let header = try RecordBatches.headers(of: batch)[0]
    #expect(header.baseOffset == 5_000_000_000)
    #expect(header.leaderEpoch == 12)
}

@Test func eachKindOfBadBatchIsRefusedUnderItsOwnName() {
    let batch = sample()
    #expect(validationError(ByteBuffer()) == .noBatches)
    #expect(validationError(batch, limit: 80)?.code == .messageTooLarge)
    #expect(validationError(patched(batch, Int8(1), at: 16))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int32(48), at: 8)) == .invalidLength(48))
    #expect(validationError(patched(batch, Int32.max, at: 8))?.code == .corruptMessage)
    #expect(validationError(patched(batch, Int64(-1), at: 0))?.code == .invalidRecord)
    // Attributes: gzip to zstd, which these records are not, unknown codecs, log append time,
    // transactional, control, a delete horizon, and bits without a meaning.
    for codec in 1...4 as ClosedRange<UInt16> {
        #expect(validationError(patched(batch, codec, at: 21))?.code == .invalidRecord)
    }
    for codec in 5...7 as ClosedRange<UInt16> {
        #expect(
            validationError(patched(batch, codec, at: 21)) == .unsupportedCompression(UInt8(codec)))
    }
    #expect(validationError(patched(batch, UInt16(8), at: 21))?.code == .invalidTimestamp)
    #expect(validationError(patched(batch, UInt16(16), at: 21))?.code == .invalidRecord)
    #expect(validationError(patched(batch, UInt16(32), at: 21)) == .controlBatchRefused)
    #expect(validationError(patched(batch, UInt16(64), at: 21))?.code == .invalidRecord)
    #expect(validationError(patched(batch, UInt16(128), at: 21))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int32(5), at: 23))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int32(-1), at: 23))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int64(-2), at: 27))?.code == .invalidTimestamp)
    #expect(validationError(patched(batch, Int64.max, at: 27))?.code == .invalidTimestamp)
    #expect(validationError(patched(batch, Int64(1), at: 35))?.code == .invalidTimestamp)
    #expect(validationError(patched(batch, Int64(3), at: 43))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int64(-3), at: 43))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int32(0), at: 57))?.code == .invalidRecord)
    #expect(validationError(patched(batch, Int32(2), at: 57))?.code == .invalidRecord)
    // The second record's offset delta is at: 61, first record, length, attributes, delta.
    let first = Int(batch.getInteger(at: 61, as: UInt8.self) ?? 0) / 2
    let second = 61 + 1 + first
    #expect(batch.getInteger(at: second + 4, as: UInt8.self) == 2)
    #expect(
        validationError(patched(batch, UInt8(4), at: second + 4))
            == .invalidRecord(index: 1, "its offset delta is not its place in the batch"))
    // Bytes after the last record.
    var longer = batch
    longer.writeInteger(UInt8(0))
    longer = patched(longer, Int32(longer.readableBytes - 12), at: 8)
    #expect(validationError(longer)?.code == .invalidRecord)
    // A second batch that is cut off.
    var cut = batch
    cut.writeBytes(batch.readableBytesView.prefix(70))
    #expect(validationError(cut)?.code == .corruptMessage)
}

@Test func varintsOfEverySizeSurvive() throws {
    let timestamps: [Int64] = [0, 1, 63, 64, 8_191, 8_192, 1 << 31, 1 << 40, 1 << 55, .max / 2]
    var builder = RecordBatchBuilder(timestamp: 0)
    for timestamp in timestamps {
        builder.append(
            key: [UInt8](repeating: 1, count: Int(timestamp % 70_000)), value: nil,
            timestamp: timestamp)
    }
    let batch = builder.finish()
    #expect(validationError(batch) == nil)
    #expect(try records(batch).map(\.timestamp) == timestamps)
}

/// D15.
@Test(arguments: 0..<40) func mutatedBatchesAreRefusedOrReadButNeverCrash(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let original = sample(records: 6)
    for round in 0..<500 {
        var batch = original
        let size = batch.readableBytes
        for _ in 0..<Int.random(in: 1...4, using: &generator) {
            let index = Int.random(in: 0..<size, using: &generator)
            batch.setInteger(UInt8.random(in: 0...255, using: &generator), at: index)
        }
        if Int.random(in: 0..<4, using: &generator) == 0 {
            batch =
                batch.getSlice(at: 0, length: Int.random(in: 0...size, using: &generator)) ?? batch
        } else if size > 21 {
            // With the checksum right the deeper checks are reached.
            let crc = batch.withUnsafeReadableBytes {
                CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[21...]))
            }
            batch.setInteger(crc, at: 17)
        }
        let isValid = validationError(batch) == nil
        let isReadable = (try? records(batch)) != nil
        _ = try? RecordBatches.headers(of: batch)
        #expect(!isValid || isReadable, "seed \(seed), round \(round)")
    }
}

@Test(arguments: 0..<10) func randomBytesNeverCrash(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<300 {
        let count = Int.random(in: 0...200, using: &generator)
        var buffer = ByteBuffer(
            bytes: (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) })
        if count > 61 {
            buffer.setInteger(Int8(2), at: 16)
            buffer.setInteger(Int32(count - 12), at: 8)
        }
        #expect(validationError(buffer) != nil)
        _ = try? records(buffer)
    }
}

@Test func transactionMarkersAreKafkas() throws {
    for outcome in [TransactionMarker.Outcome.commit, .abort] {
        let marker = TransactionMarker(outcome, coordinatorEpoch: 9)
        let batch = marker.batch(producerID: 77, producerEpoch: 2, timestamp: 1)
        let header = try RecordBatchHeader(batch, at: batch.readerIndex)
        #expect(header.isControl && header.isTransactional)
        #expect(header.producerID == 77 && header.producerEpoch == 2 && header.baseSequence == -1)
        var reader = RecordReader(batch, includesControlBatches: true)
        let record = try #require(try reader.next())
        #expect(record.key == ByteBuffer(bytes: [0, 0, 0, UInt8(outcome.rawValue)]))
        #expect(record.value == ByteBuffer(bytes: [0, 0, 0, 0, 0, 9]))
        #expect(TransactionMarker(ofBatch: batch) == marker)
        var longer = record
        longer.value?.writeInteger(1 as Int16)
        #expect(TransactionMarker(longer) == marker)
        longer.key = ByteBuffer(bytes: [0, 0, 0, 7])
        #expect(TransactionMarker(longer) == nil)
        longer.key = ByteBuffer(bytes: [0, 0, 0])
        #expect(TransactionMarker(longer) == nil)
    }
    #expect(TransactionMarker(ofBatch: ByteBuffer()) == nil)
}
