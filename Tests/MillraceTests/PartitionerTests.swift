internal import Essentials
internal import Testing

@testable internal import Millrace

/// Keys must land where Kafka's own clients put them, or one key's records end up in two partitions.
@Suite struct PartitionerTests {
    /// Hashes that Kafka's tests publish for its murmur2.
    @Test(arguments: [
        ("21", -973_932_308), ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971), ("abc", 479_470_107),
    ])
    func hashesKeysAsKafkaDoes(_ key: String, _ hash: Int) {
        let bytes = Array(key.utf8)
        #expect(bytes.withUnsafeBytes { Int32(bitPattern: murmur2($0)) } == Int32(hash))
    }

    @Test func sameKeyGoesToTheSamePartition() {
        let accumulator = TestAccumulator()
        accumulator.setPartitionCount(7, of: "t")
        let lanes = (0..<20).map { _ in
            accumulator.add("t", key: "k", value: "v")
            return accumulator.take()?.lane.partition
        }
        #expect(Set(lanes.compactMap { $0 }).count == 1)
    }
}
