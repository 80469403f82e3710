import Essentials
import Testing

/// The values are those that Kafka's own test of its partitioner lists.
@Suite struct Murmur2Tests {
    @Test(
        arguments: [
            ("21", -973_932_308), ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971), ("abc", 479_470_107),
        ] as [(String, Int32)])
    func hashesAsKafkaDoes(_ key: String, _ hash: Int32) {
        var key = key
        #expect(key.withUTF8 { Int32(bitPattern: murmur2(UnsafeRawBufferPointer($0))) } == hash)
    }

    @Test func aKeyAlwaysGoesToTheSamePartition() {
        var key = "customer-17"
        let first = key.withUTF8 { partition(forKey: UnsafeRawBufferPointer($0), of: 12) }
        let second = key.withUTF8 { partition(forKey: UnsafeRawBufferPointer($0), of: 12) }
        #expect(first == second)
        #expect((0..<12).contains(first))
    }
}
