internal import CLZ4
internal import Essentials
internal import NIOCore

/// The LZ4 frame format: one frame, or several one after the other.
enum LZ4Codec {
    /// What Kafka's own reader takes: blocks that don't depend on each other, of 64 KB.
    private static func preferences(size: Int) -> LZ4F_preferences_t {
        var preferences = LZ4F_preferences_t()
        preferences.frameInfo.blockSizeID = LZ4F_max64KB
        preferences.frameInfo.blockMode = LZ4F_blockIndependent
        preferences.frameInfo.contentSize = UInt64(size)
        return preferences
    }

    static func compress(_ bytes: UnsafeRawBufferPointer, into output: inout ByteBuffer) {
        var preferences = preferences(size: bytes.count)
        let room = LZ4F_compressFrameBound(bytes.count, &preferences)
        output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { free in
            let size = LZ4F_compressFrame(
                free.baseAddress, free.count, bytes.baseAddress, bytes.count, &preferences)
            invariant(LZ4F_isError(size) == 0, "lz4 can't compress: \(message(size))")
            return size
        }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer, into output: inout BoundedOutput
    ) throws(RecordError) {
        var context: OpaquePointer?
        let created = LZ4F_createDecompressionContext(&context, UInt32(LZ4F_VERSION))
        invariant(LZ4F_isError(created) == 0, "lz4 can't decompress: \(message(created))")
        defer { LZ4F_freeDecompressionContext(context) }
        var position = 0
        // What the frame still lacks, roughly; 0 at its end.
        var missing = 1
        while position < bytes.count || missing != 0 {
            var consumed = 0
            var produced = 0
            try output.write { free throws(RecordError) in
                let input = UnsafeRawBufferPointer(rebasing: bytes[position...])
                consumed = input.count
                produced = free.count
                missing = LZ4F_decompress(
                    context, free.baseAddress, &produced, input.baseAddress, &consumed, nil)
                guard LZ4F_isError(missing) == 0 else {
                    throw .invalidCompression(.lz4, message(missing))
                }
                return produced
            }
            position += consumed
            if consumed == 0, produced == 0, missing != 0 {
                throw .invalidCompression(.lz4, "it is cut off")
            }
        }
    }

    private static func message(_ code: Int) -> String {
        LZ4F_getErrorName(code).map { String(cString: $0) } ?? "error \(code)"
    }
}
