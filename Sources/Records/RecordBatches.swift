package import NIOCore

/// Checks on buffers that hold whole record batches, one after the other.
package enum RecordBatches {
    /// Checks all that a leader must know before it appends what a client sent.
    ///
    /// Covered are lengths, checksums, every record's structure, counts, offset deltas that run
    /// from 0 without a gap, and timestamps. Base offset and leader epoch may hold anything that
    /// parses, since they are stamped afterwards.
    package static func validateForAppend(
        _ buffer: ByteBuffer, maxBatchBytes: Int
    ) throws(RecordError) -> [RecordBatchHeader] {
        try buffer.withBytes { bytes throws(RecordError) in
            var headers: [RecordBatchHeader] = []
            var start = 0
            while start < bytes.count {
                let header = try RecordBatchHeader(ofWholeBatch: bytes, at: start)
                guard header.totalSize <= maxBatchBytes else {
                    throw .tooLarge(bytes: header.totalSize, limit: maxBatchBytes)
                }
                let batch = UnsafeRawBufferPointer(
                    rebasing: bytes[start..<(start + header.totalSize)])
                try header.checkCRC(batch)
                try checkClientFields(header)
                try checkRecords(of: header, in: batch)
                headers.append(header)
                start += header.totalSize
            }
            guard !headers.isEmpty else { throw .noBatches }
            return headers
        }
    }

    /// The headers of the whole batches that `buffer` consists of, checksums checked.
    package static func headers(of buffer: ByteBuffer) throws(RecordError) -> [RecordBatchHeader] {
        try buffer.withBytes { bytes throws(RecordError) in
            var headers: [RecordBatchHeader] = []
            var start = 0
            while start < bytes.count {
                let header = try RecordBatchHeader(ofWholeBatch: bytes, at: start)
                try header.checkCRC(UnsafeRawBufferPointer(rebasing: bytes[start...]))
                headers.append(header)
                start += header.totalSize
            }
            return headers
        }
    }

    private static func checkClientFields(_ header: RecordBatchHeader) throws(RecordError) {
        guard !header.isControl else { throw .controlBatchRefused }
        guard header.compression == .some(.none) else {
            throw .unsupportedCompression(UInt8(header.attributes & 0b111))
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
        if header.producerID >= 0 {
            guard header.producerEpoch >= 0, header.baseSequence >= 0 else {
                throw .invalidHeader("a producer id without an epoch and a sequence")
            }
        } else if header.isTransactional {
            throw .invalidHeader("transactional, but without a producer id")
        }
    }

    private static func checkRecords(
        of header: RecordBatchHeader, in batch: UnsafeRawBufferPointer
    ) throws(RecordError) {
        var cursor = ByteCursor(batch, from: RecordBatchHeader.size)
        var maxTimestamp = Int64.min
        for index in 0..<Int(header.recordCount) {
            let record = try RecordLayout(&cursor, index: index)
            guard record.offsetDelta == index else {
                throw .invalidRecord(index: index, "its offset delta is not its place in the batch")
            }
            let (timestamp, overflow) =
                header.baseTimestamp.addingReportingOverflow(record.timestampDelta)
            guard !overflow, timestamp >= -1 else {
                throw .invalidTimestamp("record \(index) has no valid timestamp")
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
}
