import Essentials
import NIOCore
import Records
import Testing

private let codecs = Compression.allCases.filter { $0 != .none }

private func builder(records: Int, seed: UInt64 = 1) -> RecordBatchBuilder {
    var generator = SeededGenerator(seed: seed)
    var builder = RecordBatchBuilder()
    for index in 0..<records {
        let words = (0..<12).map { _ in "word\(Int.random(in: 0..<50, using: &generator))" }
        builder.append(
            key: index % 3 == 0 ? nil : ByteBuffer(string: "key \(index % 7)"),
            value: index % 11 == 5 ? nil : ByteBuffer(string: words.joined(separator: " ")),
            headers: index % 4 == 0
                ? [RecordHeader(name: "trace", value: ByteBuffer(string: "\(index)"))] : [],
            timestamp: 1_700_000_000_000 + Int64.random(in: -500...500, using: &generator))
    }
    return builder
}

private func batch(
    records: Int = 100, _ codec: Compression, baseOffset: Offset = 40, seed: UInt64 = 1
) -> ByteBuffer {
    var builder = builder(records: records, seed: seed)
    return builder.finish(baseOffset: baseOffset, leaderEpoch: 3, compression: codec)
}

private func applied(
    _ rules: AppendRules, to buffer: ByteBuffer
) -> Result<(batches: ByteBuffer, headers: [RecordBatchHeader]), RecordError> {
    do throws(RecordError) {
        return .success(try rules.apply(to: buffer))
    } catch {
        return .failure(error)
    }
}

private func refusal(_ rules: AppendRules, of buffer: ByteBuffer) -> RecordError? {
    guard case .failure(let error) = applied(rules, to: buffer) else { return nil }
    return error
}

@Test(arguments: codecs) func compressedRecordsAreReadAsIfTheyWereNot(codec: Compression) throws {
    let plain = batch(.none)
    let compressed = batch(codec)
    #expect(compressed.readableBytes < plain.readableBytes)
    let header = try RecordBatchHeader(compressed, at: 0)
    #expect(header.compression == codec)
    #expect(header.recordCount == 100)
    #expect(try records(compressed) == records(plain))
    #expect(validationError(compressed) == nil)
    // Beside others in one buffer, and not at its start.
    var mixed = ByteBuffer(string: "junk")
    mixed.writeImmutableBuffer(plain)
    mixed.writeImmutableBuffer(batch(records: 20, codec, baseOffset: 140))
    mixed.writeImmutableBuffer(batch(records: 10, .none, baseOffset: 160))
    mixed.moveReaderIndex(forwardBy: 4)
    #expect(try records(mixed).map(\.offset.rawValue) == Array(40..<170))
    #expect(validationError(mixed) == nil)
}

@Test func compressionThatDoesNotPayIsLeftOut() throws {
    for codec in codecs {
        var builder = RecordBatchBuilder()
        builder.append(key: nil, value: [1, 2, 3], timestamp: 1)
        let batch = builder.finish(compression: codec)
        #expect(try RecordBatchHeader(batch, at: 0).compression == Compression.none)
        // The builder is as good as new, whichever way it went.
        #expect(builder.isEmpty)
        builder.append(key: nil, value: [UInt8](repeating: 7, count: 1_000), timestamp: 2)
        let next = builder.finish(baseOffset: 9, compression: codec)
        #expect(try RecordBatchHeader(next, at: 0).compression == codec)
        builder.append(key: [4], value: nil, timestamp: 3)
        #expect(builder.byteCount < 80)
        #expect(try records(builder.finish()).map(\.timestamp) == [3])
        #expect(try records(next).map(\.value?.readableBytes) == [1_000])
    }
}

