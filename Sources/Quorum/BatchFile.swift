internal import Essentials
internal import NIOCore
internal import Records
internal import Storage

/// Reads the record batches of one file, one after the other, checksums checked.
///
/// Only one batch is in memory at a time, and none larger than `maxBatchBytes`.
struct BatchFile: Sendable {
    /// Much larger than any batch that is written; a length above is no length.
    static let maxBatchBytes = 64 << 20
    private static let window = 256 << 10

    let path: String
    private let file: any File
    let size: Int
    /// Where the next batch starts.
    private(set) var position = 0
    /// What was read ahead, from `position` on.
    private var buffer = ByteBuffer()

    init(path: String, fileSystem: any FileSystem) throws(FileError) {
        self.path = path
        file = try fileSystem.open(path, .readOnly)
        size = try file.size()
    }

    enum Failure: Error {
        case file(FileError)
        case flaw(RecordError, position: Int)
    }

    /// The next batch, whole; `nil` at the end of the file.
    mutating func next() throws(Failure) -> (header: RecordBatchHeader, bytes: ByteBuffer)? {
        guard position < size else { return nil }
        try fill(RecordBatchHeader.size)
        let header: RecordBatchHeader
        do throws(RecordError) {
            header = try Self.header(of: buffer)
            guard header.totalSize <= Self.maxBatchBytes else {
                throw .tooLarge(bytes: header.totalSize, limit: Self.maxBatchBytes)
            }
            guard header.totalSize <= size - position else {
                throw .incomplete(needed: header.totalSize, available: size - position)
            }
        } catch {
            throw .flaw(error, position: position)
        }
        try fill(header.totalSize)
        guard let bytes = buffer.readSlice(length: header.totalSize) else {
            throw .flaw(
                .incomplete(needed: header.totalSize, available: buffer.readableBytes),
                position: position)
        }
        do throws(RecordError) {
            _ = try RecordBatches.headers(of: bytes)
        } catch {
            throw .flaw(error, position: position)
        }
        position += header.totalSize
        return (header, bytes)
    }

    /// Parses the header alone: the batch behind it may not be in memory yet.
    private static func header(of buffer: ByteBuffer) throws(RecordError) -> RecordBatchHeader {
        try buffer.withUnsafeReadableBytes { bytes -> Result<RecordBatchHeader, RecordError> in
            do throws(RecordError) {
                return .success(try RecordBatchHeader(parsing: bytes))
            } catch {
                return .failure(error)
            }
        }.get()
    }

    /// Sees to it that `count` bytes are in `buffer`, if the file has them.
    private mutating func fill(_ count: Int) throws(Failure) {
        guard buffer.readableBytes < count else { return }
        let known = buffer.readableBytes
        let wanted = min(max(count, Self.window), size - position)
        var bytes = ByteBufferAllocator().buffer(capacity: wanted)
        bytes.writeBuffer(&buffer)
        do throws(FileError) {
            try file.read(into: &bytes, count: wanted - known, at: position + known)
        } catch {
            throw .file(error)
        }
        buffer = bytes
    }
}

extension File {
    /// Reads up to `count` bytes to the end of `buffer`; fewer where the file ends.
    func read(
        into buffer: inout ByteBuffer, count: Int, at position: Int
    ) throws(FileError) {
        guard count > 0 else { return }
        var failure: FileError?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { bytes in
            do throws(FileError) {
                return try read(
                    into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<count]), at: position)
            } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
    }

    func write(_ buffer: ByteBuffer, at position: Int) throws(FileError) {
        var failure: FileError?
        buffer.withUnsafeReadableBytes { bytes in
            do throws(FileError) {
                try write(bytes, at: position)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }
}
