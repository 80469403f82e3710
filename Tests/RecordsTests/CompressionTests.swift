import Essentials
import NIOCore
import Records
import Testing

private let codecs = Compression.allCases.filter { $0 != .none }

private func compressed(_ bytes: ByteBuffer, _ codec: Compression) -> ByteBuffer {
    var output = ByteBuffer()
    bytes.withUnsafeReadableBytes { codec.compress($0, into: &output) }
    return output
}

private func decompressed(
    _ bytes: ByteBuffer, _ codec: Compression, limit: Int = 1 << 20
) throws -> ByteBuffer {
    try bytes.withUnsafeReadableBytes { try codec.decompress($0, limit: limit) }
}

private func error(
    _ bytes: ByteBuffer, _ codec: Compression, limit: Int = 1 << 20
) -> RecordError? {
    do {
        _ = try decompressed(bytes, codec, limit: limit)
        return nil
    } catch {
        return error as? RecordError
    }
}

/// Bytes that compress somewhat.
private func sample(_ count: Int, seed: UInt64) -> ByteBuffer {
    var generator = SeededGenerator(seed: seed)
    var buffer = ByteBuffer()
    while buffer.readableBytes < count {
        buffer.writeString("word\(Int.random(in: 0..<200, using: &generator)) ")
    }
    return buffer.getSlice(at: 0, length: count) ?? buffer
}

@Test(arguments: codecs) func whatIsCompressedComesBack(codec: Compression) throws {
    for count in [0, 1, 100, 4_095, 4_096, 32_768, 32_769, 65_536, 300_000, 1 << 20] {
        let bytes = sample(count, seed: UInt64(count))
        #expect(try decompressed(compressed(bytes, codec), codec) == bytes, "\(count) bytes")
    }
    // Random bytes don't become smaller, and are not lost for that.
    var generator = SeededGenerator(seed: 3)
    let noise = ByteBuffer(
        bytes: (0..<100_000).map { _ in UInt8.random(in: 0...255, using: &generator) })
    #expect(try decompressed(compressed(noise, codec), codec) == noise)
}

@Test(arguments: codecs) func theLimitIsMetExactly(codec: Compression) {
    for count in [1, 5_000, 200_000] {
        let bytes = compressed(sample(count, seed: 1), codec)
        #expect(error(bytes, codec, limit: count) == nil)
        #expect(error(bytes, codec, limit: count - 1) == .decompressedTooLarge(limit: count - 1))
    }
}

@Test(arguments: codecs) func aBombIsRefusedAtTheLimit(codec: Compression) {
    let zeros = ByteBuffer(repeating: 0, count: 64 << 20)
    let bomb = compressed(zeros, codec)
    #expect(bomb.readableBytes < 4 << 20)
    #expect(error(bomb, codec, limit: 1 << 20) == .decompressedTooLarge(limit: 1 << 20))
    // Many small streams one after the other are a bomb as well.
    let part = compressed(ByteBuffer(repeating: 0, count: 100_000), codec)
    var joined = ByteBuffer()
    for _ in 0..<20 { joined.writeImmutableBuffer(part) }
    #expect(error(joined, codec, limit: 1 << 20) == .decompressedTooLarge(limit: 1 << 20))
}

@Test(arguments: codecs) func streamsOneAfterTheOtherAreRead(codec: Compression) throws {
    var both = compressed(ByteBuffer(string: "one "), codec)
    both.writeImmutableBuffer(compressed(ByteBuffer(string: "two"), codec))
    #expect(try decompressed(both, codec) == ByteBuffer(string: "one two"))
}

@Test(arguments: codecs) func everyTruncationIsRefused(codec: Compression) {
    let whole = compressed(sample(3_000, seed: 4), codec)
    for count in 0..<whole.readableBytes {
        let cut = whole.getSlice(at: 0, length: count) ?? whole
        // Snappy's header alone is a stream of nothing.
        if codec == .snappy, count == 16 { continue }
        #expect(error(cut, codec)?.code == .invalidRecord, "\(count) bytes")
    }
}

