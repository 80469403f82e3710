package import NIOCore

/// Reads protobuf fields one after another without copying their bytes.
///
/// Source: protobuf's encoding guide. Groups count as malformed.
package struct ProtobufReader {
    package enum Value {
        case varint(UInt64)
        case fixed(UInt64)
        case bytes(ByteBuffer)
    }

    private var buffer: ByteBuffer
    package private(set) var isMalformed = false

    package init(_ buffer: ByteBuffer) {
        self.buffer = buffer
    }

    /// The next field; `nil` at the end, or where the bytes make no sense (`isMalformed`).
    package mutating func nextField() -> (number: Int, value: Value)? {
        guard buffer.readableBytes > 0, !isMalformed else { return nil }
        guard let tag = readVarint(), let value = readValue(wireType: tag & 7) else {
            isMalformed = true
            return nil
        }
        return (Int(truncatingIfNeeded: tag >> 3), value)
    }

    private mutating func readValue(wireType: UInt64) -> Value? {
        switch wireType {
        case 0:
            return readVarint().map { .varint($0) }
        case 1:
            return buffer.readInteger(endianness: .little, as: UInt64.self).map { .fixed($0) }
        case 2:
            guard let length = readVarint(), length <= UInt64(buffer.readableBytes) else {
                return nil
            }
            return buffer.readSlice(length: Int(length)).map { .bytes($0) }
        case 5:
            return buffer.readInteger(endianness: .little, as: UInt32.self)
                .map { .fixed(UInt64($0)) }
        default:
            return nil
        }
    }

    private mutating func readVarint() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while shift < 64, let byte = buffer.readInteger(as: UInt8.self) {
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }
}

extension ByteBuffer {
    /// Appends a protobuf field of a varint type; negative values take ten bytes, as `int64` does.
    package mutating func writeProtobufField(_ number: Int, varint value: Int64) {
        writeProtobufVarint(UInt64(number) << 3)
        writeProtobufVarint(UInt64(bitPattern: value))
    }

    /// Appends the head of a protobuf `bytes` field, whose `length` bytes the caller sends next.
    package mutating func writeProtobufHead(_ number: Int, length: Int) {
        writeProtobufVarint(UInt64(number) << 3 | 2)
        writeProtobufVarint(UInt64(length))
    }

    /// Appends a protobuf varint of one to ten bytes.
    private mutating func writeProtobufVarint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        writeInteger(UInt8(truncatingIfNeeded: rest))
    }
}
