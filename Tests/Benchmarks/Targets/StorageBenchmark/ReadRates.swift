internal import Essentials
internal import Foundation
internal import Glibc
internal import NIOCore
internal import Storage

/// Reads a log from one end to the other, 1 MB at a time, beside bare loops over the same file.
struct ReadRates {
    private let directory: String
    private let rounds: Int
    private let bytes: Int
    private static let readBytes = 1 << 20

    init(_ options: Options, in directory: String) {
        self.directory = directory
        rounds = options.count("rounds", 3)
        bytes = min(options.count("megabytes", 2_048) << 20, Int(Int32.max) - (1 << 20))
    }

    func run() throws {
        let content = try Content(bytes: 64 << 10)
        var config = LogConfig()
        // One file, so that the loops have the same to do.
        config.segmentBytes = Int(Int32.max)
        let (log, _) = try Log.open(
            at: "\(directory)/t-0", config: config, afterCleanShutdown: false)
        var written = 0
        while written < bytes {
            try content.append(to: log)
            written += content.bytes
        }
        try log.flush()
        let path = "\(directory)/t-0/00000000000000000000.log"
        let file = check(open(path, O_RDONLY | O_CLOEXEC), "open \(path)")
        defer { close(file) }

        print("\(written >> 20) MB; medians of \(rounds) rounds.")
        printHeader(["", "cached: MB/s", "CPU s/GB", "from the disk: MB/s", "CPU s/GB"])
        let ways: [(String, () throws -> Void)] = [
            ("Log.read", { try read(log) }),
            ("pread", { pread(file, written) }),
            ("sendfile to /dev/null", { sendfile(file, written, toSocket: false) }),
            ("sendfile to a socket", { sendfile(file, written, toSocket: true) }),
        ]
        var rates = [[[Double]]](repeating: [[], [], [], []], count: ways.count)
        for _ in 0..<rounds {
            for isCold in [false, true] {
                for (number, way) in ways.enumerated() {
                    if isCold { posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) }
                    let start = now()
                    let startProcessor = processorTime()
                    try way.1()
                    let column = isCold ? 2 : 0
                    rates[number][column].append(Double(written) / (now() - start) / 1e6)
                    rates[number][column + 1].append(
                        (processorTime() - startProcessor) / Double(written) * 1e9)
                }
            }
        }
        for (way, columns) in zip(ways, rates) {
            printRow(
                [way.0]
                    + columns.enumerated().map { text($1.median, $0 % 2 == 0 ? 0 : 2) })
        }
    }

    private func read(_ log: Log) throws {
        var offset = log.logStartOffset
        // All batches have the same size but the last read's.
        while offset < log.logEndOffset {
            let bytes = try log.read(from: offset, below: .max, maxBytes: Self.readBytes)
            var next = bytes.readerIndex
            // The length and the last offset's distance of each batch.
            while let length: Int32 = bytes.getInteger(at: next + 8),
                let base: Int64 = bytes.getInteger(at: next),
                let last: Int32 = bytes.getInteger(at: next + 23)
            {
                offset = Offset(base + Int64(last) + 1)
                next += Int(length) + 12
            }
        }
    }

    private func pread(_ file: Int32, _ size: Int) {
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: Self.readBytes, alignment: 4_096)
        defer { buffer.deallocate() }
        var position = 0
        while position < size {
            position += check(
                Glibc.pread(file, buffer, Self.readBytes, off_t(position)), "read")
        }
    }

    private func sendfile(_ file: Int32, _ size: Int, toSocket: Bool) {
        var target: Int32
        var reader: Thread?
        let done = Arrivals<Bool>()
        if toSocket {
            var pair: [Int32] = [0, 0]
            check(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair), "make a socket")
            let other = pair[1]
            target = pair[0]
            reader = Thread {
                let buffer = UnsafeMutableRawPointer.allocate(
                    byteCount: Self.readBytes, alignment: 4_096)
                while Glibc.read(other, buffer, Self.readBytes) > 0 {}
                buffer.deallocate()
                close(other)
                done.add(true)
            }
            reader?.start()
        } else {
            target = check(open("/dev/null", O_WRONLY | O_CLOEXEC), "open /dev/null")
        }
        var position = off_t(0)
        while position < size {
            check(Glibc.sendfile(target, file, &position, Self.readBytes), "send")
        }
        close(target)
        if toSocket { _ = done.take() }
    }
}