@Test(arguments: codecs) func bytesAfterTheStreamAreRefused(codec: Compression) {
    var bytes = compressed(sample(3_000, seed: 5), codec)
    bytes.writeBytes([1, 2, 3, 4, 5, 6, 7])
    #expect(error(bytes, codec)?.code == .invalidRecord)
}

@Test(arguments: codecs, 0..<10)
func damagedStreamsAreRefusedOrReadButNeverCrash(codec: Compression, seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let whole = compressed(sample(5_000, seed: seed), codec)
    for _ in 0..<300 {
        var bytes = whole
        for _ in 0..<Int.random(in: 1...5, using: &generator) {
            let index = Int.random(in: 0..<bytes.readableBytes, using: &generator)
            bytes.setInteger(UInt8.random(in: 0...255, using: &generator), at: index)
        }
        if let output = try? decompressed(bytes, codec, limit: 20_000) {
            #expect(output.readableBytes <= 20_000)
        }
        let noise = ByteBuffer(
            bytes: (0..<100).map { _ in UInt8.random(in: 0...255, using: &generator) })
        _ = try? decompressed(noise, codec, limit: 20_000)
    }
}

@Test func snappyIsReadWithoutItsFraming() throws {
    // One raw block: its size, then a literal.
    let raw = ByteBuffer(bytes: [5, 4 << 2] + Array("hello".utf8))
    #expect(try decompressed(raw, .snappy) == ByteBuffer(string: "hello"))
    // A block that claims 2 GB, or more than its bytes can make, takes no memory.
    let huge = ByteBuffer(bytes: [0xff, 0xff, 0xff, 0xff, 0x07, 0])
    #expect(error(huge, .snappy, limit: .max)?.code == .invalidRecord)
    #expect(error(huge, .snappy) == .decompressedTooLarge(limit: 1 << 20))
    // A later version of the framing.
    let later = ByteBuffer(
        bytes: [0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0] + [0, 0, 0, 2, 0, 0, 0, 2])
    #expect(error(later, .snappy)?.code == .invalidRecord)
}

@Test func zstdFramesMayKeepTheirSizeToThemselves() throws {
    // A frame header without a content size and with a window of 128 MB, then zero blocks of 128 KB
    // that repeat one byte; the last one says that it is.
    func frame(blocks: Int) -> ByteBuffer {
        var frame = ByteBuffer(bytes: [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x88])
        for block in 0..<blocks {
            let isLast: UInt32 = block == blocks - 1 ? 1 : 0
            let header = UInt32(131_072) << 3 | 1 << 1 | isLast
            frame.writeBytes([
                UInt8(header & 0xff), UInt8(header >> 8 & 0xff), UInt8(header >> 16), 0x61,
            ])
        }
        return frame
    }
    #expect(
        try decompressed(frame(blocks: 7), .zstd) == ByteBuffer(repeating: 0x61, count: 7 * 131_072)
    )
    #expect(error(frame(blocks: 8), .zstd) == nil)
    #expect(error(frame(blocks: 9), .zstd) == .decompressedTooLarge(limit: 1 << 20))
    // The format of version 0.7, which is none of the RFC's, alone and after a frame.
    let old = ByteBuffer(bytes: [0x27, 0xb5, 0x2f, 0xfd, 0x00, 0x88, 0, 0, 0])
    #expect(error(old, .zstd)?.code == .invalidRecord)
    var late = frame(blocks: 1)
    late.writeImmutableBuffer(old)
    #expect(error(late, .zstd)?.code == .invalidRecord)
    // A frame to be skipped.
    var skipped = ByteBuffer(bytes: [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9])
    skipped.writeImmutableBuffer(frame(blocks: 1))
    #expect(try decompressed(skipped, .zstd).readableBytes == 131_072)
    // A size that so few bytes can't have.
    let liar = ByteBuffer(
        bytes: [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10, 0x03, 0, 0x10, 0x61])
    #expect(error(liar, .zstd, limit: .max)?.code == .invalidRecord)
}
