import Foundation
import Testing

extension ClusterTests {
    @Suite struct MainPathTests {
        /// A record as `consume --format json` prints it.
        private struct Line: Decodable {
            var partition: Int
            var offset: Int
            var value: String
        }

        private static let lineCount = 60_000

        /// Lines that all differ, numbered in the order in which they are written.
        private static func lines(_ range: Range<Int>) -> Data {
            var text = ""
            for number in range {
                let rest = String(UInt64(number) &* 0x9E37_79B9_7F4A_7C15, radix: 36)
                text += "\(number) \(rest)\n"
            }
            return Data(text.utf8)
        }

        @Test func everyAcknowledgedLineSurvivesAKilledLeaderAndAKilledController() async throws {
            try await Cluster.with(controllers: 3, brokers: 3) { cluster in
                try await cluster.millrace(
                    "topic", "create", "lines", "--partitions", "6", "--replication-factor", "3")
                let before = try await cluster.quorum()
                let leader = try #require(try await cluster.describe("lines").partitions[0].leader)

                try await produceThroughFailures(
                    cluster, killing: leader, then: before.leaderId)

                let after = try await cluster.quorum()
                #expect(after.leaderEpoch > before.leaderEpoch)
                let repeats = try await checkLines(cluster)
                try await eventually(within: .seconds(60), "every replica is in sync") {
                    try await cluster.describe("lines").partitions.allSatisfy { $0.isr.count == 3 }
                }
                try await checkReplicas(cluster, holding: Self.lineCount + repeats)

                try await cluster.stop()
                try await cluster.start()
                #expect(try await checkLines(cluster) == repeats)
            }
        }

        /// Feeds the lines to `millrace produce`; a third in, the leader is killed, two thirds in, the
        /// active controller, and both are started again.
        private func produceThroughFailures(
            _ cluster: Cluster, killing leader: Int, then controller: Int
        ) async throws {
            let third = Self.lineCount / 3
            let producer = try cluster.begin("produce", "lines", "--acks", "all")
            try producer.write(Self.lines(0..<third))
            try await cluster.kill(leader)
            try producer.write(Self.lines(third..<2 * third))
            try await cluster.kill(controller)
            try cluster.restart(leader)
            try producer.write(Self.lines(2 * third..<Self.lineCount))
            try cluster.restart(controller)
            try producer.closeInput()
            let result = try await producer.wait(within: .seconds(120))
            #expect(result.exitCode == 0, "\(result.errors)")
        }

        /// Reads everything: each line must be there, and in each partition in the order written.
        ///
        /// A batch whose answer was lost with its leader is sent again, and may then be there twice: an
        /// old line may be repeated, but nothing new may come out of order. Answers the repeats.
        private func checkLines(_ cluster: Cluster) async throws -> Int {
            let output = try await cluster.millrace(
                "consume", "lines", "--from-beginning", "--exit-at-end", "--format", "json",
                within: .seconds(120))
            let decoder = JSONDecoder()
            var nextOffset: [Int: Int] = [:]
            var newest: [Int: Int] = [:]
            var partitions: [Int: Int] = [:]
            var repeats = 0
            for text in output.split(separator: "\n") {
                let line = try decoder.decode(Line.self, from: Data(text.utf8))
                let number = try #require(Int(line.value.prefix { $0 != " " }))
                try #require(Data((line.value + "\n").utf8) == Self.lines(number..<number + 1))
                try #require(line.offset == nextOffset[line.partition, default: 0], "\(line)")
                nextOffset[line.partition] = line.offset + 1
                if let partition = partitions.updateValue(line.partition, forKey: number) {
                    try #require(partition == line.partition, "\(line)")
                    repeats += 1
                } else {
                    try #require(number > newest[line.partition, default: -1], "\(line)")
                    newest[line.partition] = number
                }
            }
            #expect(partitions.count == Self.lineCount)
            return repeats
        }

        /// Compares the replicas of every partition, byte by byte, up to the high watermark.
        private func checkReplicas(_ cluster: Cluster, holding count: Int) async throws {
            let brokers = try cluster.nodes().filter { $0.role == "broker" }
            var records = 0
            for partition in 0..<6 {
                let answer = try await cluster.curl(
                    "Broker/Fetch",
                    #"{"topic": "lines", "partition": \#(partition), "offset": "0"}"#)
                let text = try #require(answer.body["highWatermark"] as? String, "\(answer)")
                let highWatermark = try #require(Int64(text))
                records += Int(highWatermark)
                let copies = try brokers.map { broker in
                    try committedBytes(
                        in: "\(broker.dataDir)/lines-\(partition)", below: highWatermark)
                }
                #expect(copies.count == 3)
                #expect(!copies[0].isEmpty)
                #expect(copies[0] == copies[1] && copies[0] == copies[2], "lines-\(partition)")
            }
            #expect(records == count)
        }

        /// The batches of a partition folder whose records all lie below `end`.
        private func committedBytes(in folder: String, below end: Int64) throws -> Data {
            let segments = try FileManager.default.contentsOfDirectory(atPath: folder)
                .filter { $0.hasSuffix(".log") }.sorted()
            var result = Data()
            for segment in segments {
                let data = [UInt8](
                    try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(segment)")))
                var position = 0
                while position + 61 <= data.count {
                    let length = Int(bigEndian(data[position + 8..<position + 12])) + 12
                    let base = bigEndian(data[position..<position + 8])
                    let last = base + bigEndian(data[position + 23..<position + 27])
                    guard length > 61, position + length <= data.count, last < end else { break }
                    result += data[position..<position + length]
                    position += length
                }
            }
            return result
        }

        private func bigEndian(_ bytes: ArraySlice<UInt8>) -> Int64 {
            bytes.reduce(0) { $0 << 8 | Int64($1) }
        }
    }
}
