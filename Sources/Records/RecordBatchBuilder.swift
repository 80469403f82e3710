package import Essentials
package import NIOCore

/// Builds one record batch in place: each record is encoded once, where it stays.
///
/// Compression comes last, over all records at once.
package struct RecordBatchBuilder: Sendable {
    private let givenTimestamp: Int64?
    private let attributes: UInt16
    package var producerID: Int64 = -1
    package var producerEpoch: Int16 = -1
    package var baseSequence: Int32 = -1

    /// Room for the header, then the records so far.
    private var buffer: ByteBuffer
    private var baseTimestamp: Int64
    private var maxTimestamp: Int64 = -1
    /// The records so far.
    package private(set) var recordCount = 0

    /// The size of the batch with the records so far.
    package var byteCount: Int { buffer.readableBytes }
    package var isEmpty: Bool { recordCount == 0 }

    /// An empty batch.
    ///
    /// - Parameters:
    ///   - timestamp: what the records' timestamps are stored relative to; the first record's
    ///     unless given.
    ///   - capacity: the bytes to make room for at once.
    package init(
        timestamp: Int64? = nil, isControl: Bool = false, isTransactional: Bool = false,
        capacity: Int = 512
    ) {
        givenTimestamp = timestamp
        baseTimestamp = timestamp ?? -1
        var attributes: UInt16 = 0
        if isControl { attributes |= RecordBatchHeader.Attribute.control }
        if isTransactional { attributes |= RecordBatchHeader.Attribute.transactional }
        self.attributes = attributes
        buffer = Self.freshBuffer(capacity: capacity)
    }

    /// The most bytes that a record of this content can take in a batch.
    package static func maxRecordSize(
        keyBytes: Int, valueBytes: Int, headers: [RecordHeader] = []
    ) -> Int {
        // Lengths, deltas and counts at their longest.
        headers.reduce(5 + 1 + 10 + 5 + 5 + keyBytes + 5 + valueBytes + 5) { size, header in
            size + 5 + header.name.utf8.count + 5 + (header.value?.readableBytes ?? 0)
        }
    }

    /// Adds a record.
    package mutating func append(
        key: ByteBuffer?, value: ByteBuffer?, headers: [RecordHeader] = [], timestamp: Int64
    ) {
        withOptionalBytes(key) { key in
            withOptionalBytes(value) { value in
                appendBytes(key: key, value: value, headers: headers, timestamp: timestamp)
            }
        }
    }

    /// Adds a record.
    @_disfavoredOverload
    package mutating func append(
        key: [UInt8]?, value: [UInt8]?, headers: [RecordHeader] = [], timestamp: Int64
    ) {
        withOptionalBytes(key) { key in
            withOptionalBytes(value) { value in
                appendBytes(key: key, value: value, headers: headers, timestamp: timestamp)
            }
        }
    }

    /// Adds a record whose key and value are copied from where they lie.
    package mutating func appendBytes(
        key: UnsafeRawBufferPointer?, value: UnsafeRawBufferPointer?,
        headers: [RecordHeader] = [], timestamp: Int64
    ) {
        if recordCount == 0, givenTimestamp == nil { baseTimestamp = timestamp }
        maxTimestamp = max(maxTimestamp, timestamp)
        let timestampDelta = timestamp &- baseTimestamp
        let offsetDelta = Int64(recordCount)
        recordCount += 1

        let length =
            1 + Varint.size(timestampDelta) + Varint.size(offsetDelta) + Self.size(key)
            + Self.size(value) + Self.size(headers)
        let total = Varint.size(Int64(length)) + length
        invariant(
            buffer.readableBytes + total <= Int32.max, "a record batch grows past 2 GiB")
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: total) { bytes in
            var position = 0
            Varint.write(Int64(length), to: bytes, at: &position)
            bytes[position] = 0
            position += 1
            Varint.write(timestampDelta, to: bytes, at: &position)
            Varint.write(offsetDelta, to: bytes, at: &position)
            Self.write(key, to: bytes, at: &position)
            Self.write(value, to: bytes, at: &position)
            Varint.write(Int64(headers.count), to: bytes, at: &position)
            for header in headers {
                var name = header.name
                name.withUTF8 {
                    Self.write(UnsafeRawBufferPointer($0), to: bytes, at: &position)
                }
                withOptionalBytes(header.value) { Self.write($0, to: bytes, at: &position) }
            }
            return position
        }
    }

    /// The finished batch; the builder is empty afterwards.
    ///
    /// - Parameter compression: left out where it would not make the batch smaller.
    package mutating func finish(
        baseOffset: Offset = 0, leaderEpoch: LeaderEpoch = .none, compression: Compression = .none
    ) -> ByteBuffer {
        var header = RecordBatchHeader(
            attributes: attributes, recordCount: recordCount, baseTimestamp: baseTimestamp,
            maxTimestamp: maxTimestamp, baseOffset: baseOffset, leaderEpoch: leaderEpoch)
        header.producerID = producerID
        header.producerEpoch = producerEpoch
        header.baseSequence = baseSequence
        baseTimestamp = givenTimestamp ?? -1
        maxTimestamp = -1
        recordCount = 0

        var batch = buffer
        // Without memory until the next record, so that `batch` is the only owner: nothing is copied.
        buffer = Self.freshBuffer(capacity: RecordBatchHeader.size)
        header.seal(&batch)
        return RecordBatches.compressing(batch, with: compression)
    }

    private static func freshBuffer(capacity: Int) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.reserveCapacity(capacity)
        buffer.writeRepeatingByte(0, count: RecordBatchHeader.size)
        return buffer
    }

    private static func size(_ bytes: UnsafeRawBufferPointer?) -> Int {
        guard let bytes else { return 1 }
        return Varint.size(Int64(bytes.count)) + bytes.count
    }

    private static func size(_ headers: [RecordHeader]) -> Int {
        headers.reduce(Varint.size(Int64(headers.count))) { size, header in
            let name = header.name.utf8.count
            return size + Varint.size(Int64(name)) + name
                + (header.value.map {
                    Varint.size(Int64($0.readableBytes)) + $0.readableBytes
                } ?? 1)
        }
    }

    @inline(__always)
    private static func write(
        _ source: UnsafeRawBufferPointer?, to bytes: UnsafeMutableRawBufferPointer,
        at position: inout Int
    ) {
        guard let source else { return Varint.write(-1, to: bytes, at: &position) }
        Varint.write(Int64(source.count), to: bytes, at: &position)
        UnsafeMutableRawBufferPointer(rebasing: bytes[position...]).copyMemory(from: source)
        position += source.count
    }
}

@inline(__always)
private func withOptionalBytes<T>(
    _ buffer: ByteBuffer?, _ body: (UnsafeRawBufferPointer?) -> T
) -> T {
    guard let buffer else { return body(nil) }
    return buffer.withUnsafeReadableBytes { body($0) }
}

@inline(__always)
private func withOptionalBytes<T>(
    _ array: [UInt8]?, _ body: (UnsafeRawBufferPointer?) -> T
) -> T {
    guard let array else { return body(nil) }
    return array.withUnsafeBytes { body($0) }
}
