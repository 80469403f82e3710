internal import Essentials
internal import Foundation
internal import Glibc
internal import NIOCore
internal import Records
internal import Storage

/// Compares ways to send a segment that is in the page cache over loopback TCP, in HTTP/2 DATA frames of
/// several sizes, and what `Log.readCached` makes of it.
///
/// The receiver is a thread that drops what it gets. Its processor time is given apart: on loopback, what
/// the sender doesn't copy, the receiver does.
struct Serve {
    private enum Way: String, CaseIterable {
        /// `pread` into one buffer; frame head and payload by one `writev`.
        case reused = "pread into a reused buffer, writev"
        /// The same into a buffer of its own each time, as a reader that hands them on does.
        case fresh = "pread into a fresh buffer, writev"
        /// Head by `send` with `MSG_MORE`, payload by `sendfile`.
        case sendfile = "send the head, sendfile"
        /// The file mapped, by `writev`.
        case mapped = "mmap, writev"
        /// No frames: one `sendfile` after the other.
        case bare = "bare sendfile"
        /// A log read sequentially by the frame, each by `writev`.
        case log = "Log.readCached, writev"
    }

    private let directory: String
    private let rounds: Int
    private let bytes: Int
    private let batchBytes: Int

    private static let sizes = [16 << 10, 64 << 10, 256 << 10, 1 << 20]

    init(_ options: Options, in directory: String) {
        self.directory = directory
        rounds = options.count("rounds", 5)
        bytes = options.count("megabytes", 512) << 20
        batchBytes = options.count("batch", 16 << 10)
    }

    func run() throws {
        let (log, _) = try Log.open(at: "\(directory)/log", afterCleanShutdown: false)
        try fill(log)
        let path = "\(directory)/log/00000000000000000000.log"
        let file = check(open(path, O_RDONLY), "open \(path)")
        let size = Int(check(lseek(file, 0, SEEK_END), "look at \(path)"))
        print(
            "Medians of \(rounds) rounds, one way after the other in each; \(size >> 20) MB in"
                + " batches of \(batchBytes) bytes, all in the page cache.")
        printHeader(
            ["way"] + Self.sizes.map { "frames of \(sizeText($0)): MB/s, CPU s/GB, receiver's" })
        var rates: [Way: [[Double]]] = [:]
        var costs: [Way: [[Double]]] = [:]
        var receivers: [Way: [[Double]]] = [:]
        for _ in 0..<rounds {
            for (column, frame) in Self.sizes.enumerated() {
                for way in Way.allCases {
                    let (seconds, processor, receiver) = try measure(way, frame, file, size, log)
                    let megabytes = Double(size) / 1e6
                    rates[way, default: Self.sizes.map { _ in [] }][column]
                        .append(megabytes / seconds)
                    costs[way, default: Self.sizes.map { _ in [] }][column]
                        .append(processor / megabytes * 1e3)
                    receivers[way, default: Self.sizes.map { _ in [] }][column]
                        .append(receiver / megabytes * 1e3)
                }
            }
        }
        for way in Way.allCases {
            guard let rates = rates[way], let costs = costs[way], let receivers = receivers[way]
            else { continue }
            printRow(
                [way.rawValue]
                    + Self.sizes.indices.map {
                        "\(text(rates[$0].median)), \(text(costs[$0].median, 3)),"
                            + " \(text(receivers[$0].median, 3))"
                    })
        }
        print("\nReading alone, 1 MB at a time:")
        printHeader(["way", "MB/s", "CPU s/GB"])
        try readAlone(file, size, log)
        close(file)
        try log.close(clean: false)
    }

