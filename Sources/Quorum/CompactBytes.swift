internal import Essentials
internal import NIOCore

/// Reads the fields of Kafka's flexible message versions, as its control records use them.
///
/// Every length is compared with what is left before anything is taken; `nil` means that the bytes
/// are not what they should be.
struct CompactReader {
    private(set) var bytes: ByteBuffer

    init(_ bytes: ByteBuffer) {
        self.bytes = bytes
    }

    var remaining: Int { bytes.readableBytes }

    mutating func integer<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T? {
        bytes.readInteger(as: type)
    }

    /// An unsigned varint of at most 32 bits.
    mutating func varint() -> Int? {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), through: 28, by: 7) {
            guard let byte = bytes.readInteger(as: UInt8.self) else { return nil }
            value |= UInt64(byte & 0x7F) << shift
            if byte & 0x80 == 0 { return value <= UInt64(Int32.max) ? Int(value) : nil }
        }
        return nil
    }

    /// The count of an array whose elements take at least `minimum` bytes each; at most `limit`.
    mutating func count(limit: Int, minimum: Int) -> Int? {
        guard let count = varint(), count > 0 else { return nil }
        let elements = count - 1
        guard elements <= limit, elements * minimum <= remaining else { return nil }
        return elements
    }

    /// A string of at most `limit` bytes of UTF-8.
    mutating func string(limit: Int) -> String? {
        guard let length = varint(), length > 0, length - 1 <= limit,
            let slice = bytes.readSlice(length: length - 1)
        else { return nil }
        return String(validating: slice.readableBytesView, as: UTF8.self)
    }

    mutating func directory() -> DirectoryID? {
        bytes.readSlice(length: 16).flatMap { DirectoryID(bytes: $0.readableBytesView) }
    }

    /// Passes over the fields that a later version may have added at the end of a structure.
    mutating func skipTags() -> Bool {
        guard let count = varint(), count <= remaining else { return false }
        for _ in 0..<count {
            guard varint() != nil, let length = varint(), bytes.readSlice(length: length) != nil
            else { return false }
        }
        return true
    }
}

extension ByteBuffer {
    /// Writes an unsigned varint.
    mutating func writeCompact(_ value: Int) {
        var rest = UInt64(clamping: value)
        while rest >= 0x80 {
            writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        writeInteger(UInt8(truncatingIfNeeded: rest))
    }

    mutating func writeCompact(_ text: String) {
        let utf8 = Array(text.utf8)
        writeCompact(utf8.count + 1)
        writeBytes(utf8)
    }

    /// The end of a structure without tagged fields.
    mutating func writeNoTags() {
        writeInteger(UInt8(0))
    }
}
