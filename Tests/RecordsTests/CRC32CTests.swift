import Essentials
import Records
import Testing

private func checksum(_ bytes: [UInt8]) -> UInt32 {
    bytes.withUnsafeBytes { CRC32C.checksum($0) }
}

/// The values of RFC 3720 section B.4, and the usual check value.
@Test func crcMatchesPublishedVectors() {
    #expect(checksum([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
    #expect(checksum([UInt8](repeating: 0xff, count: 32)) == 0x62a8_ab43)
    #expect(checksum([UInt8](0..<32)) == 0x46dd_794e)
    #expect(checksum([UInt8]((0..<32).reversed())) == 0x113f_db5c)
    #expect(checksum(Array("123456789".utf8)) == 0xe306_9283)
    #expect(checksum([]) == 0)
}

@Test func instructionAndTableAgreeOnEveryLengthAndAlignment() {
    var generator = SeededGenerator(seed: 1)
    let bytes = (0..<40_000).map { _ in UInt8.random(in: 0...255, using: &generator) }
    bytes.withUnsafeBytes { bytes in
        let lengths =
            Array(0..<40) + [255, 256, 767, 768, 769, 1_700, 12_287, 12_288, 12_300, 39_990]
        for length in lengths {
            for start in 0..<9 {
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<(start + length)])
                #expect(
                    CRC32C.checksum(piece) == CRC32C.tableChecksum(piece),
                    "length \(length) from \(start)")
            }
        }
    }
}

@Test func crcOfTheWholeDoesNotDependOnHowItIsCut() {
    var generator = SeededGenerator(seed: 2)
    let bytes = (0..<30_000).map { _ in UInt8.random(in: 0...255, using: &generator) }
    bytes.withUnsafeBytes { bytes in
        for cut in [0, 1, 7, 800, 12_288, 29_999] {
            let first = CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes[..<cut]))
            let whole = CRC32C.checksum(
                UnsafeRawBufferPointer(rebasing: bytes[cut...]), continuing: first)
            #expect(whole == CRC32C.checksum(bytes))
        }
    }
}
