package import NIOCore

/// Checks on buffers that hold whole record batches, one after the other.
package enum RecordBatches {
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

    /// Checks all that a leader must know before it appends what a client sent.
    package static func validateForAppend(
        _ buffer: ByteBuffer, maxBatchBytes: Int
    ) throws(RecordError) -> [RecordBatchHeader] {
        try AppendRules(maxBatchBytes: maxBatchBytes).apply(to: buffer).headers
    }
}