@Test(arguments: codecs) func flawsInsideCompressedRecordsAreFound(codec: Compression) throws {
    /// The records of a good batch with one byte changed, compressed again.
    func spoiled(at index: Int, _ value: UInt8, appending extra: [UInt8] = []) -> ByteBuffer {
        var plain = batch(.none)
        plain.setInteger(value, at: 61 + index)
        plain.writeBytes(extra)
        var spoiled = plain.getSlice(at: 0, length: 61) ?? plain
        plain.withUnsafeReadableBytes {
            codec.compress(UnsafeRawBufferPointer(rebasing: $0[61...]), into: &spoiled)
        }
        spoiled.setInteger(Int32(spoiled.readableBytes - 12), at: 8)
        return patched(spoiled, UInt16(codec.rawValue), at: 21)
    }
    let plain = batch(.none)
    let first = try #require(plain.getInteger(at: 61, as: UInt8.self))
    #expect(first >= 0x80)  // Its length takes two bytes: length, attributes, timestamp, offset.
    #expect(validationError(spoiled(at: 0, first)) == nil)
    #expect(
        validationError(spoiled(at: 4, 2))
            == .invalidRecord(index: 0, "its offset delta is not its place in the batch"))
    #expect(validationError(spoiled(at: 1, 0x7f))?.code == .invalidRecord)
    #expect(
        validationError(spoiled(at: 0, first, appending: [0]))
            == .invalidHeader("bytes follow the last record"))
    let good = batch(codec)
    #expect(validationError(patched(good, Int64(1), at: 35))?.code == .invalidTimestamp)
    #expect(validationError(patched(good, Int32(99), at: 57))?.code == .invalidRecord)
    #expect(
        validationError(patched(good, UInt16(codec.rawValue) | 32, at: 21)) == .controlBatchRefused)
}

@Test(arguments: codecs) func recordsBeyondTheLimitAreNotDecompressed(codec: Compression) throws {
    let plain = batch(.none)
    let size = plain.readableBytes - 61
    let one = batch(codec)
    var rules = AppendRules(maxBatchBytes: 1 << 20, maxDecompressedBytes: size)
    #expect(refusal(rules, of: one) == nil)
    // The batches of a request share the limit.
    var two = one
    two.writeImmutableBuffer(one)
    #expect(refusal(rules, of: two) == .decompressedTooLarge(limit: size))
    rules.maxDecompressedBytes = size - 1
    #expect(refusal(rules, of: one) == .decompressedTooLarge(limit: size - 1))
    #expect(refusal(rules, of: one)?.code == .messageTooLarge)
    var reader = RecordReader(one, maxDecompressedBytes: size - 1)
    #expect(throws: RecordError.decompressedTooLarge(limit: size - 1)) { _ = try reader.next() }
}

@Test(arguments: codecs)
func theTopicsCodecReplacesTheProducers(codec: Compression) throws {
    for target in Compression.allCases {
        var sent = batch(codec)
        sent.writeImmutableBuffer(batch(records: 60, target, seed: 2))
        sent.writeImmutableBuffer(batch(records: 70, .none, seed: 3))
        let rules = AppendRules(maxBatchBytes: 1 << 20, compression: target)
        let (stored, headers) = try applied(rules, to: sent).get()
        #expect(headers.map(\.compression) == [target, target, target])
        #expect(headers.map(\.recordCount) == [100, 60, 70])
        #expect(try RecordBatches.headers(of: stored) == headers)
        #expect(try records(stored) == records(sent))
        // Nothing is left to change.
        let again = try applied(rules, to: stored).get()
        #expect(again.batches == stored)
    }
    let kept = AppendRules(maxBatchBytes: 1 << 20)
    #expect(try applied(kept, to: batch(codec)).get().batches == batch(codec))
}

@Test func aBatchMayBecomeTooLargeByTheTopicsCodec() {
    let rules = AppendRules(maxBatchBytes: 5_000, compression: Compression.none)
    guard case .tooLarge(let bytes, limit: 5_000)? = refusal(rules, of: batch(.zstd)) else {
        Issue.record("accepted")
        return
    }
    #expect(bytes > 5_000)
}

@Test func appendTimeTakesThePlaceOfAllTimestamps() throws {
    for codec in Compression.allCases {
        let rules = AppendRules(maxBatchBytes: 1 << 20, timestamps: .append(at: 1_800_000_000_000))
        let (stored, headers) = try applied(rules, to: batch(codec)).get()
        #expect(headers.map(\.timestampType) == [.logAppendTime])
        #expect(try RecordBatches.headers(of: stored) == headers)
        #expect(Set(try records(stored).map(\.timestamp)) == [1_800_000_000_000])
    }
}

