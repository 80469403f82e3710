import Essentials
import Records
import Testing

private func checksum(_ bytes: [UInt8]) -> UInt32 {
    bytes.withUnsafeBytes { CRC32C.checksum($0) }
}

/// The values of RFC 3720 section B.4, and the usual check value; by instruction and by table.
@Test func crcMatchesPublishedVectors() {
    let readCommand: [UInt8] =
        [0x01, 0xc0] + [UInt8](repeating: 0, count: 14) + [0x14, 0, 0, 0, 0, 0, 4, 0]
        + [0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    let vectors: [([UInt8], UInt32)] = [
        ([UInt8](repeating: 0, count: 32), 0x8a91_36aa),
        ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43),
        ([UInt8](0..<32), 0x46dd_794e),
        ([UInt8]((0..<32).reversed()), 0x113f_db5c),
        (readCommand, 0xd996_3a56),
        (Array("123456789".utf8), 0xe306_9283),
        ([], 0),
    ]
    for (bytes, crc) in vectors {
        #expect(checksum(bytes) == crc)
        #expect(bytes.withUnsafeBytes { CRC32C.tableChecksum($0) } == crc)
    }
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
