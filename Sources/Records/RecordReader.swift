package import Essentials
package import NIOCore

/// A name and a value that travel with a record.
package struct RecordHeader: Hashable, Sendable {
    package var name: String
    package var value: ByteBuffer?

    package init(name: String, value: ByteBuffer?) {
        self.name = name
        self.value = value
    }
}

/// One record; key, value and header values share the memory of the buffer they were read from.
package struct Record: Hashable, Sendable {
    package var offset: Offset
    /// Milliseconds since 1970, or -1 for none.
    package var timestamp: Int64
    package var key: ByteBuffer?
    package var value: ByteBuffer?
    package var headers: [RecordHeader]

    package init(
        offset: Offset, timestamp: Int64, key: ByteBuffer?, value: ByteBuffer?,
        headers: [RecordHeader] = []
    ) {
        self.offset = offset
        self.timestamp = timestamp
        self.key = key
        self.value = value
        self.headers = headers
    }
}

/// Reads the records of a buffer of whole batches, in order; compressed ones a batch at a time.
package struct RecordReader: Sendable {
    private let buffer: ByteBuffer
    private let includesControlBatches: Bool
    private let checksCRC: Bool
    private let maxDecompressedBytes: Int
    private let leftOut: AbortedRecords

    /// The batch that the last record came from.
    package private(set) var batch: RecordBatchHeader?
    /// The offset after the batches read so far, control batches included; `nil` before the first.
    package private(set) var nextOffset: Offset?

    /// Where the next batch starts, counted from the buffer's readable bytes.
    private var nextBatch = 0
    /// The current batch's records: part of `buffer`, or what was compressed there.
    private var records = ByteBuffer()
    /// Where the next record starts, counted from the readable bytes of `records`.
    private var position = 0
    /// Of the current batch, the records that are still to come.
    private var remainingRecords = 0

    /// - Parameters:
    ///   - includesControlBatches: whether their records, which users are not shown, are read too.
    ///   - maxDecompressedBytes: the most memory that one batch's records may take; a batch with
    ///     more ends in `decompressedTooLarge`.
    ///   - leftOut: records of aborted transactions, which are passed over like those of control batches.
    package init(
        _ buffer: ByteBuffer, includesControlBatches: Bool = false, checksCRC: Bool = true,
        maxDecompressedBytes: Int = Compression.maxDecompressedBytes,
        leavingOut leftOut: AbortedRecords = AbortedRecords()
    ) {
        self.leftOut = leftOut
        self.maxDecompressedBytes = maxDecompressedBytes
        self.buffer = buffer
        self.includesControlBatches = includesControlBatches
        self.checksCRC = checksCRC
    }

    /// The next record; `nil` after the last one.
    package mutating func next() throws(RecordError) -> Record? {
        while remainingRecords == 0 {
            guard nextBatch < buffer.readableBytes else { return nil }
            try enterBatch()
        }
        guard let batch else { return nil }
        let index = Int(batch.recordCount) - remainingRecords
        let start = position
        var headers: [RecordHeader] = []
        let (layout, end) = try records.withBytes {
            bytes throws(RecordError) -> (RecordLayout, Int) in
            var cursor = ByteCursor(bytes, from: start)
            let layout = try RecordLayout(&cursor, index: index)
            try layout.walkHeaders(&cursor, index: index) { name, value in
                headers.append(
                    RecordHeader(
                        name: String(decoding: bytes[name], as: UTF8.self), value: slice(value)))
            }
            return (layout, cursor.position)
        }
        guard (0...Int(batch.lastOffsetDelta)).contains(layout.offsetDelta) else {
            throw .invalidRecord(index: index, "its offset lies outside its batch")
        }
        remainingRecords -= 1
        position = end
        if remainingRecords == 0, position != records.readableBytes {
            throw .invalidHeader("bytes follow the last record")
        }
        let timestamp: Int64
        switch batch.timestampType {
        case .logAppendTime: timestamp = batch.maxTimestamp
        case .createTime: timestamp = batch.baseTimestamp &+ layout.timestampDelta
        }
        return Record(
            offset: batch.baseOffset + Int64(layout.offsetDelta), timestamp: timestamp,
            key: slice(layout.key), value: slice(layout.value), headers: headers)
    }

    private mutating func enterBatch() throws(RecordError) {
        let start = nextBatch
        let checksCRC = checksCRC
        let header = try buffer.withBytes { bytes throws(RecordError) in
            let header = try RecordBatchHeader(ofWholeBatch: bytes, at: start)
            if checksCRC {
                try header.checkCRC(UnsafeRawBufferPointer(rebasing: bytes[start...]))
            }
            return header
        }
        nextBatch = start + header.totalSize
        nextOffset = header.nextOffset
        guard includesControlBatches || !header.isControl, !leftOut.contains(header) else { return }
        let stored = buffer.getSlice(
            at: buffer.readerIndex + start + RecordBatchHeader.size,
            length: header.totalSize - RecordBatchHeader.size)
        guard let stored, let codec = header.compression else {
            throw .unsupportedCompression(
                UInt8(header.attributes & RecordBatchHeader.Attribute.compression))
        }
        if codec == .none || header.recordCount == 0 {
            records = stored
        } else {
            records = ByteBuffer()  // The last batch's memory is not needed while this one's grows.
            let limit = maxDecompressedBytes
            records = try stored.withBytes { bytes throws(RecordError) in
                try codec.decompress(bytes, limit: limit)
            }
        }
        batch = header
        position = 0
        remainingRecords = Int(header.recordCount)
    }

    private func slice(_ range: Range<Int>?) -> ByteBuffer? {
        guard let range else { return nil }
        return records.getSlice(at: records.readerIndex + range.lowerBound, length: range.count)
    }
}
