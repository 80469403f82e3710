import Essentials
import Storage
import Testing

private func put(_ map: OffsetMap, _ key: String, _ offset: Offset) -> Bool {
    var key = key
    return key.withUTF8 { map.put(UnsafeRawBufferPointer($0), offset) }
}

private func offset(_ map: OffsetMap, _ key: String) -> Offset? {
    var key = key
    return key.withUTF8 { map.offset(of: UnsafeRawBufferPointer($0)) }
}

@Test func aMapOfKeysKnowsTheLastOffsetOfEach() {
    let map = OffsetMap(memory: 24 * 1_000)
    var generator = SeededGenerator(seed: 7)
    var model: [String: Offset] = [:]
    for number: Int64 in 0..<5_000 {
        let key = "key \(Int.random(in: 0..<800, using: &generator))"
        model[key] = Offset(number)
        #expect(put(map, key, Offset(number)))
    }
    #expect(map.count == model.count)
    for (key, place) in model { #expect(offset(map, key) == place) }
    #expect(offset(map, "another") == nil)
    #expect(offset(map, "") == nil)
}

@Test(arguments: [0, 24, 48, 240, 24_000]) func aMapOfKeysTakesNoMoreThanItsMemoryHasRoomFor(
    memory: Int
) {
    let map = OffsetMap(memory: memory)
    var count = 0
    while put(map, "key \(count)", Offset(Int64(count))) { count += 1 }
    #expect(count == map.capacity && map.count == count)
    #expect(count >= 1)
    #expect(memory < 480 || count * OffsetMap.entrySize <= memory * 9 / 10)
    #expect(memory < 480 || count * OffsetMap.entrySize > memory * 8 / 10)
    // Those that are in it still move on.
    #expect(put(map, "key 0", 77))
    #expect(offset(map, "key 0") == 77)
    #expect(!put(map, "new", 78))
    #expect(offset(map, "new") == nil)
}

/// The key is the numbers from 0 to 15, and the input begins like it, as in the test vectors of the authors.
@Test func keysAreHashedAsSipHashSays() {
    let hasher = KeyHasher(first: 0x0706_0504_0302_0100, second: 0x0f0e_0d0c_0b0a_0908)
    func hash(_ count: UInt8) -> [UInt8] {
        let hash = Array(0..<count).withUnsafeBytes { hasher.hash($0) }
        return withUnsafeBytes(of: hash.low.littleEndian) { Array($0) }
            + withUnsafeBytes(of: hash.high.littleEndian) { Array($0) }
    }
    #expect(
        hash(0) == [
            0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55,
            0x02, 0x93,
        ])
    #expect(
        hash(1) == [
            0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22,
            0xfc, 0x45,
        ])
    #expect(Set((0..<64).map { hash($0) }).count == 64)
}
