import Glibc

/// Bytes on their way to a file descriptor, gathered into large writes.
struct ByteSink {
    private let descriptor: Int32
    private let limit: Int
    private var bytes: [UInt8] = []

    /// The reader has gone (a closed pipe): nothing more can be written.
    private(set) var isBroken = false

    init(_ descriptor: Int32, limit: Int = 256 * 1024) {
        self.descriptor = descriptor
        self.limit = limit
        bytes.reserveCapacity(limit + 4096)
    }

    mutating func write(_ source: UnsafeRawBufferPointer) throws(CommandFailure) {
        bytes.append(contentsOf: source)
        if bytes.count >= limit { try flush() }
    }

    mutating func write(_ text: String) throws(CommandFailure) {
        bytes.append(contentsOf: text.utf8)
        if bytes.count >= limit { try flush() }
    }

    mutating func write(_ byte: UInt8) {
        bytes.append(byte)
    }

    /// Writes out what has been gathered; a closed pipe is no error, but `isBroken`.
    mutating func flush() throws(CommandFailure) {
        var start = 0
        while start < bytes.count, !isBroken {
            let count = bytes.withUnsafeBytes { bytes in
                Glibc.write(
                    descriptor, bytes.baseAddress.map { $0 + start }, bytes.count - start)
            }
            if count >= 0 {
                start += count
            } else if errno == EPIPE {
                isBroken = true
            } else if errno == EAGAIN {
                // Somebody made our standard output non-blocking: wait until it takes more.
                var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = Glibc.poll(&poll, 1, -1)
            } else if errno != EINTR {
                throw CommandFailure("cannot write the output: \(systemMessage(errno))")
            }
        }
        bytes.removeAll(keepingCapacity: true)
    }
}
