/// The 32-bit MurmurHash2 that Kafka's clients place keys with, so that a key lands on the same
/// partition whichever client wrote it.
///
/// Source: Austin Appleby's MurmurHash2, with Kafka's seed 0x9747b28c.
package func murmur2(_ key: UnsafeRawBufferPointer) -> UInt32 {
    let multiplier: UInt32 = 0x5bd1_e995
    var hash = 0x9747_b28c ^ UInt32(truncatingIfNeeded: key.count)
    var index = 0
    while key.count - index >= 4 {
        var word = UInt32(
            littleEndian: key.loadUnaligned(fromByteOffset: index, as: UInt32.self))
        word &*= multiplier
        word ^= word >> 24
        word &*= multiplier
        hash = (hash &* multiplier) ^ word
        index += 4
    }
    let rest = key.count - index
    if rest > 0 {
        for offset in (0..<rest).reversed() {
            hash ^= UInt32(key[index + offset]) << (8 * UInt32(offset))
        }
        hash &*= multiplier
    }
    hash ^= hash >> 13
    hash &*= multiplier
    hash ^= hash >> 15
    return hash
}

/// The partition, of `count`, that a record with this key belongs to; `count` is at least 1.
package func partition(forKey key: UnsafeRawBufferPointer, of count: Int) -> Int32 {
    Int32(Int(murmur2(key) & 0x7fff_ffff) % count)
}
