import Essentials
import Foundation
import NIOCore
import Records
import Testing

/// Batches that kafka-python and librdkafka wrote are read, and others written for them to read.
///
/// `CrossCheck/cross_check.py` makes the fixtures, and runs these tests with a directory of its own
/// in which it has put batches, and in which it looks for ours afterwards.
@Suite struct CrossCheckTests {
    private static let directory: URL =
        if let path = ProcessInfo.processInfo.environment["MILLRACE_CROSS_CHECK"] {
            URL(filePath: path)
        } else {
            URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures")
        }

    private static let count = 50

    /// The record at `index`, as `record` in cross_check.py has it.
    private static func record(_ index: Int, withLarge: Bool) -> Record {
        var value =
            index % 10 == 7
            ? nil
            : "value \(index) " + String(repeating: "millrace ", count: index % 20)
        if index == 20, withLarge { value = String(repeating: "0123456789abcdef", count: 10_000) }
        var headers: [RecordHeader] = []
        if index % 5 == 0 {
            headers = [
                RecordHeader(name: "index", value: ByteBuffer(string: "\(index)")),
                RecordHeader(name: "empty", value: ByteBuffer()),
                RecordHeader(name: "none", value: nil),
                RecordHeader(name: "hä", value: ByteBuffer(bytes: [0, 0xff])),
            ]
        }
        return Record(
            offset: Offset(Int64(index)),
            timestamp: 1_700_000_000_000 + Int64(index * 37 - (index % 4) * 1_000),
            key: index % 3 == 0 ? nil : ByteBuffer(string: "key-\(index)"),
            value: value.map { ByteBuffer(string: $0) }, headers: headers)
    }

    private static func records(_ codec: Compression) -> [Record] {
        (0..<count).map { record($0, withLarge: codec != .none) }
    }

    @Test(
        arguments: Compression.allCases.flatMap { codec in
            ["kafka-python", "librdkafka"].map { ("\($0)-\(codec.name)", codec) }
        } + [
            ("kafka-python-snappy-raw", .snappy), ("kafka-python-transactional", .zstd),
            ("librdkafka-idempotent", .lz4),
        ])
    func batchesOfOtherImplementationsAreRead(name: String, codec: Compression) throws {
        let path = Self.directory.appending(path: "\(name).batch")
        let batch = ByteBuffer(bytes: try Data(contentsOf: path))
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 20)
        let header = try #require(headers.first)
        #expect(headers.count == 1)
        #expect(header.compression == codec)
        #expect(header.recordCount == 50)
        switch name {
        case "kafka-python-transactional":
            #expect(header.isTransactional)
            #expect(header.producerID == 77)
            #expect(header.producerEpoch == 2)
            #expect(header.baseSequence == 5)
        case "librdkafka-idempotent":
            #expect(header.producerID >= 0)
            #expect(header.baseSequence == 0)
        default:
            #expect(header.producerID == -1)
        }
        #expect(try RecordsTests.records(batch) == Self.records(codec))
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment["MILLRACE_CROSS_CHECK"] != nil))
    func batchesAreWrittenForOtherImplementations() throws {
        func write(_ batch: ByteBuffer, _ name: String) throws {
            let path = Self.directory.appending(path: "millrace-\(name).batch")
            try Data(batch.readableBytesView).write(to: path)
        }
        func batch(_ codec: Compression, isTransactional: Bool = false) -> ByteBuffer {
            var builder = RecordBatchBuilder(isTransactional: isTransactional)
            if isTransactional {
                builder.producerID = 77
                builder.producerEpoch = 2
                builder.baseSequence = 5
            }
            for record in Self.records(codec) {
                builder.append(
                    key: record.key, value: record.value, headers: record.headers,
                    timestamp: record.timestamp)
            }
            return builder.finish(leaderEpoch: 0, compression: codec)
        }
        for codec in Compression.allCases { try write(batch(codec), codec.name) }
        try write(batch(.zstd, isTransactional: true), "transactional")
        let rules = AppendRules(
            maxBatchBytes: 1 << 20, timestamps: .append(at: 1_800_000_000_000))
        try write(try rules.apply(to: batch(.lz4)).batches, "append-time")
        let control = TransactionMarker(.commit, coordinatorEpoch: 9).batch(
            producerID: 77, producerEpoch: 2, timestamp: 1)
        try write(control, "control")
    }
}
