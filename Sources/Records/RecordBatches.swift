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

    /// `batch`, a whole one and not compressed, with its records compressed; the batch as it is where
    /// that does not make it smaller.
    package static func compressing(_ batch: ByteBuffer, with codec: Compression) -> ByteBuffer {
        guard let header = try? RecordBatchHeader(batch, at: batch.readerIndex) else {
            return batch
        }
        return compressing(batch, header, with: codec)?.batch ?? batch
    }

    /// The same, with its header; `nil` where that does not make it smaller.
    static func compressing(
        _ batch: ByteBuffer, _ header: RecordBatchHeader, with codec: Compression
    ) -> (batch: ByteBuffer, header: RecordBatchHeader)? {
        let recordBytes = batch.readableBytes - RecordBatchHeader.size
        guard codec != .none, header.compression == .some(.none), recordBytes > 0,
            recordBytes <= Compression.maxDecompressedBytes
        else { return nil }
        return batch.withUnsafeReadableBytes { bytes in
            let records = UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.size...])
            let compressed = sealing(records, header, with: codec)
            return compressed.batch.readableBytes < bytes.count ? compressed : nil
        }
    }

    /// A batch of uncompressed `records`, with what `header` says but for the codec.
    static func sealing(
        _ records: UnsafeRawBufferPointer, _ header: RecordBatchHeader, with codec: Compression
    ) -> (batch: ByteBuffer, header: RecordBatchHeader) {
        var header = header
        header.attributes &= ~RecordBatchHeader.Attribute.compression
        header.attributes |= UInt16(codec.rawValue)
        var batch = ByteBuffer()
        batch.reserveCapacity(RecordBatchHeader.size + records.count)
        batch.writeRepeatingByte(0, count: RecordBatchHeader.size)
        codec.compress(records, into: &batch)
        header.seal(&batch)
        return (batch, header)
    }
}
