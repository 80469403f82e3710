internal import CZstd
internal import Essentials
internal import NIOCore
internal import Synchronization

/// RFC 8878: one Zstandard frame, or several one after the other.
///
/// Frames are decoded in one go into memory that grows when it is too small, not as a stream: a
/// stream would need memory for the window, whose size the frame's author chooses.
enum ZstdCodec {
    private static let level: Int32 = 3
    /// Four bytes of input, the least that a block has, make no more than this.
    private static let maxBlockBytes = 128 << 10

    private static let encoders = ContextPool(
        make: { ZSTD_createCCtx() }, destroy: { ZSTD_freeCCtx($0) })
    private static let decoders = ContextPool(
        make: { ZSTD_createDCtx() }, destroy: { ZSTD_freeDCtx($0) })

    static func compress(_ bytes: UnsafeRawBufferPointer, into output: inout ByteBuffer) {
        let room = ZSTD_compressBound(bytes.count)
        output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { free in
            let size = encoders.withContext { context in
                ZSTD_compressCCtx(
                    context, free.baseAddress, free.count, bytes.baseAddress, bytes.count, level)
            }
            invariant(ZSTD_isError(size) == 0, "zstd can't compress: \(message(size))")
            return size
        }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer, into output: inout BoundedOutput
    ) throws(RecordError) {
        var room = try firstRoom(for: bytes, limit: output.limit)
        while true {
            var isTooSmall = false
            try output.write(room: max(room, 1)) { free throws(RecordError) in
                let size = decoders.withContext { context in
                    ZSTD_decompressDCtx(
                        context, free.baseAddress, min(free.count, room), bytes.baseAddress,
                        bytes.count)
                }
                guard ZSTD_isError(size) != 0 else { return size }
                guard ZSTD_getErrorCode(size) == ZSTD_error_dstSize_tooSmall else {
                    throw .invalidCompression(.zstd, message(size))
                }
                isTooSmall = true
                return 0
            }
            guard isTooSmall else { return }
            guard room < output.limit else { throw .decompressedTooLarge(limit: output.limit) }
            room = min(room < 1 << 40 ? max(room, 4096) * 4 : room, output.limit)
        }
    }

    /// The size that the frames claim, or a guess where one claims none.
    ///
    /// Frames of the formats from before the RFC, which the library may know, are refused.
    private static func firstRoom(
        for bytes: UnsafeRawBufferPointer, limit: Int
    ) throws(RecordError) -> Int {
        // These are macros that Swift does not see: 2^64 - 1 and - 2.
        let unknown = UInt64.max
        let invalid = UInt64.max - 1
        var total: UInt64? = 0
        var position = 0
        repeat {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[position...])
            guard startsFrame(rest) else {
                throw .invalidCompression(.zstd, "a frame does not start as one")
            }
            let size = ZSTD_findFrameCompressedSize(rest.baseAddress, rest.count)
            guard ZSTD_isError(size) == 0, size > 0 else {
                throw .invalidCompression(.zstd, message(size))
            }
            let claimed = ZSTD_getFrameContentSize(rest.baseAddress, rest.count)
            guard claimed != invalid else {
                throw .invalidCompression(.zstd, "a frame's header is damaged")
            }
            if claimed == unknown {
                total = nil
            } else {
                guard claimed <= UInt64(limit) else { throw .decompressedTooLarge(limit: limit) }
                guard claimed <= UInt64(size / 4 + 1) * UInt64(maxBlockBytes) else {
                    throw .invalidCompression(.zstd, "a frame claims more than can be in it")
                }
                total = total.map { $0 + claimed }
            }
            position += size
        } while position < bytes.count
        guard let total else {
            return min(limit, max(64 << 10, bytes.count < limit / 8 ? bytes.count * 8 : limit))
        }
        guard total <= UInt64(limit) else { throw .decompressedTooLarge(limit: limit) }
        return Int(total)
    }

    /// Whether the bytes begin with the magic number of a frame, or of one to be skipped.
    private static func startsFrame(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count >= 4 else { return false }
        let magic = UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self))
        return magic == 0xfd2f_b528 || magic & 0xffff_fff0 == 0x184d_2a50
    }

    private static func message(_ code: Int) -> String {
        ZSTD_getErrorName(code).map { String(cString: $0) } ?? "error \(code)"
    }
}

/// Contexts of a C library that cost more to make than to use.
private final class ContextPool: Sendable {
    /// Sendable: only one owner has it at a time, the pool or whoever took it out.
    private struct Context: @unchecked Sendable {
        var pointer: OpaquePointer?
    }

    /// More than there are threads that compress at once; others are made and freed.
    private static let capacity = 16

    private let free = Mutex<[Context]>([])
    private let make: @Sendable () -> OpaquePointer?
    private let destroy: @Sendable (OpaquePointer?) -> Void

    init(
        make: @escaping @Sendable () -> OpaquePointer?,
        destroy: @escaping @Sendable (OpaquePointer?) -> Void
    ) {
        self.make = make
        self.destroy = destroy
    }

    func withContext<T>(_ body: (OpaquePointer?) -> T) -> T {
        let context = free.withLock { $0.popLast() } ?? Context(pointer: make())
        invariant(context.pointer != nil, "no memory for a compression context")
        defer {
            let isKept = free.withLock { free in
                guard free.count < Self.capacity else { return false }
                free.append(context)
                return true
            }
            if !isKept { destroy(context.pointer) }
        }
        return body(context.pointer)
    }
}
