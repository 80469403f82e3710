package import Essentials
package import NIOCore

/// What the timestamps of a batch's records mean.
package enum TimestampType: Sendable {
    /// Each record has the time that its producer gave it.
    case createTime
    /// All records have the time at which the leader appended the batch, its `maxTimestamp`.
    case logAppendTime
}

/// The fixed part at the start of a record batch, version 2 (KIP-98); integers are big-endian.
///
/// The bytes, in order: base offset (8), batch length (4), leader epoch (4), magic (1), CRC-32C of
/// all that follows it (4), attributes (2), last offset delta (4), base timestamp (8), maximum
/// timestamp (8), producer id (8), producer epoch (2), base sequence (4), record count (4).
///
/// Base offset and leader epoch lie outside the checksum, so that the leader can stamp them.
package struct RecordBatchHeader: Hashable, Sendable {
    /// The header's bytes.
    package static let size = 61
    /// The bytes before `batchLength` starts to count.
    package static let lengthOverhead = 12

    package var baseOffset: Offset
    /// The bytes after the length field itself.
    package var batchLength: Int32
    package var leaderEpoch: LeaderEpoch
    package var crc: UInt32
    package var attributes: UInt16
    package var lastOffsetDelta: Int32
    /// What the records' timestamp deltas add to; milliseconds since 1970, or -1 for none.
    package var baseTimestamp: Int64
    package var maxTimestamp: Int64
    /// -1 unless the producer is idempotent.
    package var producerID: Int64
    package var producerEpoch: Int16
    package var baseSequence: Int32
    package var recordCount: Int32

    enum Position {
        static let batchLength = 8
        static let leaderEpoch = 12
        static let magic = 16
        static let crc = 17
        static let attributes = 21
        static let lastOffsetDelta = 23
        static let baseTimestamp = 27
        static let maxTimestamp = 35
        static let producerID = 43
        static let producerEpoch = 51
        static let baseSequence = 53
        static let recordCount = 57
    }

    enum Attribute {
        static let compression: UInt16 = 0b111
        static let logAppendTime: UInt16 = 1 << 3
        static let transactional: UInt16 = 1 << 4
        static let control: UInt16 = 1 << 5
        /// The base timestamp is the time at which tombstones may go (KIP-534).
        static let deleteHorizon: UInt16 = 1 << 6
        static let known: UInt16 = 0b111_1111
    }

    /// The batch's bytes, this header included.
    package var totalSize: Int { Int(batchLength) + Self.lengthOverhead }
    package var lastOffset: Offset { baseOffset + Int64(lastOffsetDelta) }
    /// The offset after the batch.
    package var nextOffset: Offset { baseOffset + (Int64(lastOffsetDelta) + 1) }
    package var isControl: Bool { attributes & Attribute.control != 0 }
    package var isTransactional: Bool { attributes & Attribute.transactional != 0 }

    /// `nil` for a codec that nobody has defined; the parser lets none through.
    package var compression: Compression? {
        Compression(rawValue: UInt8(attributes & Attribute.compression))
    }

    package var timestampType: TimestampType {
        attributes & Attribute.logAppendTime == 0 ? .createTime : .logAppendTime
    }

    init(
        attributes: UInt16, recordCount: Int, baseTimestamp: Int64, maxTimestamp: Int64,
        baseOffset: Offset, leaderEpoch: LeaderEpoch
    ) {
        self.baseOffset = baseOffset
        self.leaderEpoch = leaderEpoch
        self.attributes = attributes
        self.baseTimestamp = baseTimestamp
        self.maxTimestamp = maxTimestamp
        batchLength = 0
        crc = 0
        lastOffsetDelta = Int32(max(0, recordCount - 1))
        producerID = -1
        producerEpoch = -1
        baseSequence = -1
        self.recordCount = Int32(recordCount)
    }

    /// Parses the header of the batch at `index` of `buffer`, all of which must be there.
    ///
    /// The fields are within their bounds afterwards; the checksum has not been looked at.
    package init(_ buffer: ByteBuffer, at index: Int) throws(RecordError) {
        let start = index - buffer.readerIndex
        self = try buffer.withBytes { bytes throws(RecordError) in
            guard start >= 0, start <= bytes.count else {
                throw .incomplete(needed: Self.size, available: 0)
            }
            return try RecordBatchHeader(ofWholeBatch: bytes, at: start)
        }
    }

    /// Parses the header of the batch that starts at `start`, all of which must be there.
    init(ofWholeBatch bytes: UnsafeRawBufferPointer, at start: Int) throws(RecordError) {
        let available = bytes.count - start
        guard available >= Self.size else {
            throw .incomplete(needed: Self.size, available: available)
        }
        try self.init(parsing: UnsafeRawBufferPointer(rebasing: bytes[start...]))
        guard totalSize <= available else {
            throw .incomplete(needed: totalSize, available: available)
        }
    }

    /// Parses a header from its own bytes; the batch behind it may be missing or cut.
    package init(parsing bytes: UnsafeRawBufferPointer) throws(RecordError) {
        guard bytes.count >= Self.size else {
            throw .incomplete(needed: Self.size, available: bytes.count)
        }
        // Before anything else: in other formats the other fields mean something else.
        let magic = bytes.integer(at: Position.magic, as: Int8.self)
        guard magic == 2 else { throw .unsupportedMagic(magic) }
        batchLength = bytes.integer(at: Position.batchLength)
        guard Int(batchLength) >= Self.size - Self.lengthOverhead,
            batchLength <= Int32.max - Int32(Self.lengthOverhead)
        else {
            throw .invalidLength(batchLength)
        }
        baseOffset = Offset(bytes.integer(at: 0))
        leaderEpoch = LeaderEpoch(bytes.integer(at: Position.leaderEpoch))
        crc = bytes.integer(at: Position.crc)
        attributes = bytes.integer(at: Position.attributes)
        lastOffsetDelta = bytes.integer(at: Position.lastOffsetDelta)
        baseTimestamp = bytes.integer(at: Position.baseTimestamp)
        maxTimestamp = bytes.integer(at: Position.maxTimestamp)
        producerID = bytes.integer(at: Position.producerID)
        producerEpoch = bytes.integer(at: Position.producerEpoch)
        baseSequence = bytes.integer(at: Position.baseSequence)
        recordCount = bytes.integer(at: Position.recordCount)
        try checkBounds()
    }

    private func checkBounds() throws(RecordError) {
        guard baseOffset >= 0 else { throw .invalidHeader("negative base offset") }
        guard lastOffsetDelta >= 0 else { throw .invalidHeader("negative last offset delta") }
        guard baseOffset.rawValue < .max - Int64(Int32.max) else {
            throw .invalidHeader("base offset beyond the largest there can be")
        }
        guard leaderEpoch >= .none else { throw .invalidHeader("negative leader epoch") }
        // Fewer than offsets after compaction, but never more.
        guard recordCount >= 0, Int64(recordCount) <= Int64(lastOffsetDelta) + 1 else {
            throw .invalidHeader("record count does not fit the offsets")
        }
        guard compression != nil else {
            throw .unsupportedCompression(UInt8(attributes & Attribute.compression))
        }
    }

    /// Writes this header at the start of `batch`, with the length and checksum that it has now.
    ///
    /// The first 61 readable bytes are written over.
    mutating func seal(_ batch: inout ByteBuffer) {
        let start = batch.readerIndex
        invariant(
            (Self.size...Int(Int32.max)).contains(batch.readableBytes),
            "a record batch of \(batch.readableBytes) bytes")
        batchLength = Int32(batch.readableBytes - Self.lengthOverhead)
        batch.setInteger(baseOffset.rawValue, at: start)
        batch.setInteger(batchLength, at: start + Position.batchLength)
        batch.setInteger(leaderEpoch.rawValue, at: start + Position.leaderEpoch)
        batch.setInteger(Int8(2), at: start + Position.magic)
        batch.setInteger(attributes, at: start + Position.attributes)
        batch.setInteger(lastOffsetDelta, at: start + Position.lastOffsetDelta)
        batch.setInteger(baseTimestamp, at: start + Position.baseTimestamp)
        batch.setInteger(maxTimestamp, at: start + Position.maxTimestamp)
        batch.setInteger(producerID, at: start + Position.producerID)
        batch.setInteger(producerEpoch, at: start + Position.producerEpoch)
        batch.setInteger(baseSequence, at: start + Position.baseSequence)
        batch.setInteger(recordCount, at: start + Position.recordCount)
        crc = batch.withUnsafeReadableBytes {
            CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[Position.attributes...]))
        }
        batch.setInteger(crc, at: start + Position.crc)
    }

    /// Writes the two fields that the leader stamps, into the batch at `index` of `buffer`.
    package static func stamp(
        _ buffer: inout ByteBuffer, at index: Int, baseOffset: Offset, leaderEpoch: LeaderEpoch
    ) {
        buffer.setInteger(baseOffset.rawValue, at: index)
        buffer.setInteger(leaderEpoch.rawValue, at: index + Position.leaderEpoch)
    }

    /// Throws unless the bytes of the batch, `bytes`, are those its checksum was made of.
    package func checkCRC(_ bytes: UnsafeRawBufferPointer) throws(RecordError) {
        guard bytes.count >= totalSize else {
            throw .incomplete(needed: totalSize, available: bytes.count)
        }
        let computed = CRC32C.checksum(
            UnsafeRawBufferPointer(rebasing: bytes[Position.attributes..<totalSize]))
        guard computed == crc else { throw .checksumMismatch(stored: crc, computed: computed) }
    }
}

extension UnsafeRawBufferPointer {
    /// The big-endian integer at `index`; the caller has checked that it is there.
    @inline(__always)
    func integer<T: FixedWidthInteger>(at index: Int, as type: T.Type = T.self) -> T {
        T(bigEndian: loadUnaligned(fromByteOffset: index, as: T.self))
    }
}

extension ByteBuffer {
    /// `withUnsafeReadableBytes` with a typed error.
    @inline(__always)
    func withBytes<T>(
        _ body: (UnsafeRawBufferPointer) throws(RecordError) -> T
    ) throws(RecordError) -> T {
        try withUnsafeReadableBytes { bytes -> Result<T, RecordError> in
            do throws(RecordError) {
                return .success(try body(bytes))
            } catch {
                return .failure(error)
            }
        }.get()
    }
}
