/// Zigzag variable-length integers, as Protocol Buffers' `sint32` and `sint64`.
enum Varint {
    @inline(__always)
    static func zigzag(_ value: Int64) -> UInt64 {
        UInt64(bitPattern: (value << 1) ^ (value >> 63))
    }

    @inline(__always)
    static func unzigzag(_ value: UInt64) -> Int64 {
        Int64(bitPattern: value >> 1) ^ -Int64(bitPattern: value & 1)
    }

    /// The bytes that `value` takes: 1 to 10.
    @inline(__always)
    static func size(_ value: Int64) -> Int {
        let bits = 64 - (zigzag(value) | 1).leadingZeroBitCount
        return (bits + 6) / 7
    }

    /// Writes `value` at `position`, and moves that past it; there must be room.
    @inline(__always)
    static func write(
        _ value: Int64, to bytes: UnsafeMutableRawBufferPointer, at position: inout Int
    ) {
        var rest = zigzag(value)
        while rest >= 0x80 {
            bytes[position] = UInt8(truncatingIfNeeded: rest) | 0x80
            position += 1
            rest >>= 7
        }
        bytes[position] = UInt8(truncatingIfNeeded: rest)
        position += 1
    }
}

/// Moves through bytes from outside and never past their end.
struct ByteCursor {
    /// The bytes end too early, or a varint is longer than its type allows.
    struct Overrun: Error {}

    private let bytes: UnsafeRawBufferPointer
    private(set) var position: Int
    /// Nothing at or past this is read; never more than the bytes there are.
    private(set) var end: Int

    @inline(__always)
    init(_ bytes: UnsafeRawBufferPointer, from start: Int = 0) {
        self.bytes = bytes
        end = bytes.count
        position = Swift.min(start, bytes.count)
    }

    @inline(__always)
    var remaining: Int { end - position }

    @inline(__always)
    mutating func skip(_ count: Int) throws(Overrun) {
        guard count >= 0, count <= remaining else { throw Overrun() }
        position += count
    }

    @inline(__always)
    mutating func byte() throws(Overrun) -> UInt8 {
        guard position < end else { throw Overrun() }
        defer { position += 1 }
        return bytes[position]
    }

    /// A `sint32`.
    @inline(__always)
    mutating func varint() throws(Overrun) -> Int {
        // Nearly all lengths and deltas are one byte.
        if position < end {
            let first = bytes[position]
            if first < 0x80 {
                position += 1
                return Int(first >> 1) ^ -Int(first & 1)
            }
        }
        let value = Varint.unzigzag(try longVarint())
        guard let narrow = Int32(exactly: value) else { throw Overrun() }
        return Int(narrow)
    }

    /// A `sint64`.
    @inline(__always)
    mutating func varlong() throws(Overrun) -> Int64 {
        if position < end {
            let first = bytes[position]
            if first < 0x80 {
                position += 1
                return Int64(first >> 1) ^ -Int64(first & 1)
            }
        }
        return Varint.unzigzag(try longVarint())
    }

    private mutating func longVarint() throws(Overrun) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < end {
            let byte = bytes[position]
            position += 1
            // The tenth byte holds the last bit of 64.
            if shift == 63, byte > 1 { break }
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
            if shift > 63 { break }
        }
        throw Overrun()
    }
}
