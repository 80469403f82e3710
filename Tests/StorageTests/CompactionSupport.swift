import Essentials
import NIOCore
import Records
import Storage
import Testing

/// A record for a compacted log; `value: nil` deletes its key.
struct Keyed: Equatable {
    var key: String?
    var value: String?
    var timestamp: Int64 = 1_000
}

func keyedBatch(
    _ records: [Keyed], codec: Compression = .none, producer: (id: Int64, sequence: Int32)? = nil,
    isTransactional: Bool = false
) -> ByteBuffer {
    var builder = RecordBatchBuilder(isTransactional: isTransactional)
    if let producer {
        builder.producerID = producer.id
        builder.producerEpoch = 0
        builder.baseSequence = producer.sequence
    }
    for record in records {
        builder.append(
            key: record.key.map { ByteBuffer(string: $0) },
            value: record.value.map { ByteBuffer(string: $0) }, timestamp: record.timestamp)
    }
    return builder.finish(compression: codec)
}

/// A transaction's end, as a coordinator writes it.
func markerBatch(_ producer: Int64, commits: Bool, timestamp: Int64 = 1_000) -> ByteBuffer {
    var builder = RecordBatchBuilder(isControl: true, isTransactional: true)
    builder.producerID = producer
    builder.producerEpoch = 0
    var key = ByteBuffer()
    key.writeInteger(Int16(0))
    key.writeInteger(Int16(commits ? 1 : 0))
    var value = ByteBuffer()
    value.writeInteger(Int16(0))
    value.writeInteger(Int32(0))
    builder.append(key: key, value: value, timestamp: timestamp)
    return builder.finish()
}

/// A batch in a log, with the records in it.
struct StoredBatch {
    var header: RecordBatchHeader
    var records: [Record]
}

extension Log {
    @discardableResult
    func append(batch: ByteBuffer, epoch: LeaderEpoch = 0) throws -> Range<Offset> {
        try appendAsLeader(
            batch, headers: try RecordBatches.headers(of: batch), leaderEpoch: epoch)
    }

    @discardableResult
    func put(_ records: Keyed..., codec: Compression = .none, epoch: LeaderEpoch = 0) throws
        -> Range<Offset>
    {
        try append(batch: keyedBatch(records, codec: codec), epoch: epoch)
    }

    /// Every batch from the log start on.
    func batches(maxBytes: Int = 1 << 20) throws -> [StoredBatch] {
        var found: [StoredBatch] = []
        var offset = logStartOffset
        while offset < logEndOffset {
            var bytes = try read(from: offset, below: logEndOffset, maxBytes: maxBytes)
            for header in try RecordBatches.headers(of: bytes) {
                let slice = bytes.readSlice(length: header.totalSize)
                let batch = try #require(slice)
                var reader = RecordReader(batch, includesControlBatches: true)
                var records: [Record] = []
                while let record = try reader.next() { records.append(record) }
                found.append(StoredBatch(header: header, records: records))
                offset = header.nextOffset
            }
        }
        return found
    }

    /// What users see: each record's offset, key and value.
    func keyed() throws -> [Offset: Keyed] {
        var found: [Offset: Keyed] = [:]
        for batch in try batches() where !batch.header.isControl {
            for record in batch.records {
                found[record.offset] = Keyed(
                    key: record.key.map { String(buffer: $0) },
                    value: record.value.map { String(buffer: $0) }, timestamp: record.timestamp)
            }
        }
        return found
    }

    /// What a broker does with a log from time to time.
    ///
    /// - Parameter between: called between the steps.
    @discardableResult
    func compact(
        _ policy: CompactionPolicy = CompactionPolicy(), now: Int64 = 10_000, memory: Int = 1 << 20,
        below limit: Offset? = nil, committedEnd: Offset? = nil,
        between: () throws -> Void = {}
    ) throws -> CompactionSummary? {
        let survey = compactionSurvey(
            below: limit ?? durableOffset, committedEnd: committedEnd)
        var options = CompactionOptions(now: now)
        options.memory = memory
        var compaction = try LogCompaction(survey, policy: policy, options: options)
        try between()
        guard try compaction.prepare() else { return nil }
        try between()
        while let segment = try compaction.next() {
            try between()
            let retired = try install(segment)
            try between()
            try segment.settle()
            try between()
            try retired?.remove()
            if retired == nil { return nil }
        }
        try between()
        guard try compaction.finish() else { return nil }
        compacted(to: compaction.endOffset, survey)
        return compaction.summary
    }
}

/// Every key's last value, without those that were deleted.
func table(_ records: [Offset: Keyed]) -> [String: String] {
    var table: [String: String] = [:]
    for (_, record) in records.sorted(by: { $0.key < $1.key }) {
        if let key = record.key { table[key] = record.value }
    }
    return table
}
