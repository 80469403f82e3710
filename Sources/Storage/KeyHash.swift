/// 128 bits that stand for a key.
package struct KeyHash: Hashable {
    package var low: UInt64
    package var high: UInt64
}

/// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012).
///
/// With a secret of its own for each use, nobody can choose keys that collide; by chance two among
/// 2^32 keys do with a likelihood of 2^-65.
package struct KeyHasher {
    private let first: UInt64
    private let second: UInt64

    package init(first: UInt64, second: UInt64) {
        self.first = first
        self.second = second
    }

    package static func random() -> KeyHasher {
        KeyHasher(first: .random(in: .min ... .max), second: .random(in: .min ... .max))
    }

    package func hash(_ bytes: UnsafeRawBufferPointer) -> KeyHash {
        var state = State(first, second)
        let whole = bytes.count & ~7
        var index = 0
        while index < whole {
            state.absorb(
                UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)))
            index += 8
        }
        var last = UInt64(truncatingIfNeeded: bytes.count) << 56
        var shift: UInt64 = 0
        while index < bytes.count {
            last |= UInt64(bytes[index]) << shift
            shift += 8
            index += 1
        }
        state.absorb(last)
        return state.finish()
    }

    private struct State {
        var a: UInt64
        var b: UInt64
        var c: UInt64
        var d: UInt64

        init(_ first: UInt64, _ second: UInt64) {
            // "somepseudorandomlygeneratedbytes", as the authors chose.
            a = 0x736f_6d65_7073_6575 ^ first
            b = 0x646f_7261_6e64_6f6d ^ second ^ 0xee
            c = 0x6c79_6765_6e65_7261 ^ first
            d = 0x7465_6462_7974_6573 ^ second
        }

        @inline(__always)
        mutating func mix() {
            a &+= b
            c &+= d
            b = rotated(b, 13) ^ a
            d = rotated(d, 16) ^ c
            a = rotated(a, 32)
            c &+= b
            a &+= d
            b = rotated(b, 17) ^ c
            d = rotated(d, 21) ^ a
            c = rotated(c, 32)
        }

        @inline(__always)
        mutating func absorb(_ word: UInt64) {
            d ^= word
            mix()
            mix()
            a ^= word
        }

        mutating func finish() -> KeyHash {
            c ^= 0xee
            for _ in 0..<4 { mix() }
            let low = a ^ b ^ c ^ d
            b ^= 0xdd
            for _ in 0..<4 { mix() }
            return KeyHash(low: low, high: a ^ b ^ c ^ d)
        }

        @inline(__always)
        private func rotated(_ value: UInt64, _ count: UInt64) -> UInt64 {
            (value << count) | (value >> (64 - count))
        }
    }
}