@Test func timestampsOutsideTheTopicsRangeAreRefused() {
    for codec in Compression.allCases {
        func rules(_ range: ClosedRange<Int64>) -> AppendRules {
            AppendRules(maxBatchBytes: 1 << 20, timestamps: .create(range))
        }
        #expect(refusal(rules(1_699_999_999_500...1_700_000_000_500), of: batch(codec)) == nil)
        #expect(refusal(rules(0...1_700_000_000_000), of: batch(codec))?.code == .invalidTimestamp)
        #expect(
            refusal(rules(1_700_000_000_000 ... .max), of: batch(codec))?.code == .invalidTimestamp)
    }
    var builder = RecordBatchBuilder()
    builder.append(key: nil, value: [1], timestamp: -1)
    let untimed = AppendRules(maxBatchBytes: 1 << 20, timestamps: .create(5...6))
    #expect(refusal(untimed, of: builder.finish()) == nil)
}

@Test func producerFieldsMustFitTogether() {
    func batch(id: Int64, epoch: Int16, sequence: Int32, isTransactional: Bool) -> ByteBuffer {
        var builder = RecordBatchBuilder(isTransactional: isTransactional)
        builder.producerID = id
        builder.producerEpoch = epoch
        builder.baseSequence = sequence
        builder.append(key: nil, value: [1], timestamp: 1)
        return builder.finish()
    }
    func error(
        id: Int64, epoch: Int16, sequence: Int32, isTransactional: Bool = false
    ) -> ErrorCode? {
        validationError(
            batch(id: id, epoch: epoch, sequence: sequence, isTransactional: isTransactional))?.code
    }
    #expect(error(id: 5, epoch: 0, sequence: 0) == nil)
    #expect(error(id: 5, epoch: 0, sequence: 7, isTransactional: true) == nil)
    #expect(error(id: -1, epoch: -1, sequence: -1) == nil)
    // Some clients write 0 here.
    #expect(error(id: -1, epoch: -1, sequence: 0) == nil)
    #expect(error(id: 5, epoch: -1, sequence: 0) == .invalidRecord)
    #expect(error(id: 5, epoch: 0, sequence: -1) == .invalidRecord)
    #expect(error(id: -2, epoch: 0, sequence: 0) == .invalidRecord)
    #expect(error(id: -1, epoch: -1, sequence: -1, isTransactional: true) == .invalidRecord)
}

@Test(arguments: codecs, 0..<6)
func mutatedCompressedBatchesAreRefusedOrReadButNeverCrash(codec: Compression, seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let original = batch(codec, seed: seed)
    for round in 0..<200 {
        var batch = original
        for _ in 0..<Int.random(in: 1...3, using: &generator) {
            let index = Int.random(in: 0..<batch.readableBytes, using: &generator)
            batch.setInteger(UInt8.random(in: 0...255, using: &generator), at: index)
        }
        batch = checksummed(batch)
        let isValid = validationError(batch) == nil
        let isReadable = (try? records(batch)) != nil
        #expect(!isValid || isReadable, "seed \(seed), round \(round)")
    }
}

@Test(arguments: codecs)
func noDeleteHorizonMakesABatchLargerThanReadersTake(codec: Compression) throws {
    var builder = RecordBatchBuilder()
    for number in 0..<100 {
        builder.append(key: ByteBuffer(string: "\(number)"), value: nil, timestamp: 1_000)
    }
    let batch = builder.finish(compression: codec)
    let header = try RecordBatchHeader(batch, at: batch.readerIndex)
    var generous = 0
    for limit in 900..<1_700 {
        let all = try RecordBatches.filtering(
            batch, header, deleteHorizon: 1 << 40, maxDecompressedBytes: limit
        ) { _ in true }
        guard case .changed(let changed, let new) = all else { continue }
        generous += 1
        #expect(new.deleteHorizon == 1 << 40)
        var reader = RecordReader(changed, maxDecompressedBytes: limit)
        var count = 0
        while let record = try reader.next() {
            #expect(record.timestamp == 1_000)
            count += 1
        }
        #expect(count == 100)
    }
    #expect(generous > 0 && generous < 800)
    let some = try RecordBatches.filtering(
        batch, header, deleteHorizon: 1 << 40, maxDecompressedBytes: 900
    ) { $0.offset != 50 }
    guard case .changed(_, let new) = some else {
        Issue.record("one record has to be gone")
        return
    }
    #expect(new.deleteHorizon == nil && new.recordCount == 99)
    #expect(new.baseTimestamp == header.baseTimestamp)
}
