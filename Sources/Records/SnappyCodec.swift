internal import CSnappy
internal import Essentials
internal import NIOCore

/// Snappy in the framing of the xerial library, which Kafka's clients write, or one raw block, which
/// some others do; both are read.
///
/// The framing is a header of 16 bytes, then chunks: a length (4 bytes, big-endian) and so many
/// bytes of a raw block. A header may come again between two chunks, where streams were joined.
enum SnappyCodec {
    /// 0x82, "SNAPPY", 0.
    private static let magic: [UInt8] = [0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0]
    private static let headerSize = 16
    /// The uncompressed bytes of a chunk, as Kafka's clients have it.
    private static let chunkBytes = 32 << 10

    static func compress(_ bytes: UnsafeRawBufferPointer, into output: inout ByteBuffer) {
        output.writeBytes(magic)
        output.writeInteger(Int32(1))  // version
        output.writeInteger(Int32(1))  // the oldest version that can read this
        var start = 0
        while start < bytes.count {
            let chunk = UnsafeRawBufferPointer(
                rebasing: bytes[start..<min(start + chunkBytes, bytes.count)])
            start += chunk.count
            let lengthIndex = output.writerIndex
            output.writeInteger(Int32(0))
            var size = snappy_max_compressed_length(chunk.count)
            var status = SNAPPY_OK
            output.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { free in
                status = snappy_compress(
                    chunk.bindMemory(to: CChar.self).baseAddress, chunk.count,
                    free.bindMemory(to: CChar.self).baseAddress, &size)
                return size
            }
            invariant(status == SNAPPY_OK, "snappy can't compress \(chunk.count) bytes: \(status)")
            output.setInteger(Int32(size), at: lengthIndex)
        }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer, into output: inout BoundedOutput
    ) throws(RecordError) {
        guard isHeader(bytes, at: 0) else { return try decompressBlock(bytes, into: &output) }
        var position = 0
        while position < bytes.count {
            if isHeader(bytes, at: position) {
                guard bytes.count - position >= headerSize else {
                    throw .invalidCompression(.snappy, "its header is cut off")
                }
                let required: Int32 = bytes.integer(at: position + 12)
                guard required == 1 else {
                    throw .invalidCompression(.snappy, "its framing has version \(required)")
                }
                position += headerSize
                continue
            }
            guard bytes.count - position >= 4 else {
                throw .invalidCompression(.snappy, "a chunk's length is cut off")
            }
            let length = Int(bytes.integer(at: position, as: Int32.self))
            position += 4
            guard length > 0, length <= bytes.count - position else {
                throw .invalidCompression(.snappy, "a chunk's length does not fit")
            }
            let block = UnsafeRawBufferPointer(rebasing: bytes[position..<(position + length)])
            try decompressBlock(block, into: &output)
            position += length
        }
    }

    private static func isHeader(_ bytes: UnsafeRawBufferPointer, at position: Int) -> Bool {
        bytes.count - position >= magic.count
            && bytes[position..<(position + magic.count)].elementsEqual(magic)
    }

    private static func decompressBlock(
        _ block: UnsafeRawBufferPointer, into output: inout BoundedOutput
    ) throws(RecordError) {
        let input = block.bindMemory(to: CChar.self).baseAddress
        var size = 0
        guard snappy_uncompressed_length(input, block.count, &size) == SNAPPY_OK else {
            throw .invalidCompression(.snappy, "a block does not start with its size")
        }
        guard size <= output.remaining else { throw .decompressedTooLarge(limit: output.limit) }
        // A copy of three bytes makes 64 at most, so a size beyond that is a lie.
        guard size <= block.count * 22 else {
            throw .invalidCompression(.snappy, "a block claims more than can be in it")
        }
        try output.write(room: size) { free throws(RecordError) in
            var written = size
            let status = snappy_uncompress(
                input, block.count, free.bindMemory(to: CChar.self).baseAddress, &written)
            guard status == SNAPPY_OK, written == size else {
                throw .invalidCompression(.snappy, "a block is damaged")
            }
            return written
        }
    }
}
