internal import Essentials
internal import NIOCore

/// gRPC's five bytes before each message: a flag for compression and the length.
enum MessageFraming {
    static let prefixBytes = 5
    /// Memory taken at once on the strength of a length that was only announced.
    private static let firstReservation = 1 << 20

    /// The prefix of a message of `count` bytes, in memory order.
    static func prefix(count: Int) -> UInt64 {
        let length = UInt32(clamping: count).byteSwapped
        return UInt64(littleEndian: UInt64(length) << 8)
    }

    enum Failure: Error, Equatable {
        case compressed
        case badFlag(UInt8)
        case tooLarge(Int)
    }

    /// Puts messages together from the bytes of a stream; each byte is copied once.
    struct Assembler {
        private var prefix: UInt64 = 0
        private var prefixCount = 0
        /// Bytes the current message still lacks; meaningful once the prefix is complete.
        private var missing = 0
        private var message = ByteBuffer()

        /// The bytes so far end in the middle of a message.
        var isInsideMessage: Bool { prefixCount > 0 }
        /// Bytes held of a message that is not complete, its prefix included.
        var heldBytes: Int { prefixCount + message.readableBytes }
        /// The announced length of the message that is not complete.
        var announcedBytes: Int { message.readableBytes + missing }

        /// Takes bytes off the front of `bytes`; returns a message when one is complete.
        mutating func next(
            _ bytes: inout UnsafeRawBufferPointer, maxMessageBytes: Int
        ) throws(Failure) -> ByteBuffer? {
            while prefixCount < prefixBytes {
                guard let byte = bytes.first else { return nil }
                bytes = UnsafeRawBufferPointer(rebasing: bytes.dropFirst())
                prefix = prefix << 8 | UInt64(byte)
                prefixCount += 1
                if prefixCount == prefixBytes { try start(maxMessageBytes) }
            }
            let count = min(missing, bytes.count)
            if count > 0 {
                message.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
                bytes = UnsafeRawBufferPointer(rebasing: bytes[count...])
                missing -= count
            }
            guard missing == 0 else { return nil }
            let complete = message
            message = ByteBuffer()
            prefix = 0
            prefixCount = 0
            return complete
        }

        private mutating func start(_ maxMessageBytes: Int) throws(Failure) {
            let flag = UInt8(truncatingIfNeeded: prefix >> 32)
            let length = Int(prefix & 0xffff_ffff)
            if flag == 1 { throw .compressed }
            if flag != 0 { throw .badFlag(flag) }
            if length > maxMessageBytes { throw .tooLarge(length) }
            missing = length
            if length > 0 {
                message.reserveCapacity(min(length, MessageFraming.firstReservation))
            }
        }
    }
}

extension RPCError {
    /// What is wrong with a message of the peer's, in words for whoever wrote it.
    init(_ failure: MessageFraming.Failure, maxMessageBytes: Int) {
        switch failure {
        case .compressed:
            self.init(
                status: .unimplemented, code: .unsupportedCompressionType,
                "messages are not compressed here; turn gRPC compression off, "
                    + "and compress record batches instead")
        case .badFlag(let flag):
            self.init(
                .invalidRequest,
                "not a gRPC message: it starts with byte \(flag) instead of a compression flag")
        case .tooLarge(let size):
            self.init(
                .messageTooLarge,
                "a message of \(size) bytes is larger than the limit of \(maxMessageBytes)")
        }
    }
}
