import Essentials
import Records

/// Walks over a segment's batches from its file, reading ahead in pieces.
struct BatchScanner {
    enum Step {
        case batch(RecordBatchHeader, position: Int)
        /// `position` is the end of the last batch, and of what was to be read.
        case end(position: Int)
        /// What starts at `position` is no whole, valid batch.
        case flaw(RecordError, position: Int)
    }

    private let file: any File
    /// Where the bytes to look at end.
    private let end: Int
    /// Whether all bytes are read and their checksums compared, or only the headers.
    private let checksCRC: Bool
    /// Whether to wait for the disk, or to fail with `FileError.wouldWait`.
    private let waits: Bool
    private var position: Int
    private var window: [UInt8]
    private var windowStart = 0
    private var windowCount = 0

    init(
        _ file: any File, from position: Int, to end: Int, checksCRC: Bool, window: Int,
        waits: Bool = true
    ) {
        self.waits = waits
        self.file = file
        self.position = position
        self.end = end
        self.checksCRC = checksCRC
        let size = max(RecordBatchHeader.size, min(window, end - position))
        self.window = [UInt8](repeating: 0, count: size)
    }

    /// Goes on to the next batch.
    ///
    /// - Throws: when the file can't be read, which says nothing about what is in it.
    mutating func next() throws(FileError) -> Step {
        guard position < end else { return .end(position: position) }
        try fill(from: position, atLeast: RecordBatchHeader.size)
        let header: RecordBatchHeader
        do throws(RecordError) {
            header = try parseHeader()
        } catch {
            return .flaw(error, position: position)
        }
        guard header.totalSize <= end - position else {
            return .flaw(
                .incomplete(needed: header.totalSize, available: end - position),
                position: position)
        }
        if checksCRC {
            guard let crc = try checksum(of: header) else {
                return .flaw(
                    .incomplete(needed: header.totalSize, available: 0), position: position)
            }
            guard crc == header.crc else {
                return .flaw(
                    .checksumMismatch(stored: header.crc, computed: crc), position: position)
            }
        }
        defer { position += header.totalSize }
        return .batch(header, position: position)
    }

    private func parseHeader() throws(RecordError) -> RecordBatchHeader {
        try window.withUnsafeBytes { bytes -> Result<RecordBatchHeader, RecordError> in
            let from = position - windowStart
            let to = max(from, min(windowCount, from + RecordBatchHeader.size))
            do throws(RecordError) {
                return .success(
                    try RecordBatchHeader(
                        parsing: UnsafeRawBufferPointer(rebasing: bytes[from..<to])))
            } catch {
                return .failure(error)
            }
        }.get()
    }

    /// The checksum of the batch at `position`, taken in pieces, so that a length that lies costs no
    /// memory; `nil` when the file ends early.
    private mutating func checksum(of header: RecordBatchHeader) throws(FileError) -> UInt32? {
        let checksummedFrom = 21
        var at = position + checksummedFrom
        let to = position + header.totalSize
        var crc: UInt32 = 0
        while at < to {
            try fill(from: at, atLeast: 1)
            let count = min(to - at, windowStart + windowCount - at)
            guard count > 0 else { return nil }
            let from = at - windowStart
            crc = window.withUnsafeBytes {
                CRC32C.checksum(
                    UnsafeRawBufferPointer(rebasing: $0[from..<(from + count)]), continuing: crc)
            }
            at += count
        }
        return crc
    }

    /// Sees to it that the window holds `count` bytes from `start` on, if the file has them.
    private mutating func fill(from start: Int, atLeast count: Int) throws(FileError) {
        if start >= windowStart, start + count <= windowStart + windowCount { return }
        let wanted = min(window.count, end - start)
        windowStart = start
        windowCount = 0
        windowCount = try window.withUnsafeMutableBytes { bytes -> Result<Int, FileError> in
            do throws(FileError) {
                return .success(
                    try file.read(
                        into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<wanted]),
                        at: start, waits: waits))
            } catch {
                return .failure(error)
            }
        }.get()
    }
}
