internal import CZlib
internal import Essentials
internal import NIOCore

/// RFC 1952: one gzip member, or several one after the other.
enum GzipCodec {
    /// A window of 32 KB, and 16 for gzip's frame instead of zlib's.
    private static let windowBits: Int32 = 15 + 16

    static func compress(_ bytes: UnsafeRawBufferPointer, into output: inout ByteBuffer) {
        withStream { stream in
            var result = deflateInit2_(
                stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, windowBits, 8, Z_DEFAULT_STRATEGY,
                ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
            invariant(result == Z_OK, "zlib can't compress: \(result)")
            defer { deflateEnd(stream) }
            feed(bytes, to: stream)
            let room = Int(deflateBound(stream, UInt(bytes.count)))
            output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { free in
                stream.pointee.next_out = free.bindMemory(to: UInt8.self).baseAddress
                stream.pointee.avail_out = UInt32(clamping: free.count)
                result = deflate(stream, Z_FINISH)
                return Int(stream.pointee.total_out)
            }
            invariant(result == Z_STREAM_END, "zlib stopped within its bound: \(result)")
        }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer, into output: inout BoundedOutput
    ) throws(RecordError) {
        try withStream { stream throws(RecordError) in
            let result = inflateInit2_(
                stream, windowBits, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
            invariant(result == Z_OK, "zlib can't decompress: \(result)")
            defer { inflateEnd(stream) }
            feed(bytes, to: stream)
            try inflateMembers(stream, into: &output)
        }
    }

    private static func inflateMembers(
        _ stream: UnsafeMutablePointer<z_stream>, into output: inout BoundedOutput
    ) throws(RecordError) {
        while true {
            var result = Z_OK
            try output.write { free throws(RecordError) in
                stream.pointee.next_out = free.bindMemory(to: UInt8.self).baseAddress
                stream.pointee.avail_out = UInt32(clamping: free.count)
                let offered = stream.pointee.avail_out
                result = inflate(stream, Z_NO_FLUSH)
                return Int(offered - stream.pointee.avail_out)
            }
            switch result {
            case Z_OK:
                continue
            case Z_STREAM_END:
                guard stream.pointee.avail_in > 0 else { return }
                result = inflateReset(stream)
                invariant(result == Z_OK, "zlib can't begin anew: \(result)")
            case Z_BUF_ERROR:
                // There is always room, so it is input that is missing.
                throw .invalidCompression(.gzip, "it is cut off")
            default:
                let reason = stream.pointee.msg.map { String(cString: $0) } ?? "error \(result)"
                throw .invalidCompression(.gzip, reason)
            }
        }
    }

    /// zlib keeps a pointer to its stream, which must not move therefore.
    private static func withStream<E: Error>(
        _ body: (UnsafeMutablePointer<z_stream>) throws(E) -> Void
    ) throws(E) {
        let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
        stream.initialize(to: z_stream())
        defer { stream.deallocate() }
        try body(stream)
    }

    /// A batch is below 2 GiB, which zlib can count.
    private static func feed(
        _ bytes: UnsafeRawBufferPointer, to stream: UnsafeMutablePointer<z_stream>
    ) {
        invariant(bytes.count <= Int(UInt32.max), "\(bytes.count) bytes are too many for zlib")
        let start = bytes.bindMemory(to: UInt8.self).baseAddress
        stream.pointee.next_in = UnsafeMutablePointer(mutating: start)
        stream.pointee.avail_in = UInt32(bytes.count)
    }
}