    private func fill(_ log: Log) throws {
        var builder = RecordBatchBuilder()
        let value = ByteBuffer(repeating: 0x78, count: 1_000)
        while builder.recordCount * 1_010 < batchBytes - 500 {
            builder.append(key: nil, value: value, timestamp: 1)
        }
        let batch = builder.finish()
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 30)
        while log.byteCount + batch.readableBytes < bytes {
            try log.appendAsLeader(batch, headers: headers, leaderEpoch: 0)
        }
        try log.flush()
    }

    // MARK: Sending

    private func measure(
        _ way: Way, _ frame: Int, _ file: Int32, _ size: Int, _ log: Log
    ) throws -> (seconds: Double, processor: Double, receiver: Double) {
        let (sender, receiver) = connectedSockets()
        let drained = Thread { drain(receiver) }
        drained.start()
        let start = now()
        let startProcessor = threadTime()
        switch way {
        case .reused:
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: frame, alignment: 4_096)
            defer { buffer.deallocate() }
            for at in stride(from: 0, to: size, by: frame) {
                let count = check(pread(file, buffer.baseAddress, frame, at), "read")
                send(sender, UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            }
        case .fresh:
            for at in stride(from: 0, to: size, by: frame) {
                var buffer = ByteBufferAllocator().buffer(capacity: frame)
                buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: frame) {
                    check(pread(file, $0.baseAddress, frame, at), "read")
                }
                buffer.withUnsafeReadableBytes { send(sender, $0) }
            }
        case .sendfile:
            for at in stride(from: 0, to: size, by: frame) {
                var position = at
                let end = min(at + frame, size)
                var head: (UInt64, UInt8) = (0, 0)
                check(Glibc.send(sender, &head, 9, Int32(MSG_MORE)), "send")
                while position < end {
                    check(Glibc.sendfile(sender, file, &position, end - position), "send a file")
                }
            }
        case .bare:
            var position = 0
            while position < size {
                let count = min(frame, size - position)
                check(Glibc.sendfile(sender, file, &position, count), "send a file")
            }
        case .mapped:
            let map = mmap(nil, size, PROT_READ, MAP_SHARED, file, 0)
            let all = UnsafeRawBufferPointer(start: map, count: size)
            for at in stride(from: 0, to: size, by: frame) {
                send(sender, UnsafeRawBufferPointer(rebasing: all[at..<min(at + frame, size)]))
            }
            munmap(map, size)
        case .log:
            var offset: Offset = 0
            while offset < log.logEndOffset {
                let batches = try read(log, from: offset, maxBytes: frame)
                offset = batches.end
                batches.bytes.withUnsafeReadableBytes { send(sender, $0) }
            }
        }
        let processor = threadTime() - startProcessor
        shutdown(sender, Int32(SHUT_WR))
        // The receiver says when it has everything.
        var receiverTime = 0.0
        check(recv(sender, &receiverTime, 8, Int32(MSG_WAITALL)), "receive")
        let seconds = now() - start
        close(sender)
        return (seconds, processor, receiverTime)
    }

    /// Sends a frame's head and `payload` with as few calls as possible.
    private func send(_ socket: Int32, _ payload: UnsafeRawBufferPointer) {
        var head: (UInt64, UInt8) = (0, 0)
        var sent = 0
        withUnsafeMutableBytes(of: &head) { head in
            while sent < 9 + payload.count {
                let parts =
                    sent < 9
                    ? [
                        iovec(iov_base: head.baseAddress?.advanced(by: sent), iov_len: 9 - sent),
                        iovec(
                            iov_base: UnsafeMutableRawPointer(mutating: payload.baseAddress),
                            iov_len: payload.count),
                    ]
                    : [
                        iovec(
                            iov_base: UnsafeMutableRawPointer(
                                mutating: payload.baseAddress?.advanced(by: sent - 9)),
                            iov_len: payload.count - (sent - 9))
                    ]
                sent += check(writev(socket, parts, Int32(parts.count)), "send")
            }
        }
    }

    private func read(_ log: Log, from offset: Offset, maxBytes: Int) throws -> ReadBatches {
        var read = try log.readCached(from: offset, below: .max, maxBytes: maxBytes)
        while true {
            switch read {
            case .found(let batches):
                if let batches { return batches }
                return ReadBatches(end: log.logEndOffset)
            case .needsDisk(let cold): read = try log.resume(cold.perform())
            }
        }
    }

    private func readAlone(_ file: Int32, _ size: Int, _ log: Log) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4_096)
        defer { buffer.deallocate() }
        let ways: [(String, () throws -> Void)] = [
            (
                "bare pread",
                {
                    for at in stride(from: 0, to: size, by: buffer.count) {
                        check(pread(file, buffer.baseAddress, buffer.count, at), "read")
                    }
                }
            ),
            (
                "Log.readCached",
                {
                    var offset: Offset = 0
                    while offset < log.logEndOffset {
                        offset = try read(log, from: offset, maxBytes: buffer.count).end
                    }
                }
            ),
        ]
        var results: [String: [(rate: Double, cost: Double)]] = [:]
        for _ in 0..<rounds {
            for (name, body) in ways {
                let (start, startProcessor) = (now(), threadTime())
                try body()
                let megabytes = Double(size) / 1e6
                results[name, default: []].append(
                    (megabytes / (now() - start), (threadTime() - startProcessor) / megabytes * 1e3)
                )
            }
        }
        for (name, _) in ways {
            let values = results[name] ?? []
            printRow([
                name, text(values.map(\.rate).median), text(values.map(\.cost).median, 3),
            ])
        }
    }
}

/// Processor seconds of this thread so far.
private func threadTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Drops what arrives, and at the end tells how much processor time that took.
private func drain(_ socket: Int32) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4_096)
    defer { buffer.deallocate() }
    while recv(socket, buffer.baseAddress, buffer.count, 0) > 0 {}
    var time = threadTime()
    check(send(socket, &time, 8, 0), "send")
    close(socket)
}

/// Two ends of one TCP connection over loopback.
private func connectedSockets() -> (Int32, Int32) {
    let stream = Int32(SOCK_STREAM.rawValue)
    let listener = check(socket(AF_INET, stream, 0), "open a socket")
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    return withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
            check(bind(listener, address, length), "bind")
            check(listen(listener, 1), "listen")
            check(getsockname(listener, address, &length), "look at a socket")
            let client = check(socket(AF_INET, stream, 0), "open a socket")
            check(connect(client, address, length), "connect")
            let server = check(accept(listener, nil, nil), "accept")
            close(listener)
            var one: Int32 = 1
            setsockopt(
                client, Int32(IPPROTO_TCP), TCP_NODELAY, &one,
                socklen_t(MemoryLayout<Int32>.size))
            return (client, server)
        }
    }
}
