import Glibc

/// Splits what a descriptor gives into lines, in large reads and without a string a line.
///
/// `fill`, then `next` until it has no more; again until `fill` is false. A line ends before its line
/// feed; the last one may go without.
struct LineReader {
    private let descriptor: Int32
    private var bytes: [UInt8]
    /// What has been read and not yet given out.
    private var start = 0
    private var end = 0
    /// No line feed lies before this.
    private var searched = 0
    private var isAtEnd = false

    init(_ descriptor: Int32, chunk: Int = 1 << 20) {
        self.descriptor = descriptor
        bytes = [UInt8](repeating: 0, count: chunk)
    }

    /// Reads more; false at the end of input, or when the user wants to stop.
    mutating func fill() throws(CommandFailure) -> Bool {
        if isAtEnd { return false }
        if start > 0 {
            bytes.withUnsafeMutableBytes { bytes in
                if let base = bytes.baseAddress { memmove(base, base + start, end - start) }
            }
            end -= start
            searched -= start
            start = 0
        }
        if end == bytes.count {
            // One line larger than the buffer; the broker sets the limit, this one is only sanity.
            guard bytes.count < 1 << 30 else {
                throw CommandFailure("a line of the input is longer than 1 GiB")
            }
            bytes.append(contentsOf: repeatElement(0, count: bytes.count))
        }
        while true {
            guard waitForInput() else {
                isAtEnd = true
                return false
            }
            let count = bytes.withUnsafeMutableBytes { bytes in
                read(descriptor, bytes.baseAddress.map { $0 + end }, bytes.count - end)
            }
            if count > 0 {
                end += count
                return true
            }
            if count == 0 {
                isAtEnd = true
                return start < end
            }
            guard errno == EINTR || errno == EAGAIN else {
                throw CommandFailure("cannot read the input: \(systemMessage(errno))")
            }
        }
    }

    /// The next line; `nil` when more has to be read first.
    mutating func next() -> Range<Int>? {
        let from = searched
        let found = bytes.withUnsafeBytes { bytes -> Int? in
            guard let base = bytes.baseAddress, from < end,
                let feed = memchr(base + from, 0x0A, end - from)
            else { return nil }
            return UnsafeRawPointer(feed) - base
        }
        guard let found else {
            searched = end
            guard isAtEnd, start < end else { return nil }
            defer { start = end }
            return start..<end
        }
        defer {
            start = found + 1
            searched = start
        }
        return start..<found
    }

    func withBytes<Result>(
        of line: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) rethrows -> Result {
        try bytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[line])) }
    }

    /// Waits for input or for a signal; false for a signal.
    private func waitForInput() -> Bool {
        var polls = [
            pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: Interruption.descriptor, events: Int16(POLLIN), revents: 0),
        ]
        while poll(&polls, 2, -1) < 0, errno == EINTR {}
        return !Interruption.isRequested
    }
}
