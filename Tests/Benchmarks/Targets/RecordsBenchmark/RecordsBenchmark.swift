internal import Essentials
internal import Foundation
internal import NIOCore
internal import Records

/// Prints what one core does with record batches: checksums, building, checking, reading.
///
/// An argument, such as "read, none", limits it to what begins with that.
@main
enum RecordsBenchmark {
    private static let only = CommandLine.arguments.dropFirst().first ?? ""

    static func main() throws {
        if "CRC-32C".hasPrefix(only) { checksums() }
        for valueBytes in [100, 1_000] {
            for batchBytes in [16 << 10, 1 << 20] {
                try batches(valueBytes: valueBytes, batchBytes: batchBytes)
            }
        }
    }

    /// Processor seconds for one call of `body`, the best of some rounds of at least 50 ms each.
    ///
    /// Not the time that passes, so that others on the machine spoil little.
    private static func seconds(_ body: () throws -> Void) rethrows -> Double {
        var calls = 1
        var best = Double.infinity
        var round = 0
        while round < 7 {
            let start = processorTime()
            for _ in 0..<calls { try body() }
            let time = processorTime() - start
            if time < 0.05 {
                calls *= 2
                continue
            }
            best = min(best, time / Double(calls))
            round += 1
        }
        return best
    }

    private static func processorTime() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    private static func row(_ cells: [String]) {
        let widths = [26, 14, 14, 14, 14]
        print(
            zip(cells, widths).map { cell, width in
                width == 26
                    ? cell.padding(toLength: width, withPad: " ", startingAt: 0)
                    : String(repeating: " ", count: max(1, width - cell.count)) + cell
            }.joined())
    }

    private static func checksums() {
        row(["CRC-32C", "hardware GB/s", "table GB/s"])
        for size in [64, 256, 1_024, 4_096, 16_384, 65_536, 1 << 20] {
            let bytes = [UInt8](repeating: 0xa5, count: size)
            var sum: UInt32 = 0
            let fast = bytes.withUnsafeBytes { bytes in
                seconds { sum = CRC32C.checksum(bytes, continuing: sum) }
            }
            let slow = bytes.withUnsafeBytes { bytes in
                seconds { sum = CRC32C.tableChecksum(bytes, continuing: sum) }
            }
            row(
                ["\(size) bytes"]
                    + [fast, slow].map { String(format: "%.2f", Double(size) / $0 / 1e9) })
        }
        print()
    }

    /// Values like lines of a log: words, numbers, some that repeat.
    private static func values(_ count: Int, of bytes: Int) -> [[UInt8]] {
        var generator = SeededGenerator(seed: 1)
        let words = [
            "GET", "POST", "/api/v1/orders", "/api/v1/customers", "status=200", "status=404",
            "user=", "latency_ms=", "region=eu-west-1", "region=us-east-1", "retry=false",
        ]
        return (0..<count).map { _ in
            var text: [UInt8] = []
            while text.count < bytes {
                text += words[Int.random(in: 0..<words.count, using: &generator)].utf8
                text += "\(UInt32.random(in: 0...999_999, using: &generator)) ".utf8
            }
            return Array(text.prefix(bytes))
        }
    }

    private static func batches(valueBytes: Int, batchBytes: Int) throws {
        let values = values(max(1, batchBytes / (valueBytes + 20)), of: valueBytes)
        let keys = values.indices.map { Array("key-\($0 % 1_000)".utf8) }
        let bytes = Double(values.count * valueBytes + keys.reduce(0) { $0 + $1.count })

        func rates(_ seconds: Double) -> [String] {
            [
                String(format: "%.2f", Double(values.count) / seconds / 1e6),
                String(format: "%.0f", bytes / seconds / 1e6),
            ]
        }
        func built(_ codec: Compression) -> ByteBuffer {
            var builder = RecordBatchBuilder(capacity: 512)
            for index in values.indices {
                keys[index].withUnsafeBytes { key in
                    values[index].withUnsafeBytes { value in
                        builder.appendBytes(key: key, value: value, timestamp: 1_700_000_000_000)
                    }
                }
            }
            return builder.finish(compression: codec)
        }

        row(
            [
                "\(values.count) values of \(valueBytes)", "M records/s", "MB/s", "batch bytes",
                "ratio",
            ])
        func measure(_ name: String, _ more: [String] = [], _ body: () throws -> Void) rethrows {
            guard name.hasPrefix(only) else { return }
            row([name] + rates(try seconds(body)) + more)
        }
        for codec in Compression.allCases {
            let batch = built(codec)
            let ratio = String(
                format: "%.2f", Double(built(.none).readableBytes) / Double(batch.readableBytes))
            measure("build, \(codec.name)", ["\(batch.readableBytes)", ratio]) {
                _ = built(codec)
            }
            try measure("check, \(codec.name)") {
                _ = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 30)
            }
            try measure("read, \(codec.name)") {
                var reader = RecordReader(batch, checksCRC: false)
                var bytes = 0
                while let record = try reader.next() { bytes += record.value?.readableBytes ?? 0 }
                precondition(bytes == values.count * valueBytes)
            }
        }
        print()
    }
}
