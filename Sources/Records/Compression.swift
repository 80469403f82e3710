package import NIOCore

/// How the records of a batch are compressed; the values are the format's.
package enum Compression: UInt8, Sendable, CaseIterable {
    case none = 0
    case gzip = 1
    case snappy = 2
    case lz4 = 3
    case zstd = 4

    /// The most bytes that the records of one compressed batch may have once decompressed.
    ///
    /// The same for whoever writes, stores or reads a batch, so that what was accepted can be read.
    package static let maxDecompressedBytes = 64 << 20

    /// What configurations call it.
    package var name: String {
        switch self {
        case .none: "none"
        case .gzip: "gzip"
        case .snappy: "snappy"
        case .lz4: "lz4"
        case .zstd: "zstd"
        }
    }

    package init?(name: some StringProtocol) {
        guard let found = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = found
    }
}

extension Compression {
    /// Appends `bytes`, compressed, to `output`.
    package func compress(_ bytes: UnsafeRawBufferPointer, into output: inout ByteBuffer) {
        switch self {
        case .none: output.writeBytes(bytes)
        case .gzip: GzipCodec.compress(bytes, into: &output)
        case .snappy: SnappyCodec.compress(bytes, into: &output)
        case .lz4: LZ4Codec.compress(bytes, into: &output)
        case .zstd: ZstdCodec.compress(bytes, into: &output)
        }
    }

    /// What `bytes`, all of them, were made of.
    ///
    /// Memory is taken for what really comes out, at most twice `limit`.
    /// - Throws: `invalidCompression` for bytes that are not a whole stream of this codec, and
    ///   `decompressedTooLarge` for more than `limit` bytes.
    package func decompress(
        _ bytes: UnsafeRawBufferPointer, limit: Int = maxDecompressedBytes
    ) throws(RecordError) -> ByteBuffer {
        var output = BoundedOutput(limit: limit, expecting: bytes.count)
        switch self {
        case .none: try output.append(bytes)
        case .gzip: try GzipCodec.decompress(bytes, into: &output)
        case .snappy: try SnappyCodec.decompress(bytes, into: &output)
        case .lz4: try LZ4Codec.decompress(bytes, into: &output)
        case .zstd: try ZstdCodec.decompress(bytes, into: &output)
        }
        return output.buffer
    }
}

/// Takes what a decoder gives out and never more than `limit` bytes of it.
struct BoundedOutput {
    let limit: Int
    private(set) var buffer: ByteBuffer

    /// - Parameter compressed: the size of the input, of which the output is likely a few times.
    init(limit: Int, expecting compressed: Int) {
        self.limit = max(0, limit)
        let capacity = compressed < self.limit / 4 ? compressed * 4 : self.limit
        buffer = ByteBuffer()
        buffer.reserveCapacity(min(capacity, 1 << 20))
    }

    var count: Int { buffer.readableBytes }
    var remaining: Int { limit - count }

    /// Lets `body` write into free memory, of which there is some; it returns how much it wrote.
    ///
    /// One byte more than the limit is offered, by which a stream that ends in time is told from
    /// one that does not.
    mutating func write(
        _ body: (UnsafeMutableRawBufferPointer) throws(RecordError) -> Int
    ) throws(RecordError) {
        let step = min(max(count, buffer.writableBytes, 4096), remaining + 1)
        try write(room: step) { bytes throws(RecordError) in
            try body(UnsafeMutableRawBufferPointer(rebasing: bytes[..<min(bytes.count, step)]))
        }
        guard remaining >= 0 else { throw .decompressedTooLarge(limit: limit) }
    }

    /// Lets `body` write into `room` bytes of free memory or more; it returns how much it wrote.
    mutating func write(
        room: Int, _ body: (UnsafeMutableRawBufferPointer) throws(RecordError) -> Int
    ) throws(RecordError) {
        var failure: RecordError?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { bytes in
            do throws(RecordError) {
                return try body(bytes)
            } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
    }

    mutating func append(_ bytes: UnsafeRawBufferPointer) throws(RecordError) {
        guard bytes.count <= remaining else { throw .decompressedTooLarge(limit: limit) }
        buffer.writeBytes(bytes)
    }
}
