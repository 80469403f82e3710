package import NIOCore

/// What a leader demands of the batches that a client sent, and how it stores them.
///
/// Covered are lengths, checksums, every record's structure, counts, offset deltas that run from 0
/// without a gap, timestamps, and what only the cluster itself may write. Compressed records are
/// looked at as closely as others. Base offset and leader epoch may hold anything that parses, since
/// they are stamped afterwards.
package struct AppendRules: Sendable, Hashable {
    /// What is to become of the records' timestamps.
    package enum Timestamps: Sendable, Hashable {
        /// Kept; records outside the range are refused. -1, for none, is always kept.
        case create(ClosedRange<Int64>)
        /// Replaced by this time, that of the append.
        case append(at: Int64)
    }

    /// The largest batch, as it was sent and as it is stored.
    package var maxBatchBytes: Int
    /// The most bytes of records in the compressed batches of one buffer, once decompressed.
    package var maxDecompressedBytes: Int
    /// The codec to store batches in; `nil` leaves each as its producer chose.
    package var compression: Compression?
    package var timestamps: Timestamps
    /// Whether every record has to have a key, as compaction demands.
    package var needsKeys: Bool

    package init(
        maxBatchBytes: Int, maxDecompressedBytes: Int = Compression.maxDecompressedBytes,
        compression: Compression? = nil, timestamps: Timestamps = .create(0...Int64.max),
        needsKeys: Bool = false
    ) {
        self.maxBatchBytes = maxBatchBytes
        self.maxDecompressedBytes = maxDecompressedBytes
        self.compression = compression
        self.timestamps = timestamps
        self.needsKeys = needsKeys
    }

    /// Checks every batch, and returns what to store: `buffer` itself unless the rules change it.
    package func apply(
        to buffer: ByteBuffer
    ) throws(RecordError) -> (batches: ByteBuffer, headers: [RecordBatchHeader]) {
        var headers: [RecordBatchHeader] = []
        // From the first batch on that is not stored as it came.
        var stored: ByteBuffer?
        var index = buffer.readerIndex
        var decompressedBytes = 0
        while index < buffer.writerIndex {
            let header = try RecordBatchHeader(buffer, at: index)
            guard header.totalSize <= maxBatchBytes else {
                throw .tooLarge(bytes: header.totalSize, limit: maxBatchBytes)
            }
            guard var batch = buffer.getSlice(at: index, length: header.totalSize) else {
                throw .incomplete(
                    needed: header.totalSize, available: buffer.writerIndex - index)
            }
            var decompressed: ByteBuffer?
            try batch.withBytes { bytes throws(RecordError) in
                try header.checkCRC(bytes)
                try checkClientFields(header)
                let records = UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.size...])
                guard let codec = header.compression, codec != .none else {
                    return try checkRecords(of: header, in: records)
                }
                let output = try decompress(records, codec, after: decompressedBytes)
                decompressedBytes += output.readableBytes
                try output.withBytes { records throws(RecordError) in
                    try checkRecords(of: header, in: records)
                }
                decompressed = output
            }
            if let other = try rewritten(batch, header, decompressed: decompressed) {
                if stored == nil {
                    stored = buffer.getSlice(
                        at: buffer.readerIndex, length: index - buffer.readerIndex)
                }
                stored?.writeImmutableBuffer(other.batch)
                headers.append(other.header)
            } else {
                stored?.writeBuffer(&batch)
                headers.append(header)
            }
            index += header.totalSize
        }
        guard !headers.isEmpty else { throw .noBatches }
        return (stored ?? buffer, headers)
    }

    private func decompress(
        _ records: UnsafeRawBufferPointer, _ codec: Compression, after earlierBytes: Int
    ) throws(RecordError) -> ByteBuffer {
        do throws(RecordError) {
            return try codec.decompress(records, limit: maxDecompressedBytes - earlierBytes)
        } catch {
            guard case .decompressedTooLarge = error else { throw error }
            throw .decompressedTooLarge(limit: maxDecompressedBytes)
        }
    }

    // MARK: Checks

    private func checkClientFields(_ header: RecordBatchHeader) throws(RecordError) {
        typealias Attribute = RecordBatchHeader.Attribute
        guard !header.isControl else { throw .controlBatchRefused }
        guard header.attributes & ~Attribute.known == 0 else {
            throw .invalidHeader("attributes that nobody has defined")
        }
        guard header.attributes & Attribute.deleteHorizon == 0 else {
            throw .invalidHeader("producers may not set a delete horizon")
        }
        guard header.timestampType == .createTime else {
            throw .invalidTimestamp("producers may not claim log append time")
        }
        guard header.recordCount > 0 else { throw .invalidHeader("no records") }
        guard Int64(header.recordCount) == Int64(header.lastOffsetDelta) + 1 else {
            throw .invalidHeader("record count and last offset delta differ")
        }
        guard header.baseTimestamp >= -1, header.maxTimestamp >= -1 else {
            throw .invalidTimestamp("a timestamp is negative")
        }
        guard header.producerID >= -1 else { throw .invalidHeader("negative producer id") }
        // Without a producer id, epoch and sequence mean nothing, and clients differ in what they
        // write there.
        if header.producerID >= 0 {
            guard header.producerEpoch >= 0, header.baseSequence >= 0 else {
                throw .invalidHeader("a producer id without an epoch and a sequence")
            }
        } else if header.isTransactional {
            throw .invalidHeader("transactional, but without a producer id")
        }
    }

    private func checkRecords(
        of header: RecordBatchHeader, in records: UnsafeRawBufferPointer
    ) throws(RecordError) {
        let accepted: ClosedRange<Int64> =
            switch timestamps {
            case .create(let range): range
            case .append: 0...Int64.max
            }
        var cursor = ByteCursor(records)
        var maxTimestamp = Int64.min
        for index in 0..<Int(header.recordCount) {
            let record = try RecordLayout(&cursor, index: index)
            guard record.offsetDelta == index else {
                throw .invalidRecord(index: index, "its offset delta is not its place in the batch")
            }
            guard record.key != nil || !needsKeys else {
                throw .invalidRecord(
                    index: index,
                    "it has no key, and the topic is compacted, which goes by keys")
            }
            let (timestamp, overflow) =
                header.baseTimestamp.addingReportingOverflow(record.timestampDelta)
            guard !overflow, timestamp >= -1 else {
                throw .invalidTimestamp("record \(index) has no valid timestamp")
            }
            guard timestamp == -1 || accepted.contains(timestamp) else {
                throw .invalidTimestamp(
                    "record \(index) is of \(timestamp), and the topic takes \(accepted.lowerBound)"
                        + " to \(accepted.upperBound)")
            }
            maxTimestamp = max(maxTimestamp, timestamp)
            try record.walkHeaders(&cursor, index: index) { _, _ in }
        }
        guard cursor.remaining == 0 else {
            throw .invalidHeader("bytes follow the last record")
        }
        // Searches by time rely on it.
        guard maxTimestamp == header.maxTimestamp else {
            throw .invalidTimestamp("the maximum timestamp is not the records' largest")
        }
    }

    // MARK: Changes

    /// The batch as it is to be stored; `nil` when that is how it came.
    private func rewritten(
        _ batch: ByteBuffer, _ header: RecordBatchHeader, decompressed: ByteBuffer?
    ) throws(RecordError) -> (batch: ByteBuffer, header: RecordBatchHeader)? {
        var header = header
        var other: ByteBuffer?
        if let compression, compression != header.compression {
            let changed =
                decompressed?.withUnsafeReadableBytes {
                    RecordBatches.sealing($0, header, with: compression)
                } ?? RecordBatches.compressing(batch, header, with: compression)
            if let changed { (other, header) = changed }
        }
        if case .append(let now) = timestamps {
            header.attributes |= RecordBatchHeader.Attribute.logAppendTime
            header.maxTimestamp = now
            var stamped = other ?? batch
            header.seal(&stamped)
            other = stamped
        }
        guard let other else { return nil }
        guard header.totalSize <= maxBatchBytes else {
            throw .tooLarge(bytes: header.totalSize, limit: maxBatchBytes)
        }
        return (other, header)
    }
}
