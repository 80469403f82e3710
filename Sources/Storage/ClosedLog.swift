import Essentials
import NIOCore
import Records

/// What a log was when it was closed in order, so that the next start need not look for it in its files.
///
/// All of it can be found there too. It is used at most once, only after a clean stop, and only if the
/// last segment is as long as it was.
struct ClosedLog: Equatable {
    struct Segment: Equatable {
        var baseOffset: Offset
        var size: Int
    }

    /// The file that says whose log it is; empty for a log that has none.
    var metadata: [UInt8]
    /// In the order of their offsets; never empty.
    var segments: [Segment]
    var epochs: [EpochCache.Entry]
    var logStartOffset: Offset
    var logEndOffset: Offset
    var lastBatchEpoch: LeaderEpoch
    /// The names of the files that tell of its producers.
    var producerFiles: [String]

    /// What `log`, which was just closed, is; `nil` if that is not all there is in its folder.
    ///
    /// Whatever else is found there, a leftover or something that a later release keeps, is for a start
    /// to look at that goes through the files.
    init?(_ log: Log) throws(FileError) {
        guard log.segments.count <= Self.maxCount, log.epochs.entries.count <= Self.maxCount else {
            return nil
        }
        var expected: Set<String> = [PartitionMetadata.fileName, EpochCache.fileName]
        for segment in log.segments {
            let name = segment.name
            expected.formUnion([name.log, name.offsetIndex, name.timeIndex])
        }
        var names = try log.fileSystem.contents(of: log.directory)
        let isOfProducers = { (name: String) in
            name.hasSuffix(ProducerSnapshots.suffix) || name.hasSuffix(TransactionIndexes.suffix)
        }
        producerFiles = names.filter(isOfProducers)
        guard producerFiles.count <= Self.maxCount else { return nil }
        names.removeAll(where: isOfProducers)
        guard names.allSatisfy(expected.contains),
            names.count(where: { $0.hasSuffix(".log") }) == log.segments.count
        else { return nil }
        let metadata = "\(log.directory)/\(PartitionMetadata.fileName)"
        self.metadata = try log.fileSystem.readFile(metadata, limit: Self.maxCount) ?? []
        segments = log.segments.map { Segment(baseOffset: $0.baseOffset, size: $0.size) }
        epochs = log.epochs.entries
        logStartOffset = log.logStartOffset
        logEndOffset = log.logEndOffset
        lastBatchEpoch = log.lastBatchEpoch
    }
}

// MARK: The file

extension ClosedLog {
    static let fileName = ".closed-logs"
    /// The most segments, epochs and bytes of metadata; a log with more is not listed.
    private static let maxCount = 4_096
    private static let magic: UInt32 = 0x4d4c_434c  // "MLCL"
    /// The largest list that is read.
    static let maxBytes = 64 << 20

    /// The file for these logs, by their folders, and its checksum; logs that don't fit are left out.
    static func encode(_ logs: [String: ClosedLog]) -> (bytes: [UInt8], checksum: UInt32) {
        var buffer = ByteBuffer()
        buffer.writeInteger(magic)
        for (folder, log) in logs.sorted(by: { $0.key < $1.key }) {
            let end = buffer.writerIndex
            log.write(folder, to: &buffer)
            if buffer.writerIndex > maxBytes { buffer.moveWriterIndex(to: end) }
        }
        let checksum = buffer.withUnsafeReadableBytes { CRC32C.checksum($0) }
        return (Array(buffer.readableBytesView), checksum)
    }

    private func write(_ folder: String, to buffer: inout ByteBuffer) {
        buffer.writeInteger(UInt16(clamping: folder.utf8.count))
        buffer.writeString(folder)
        buffer.writeInteger(UInt16(clamping: metadata.count))
        buffer.writeBytes(metadata)
        buffer.writeInteger(logStartOffset.rawValue)
        buffer.writeInteger(logEndOffset.rawValue)
        buffer.writeInteger(lastBatchEpoch.rawValue)
        buffer.writeInteger(UInt16(clamping: segments.count))
        for segment in segments {
            buffer.writeInteger(segment.baseOffset.rawValue)
            buffer.writeInteger(Int64(segment.size))
        }
        buffer.writeInteger(UInt16(clamping: epochs.count))
        for entry in epochs {
            buffer.writeInteger(entry.epoch.rawValue)
            buffer.writeInteger(entry.startOffset.rawValue)
        }
        buffer.writeInteger(UInt16(clamping: producerFiles.count))
        for name in producerFiles {
            buffer.writeInteger(UInt16(clamping: name.utf8.count))
            buffer.writeString(name)
        }
    }

    /// The logs in a file, by their folders; none unless it is the one with this checksum, and all of it
    /// makes sense.
    static func decode(_ bytes: [UInt8], checksum: UInt32) -> [String: ClosedLog] {
        guard bytes.withUnsafeBytes({ CRC32C.checksum($0) }) == checksum else { return [:] }
        var buffer = ByteBuffer(bytes: bytes)
        guard buffer.readInteger(as: UInt32.self) == magic else { return [:] }
        var logs: [String: ClosedLog] = [:]
        while buffer.readableBytes > 0 {
            guard let (folder, log) = read(from: &buffer) else { return [:] }
            logs[folder] = log
        }
        return logs
    }

    private static func read(from buffer: inout ByteBuffer) -> (String, ClosedLog)? {
        guard let nameLength = buffer.readInteger(as: UInt16.self),
            let folder = buffer.readString(length: Int(nameLength)),
            let metadataLength = buffer.readInteger(as: UInt16.self),
            let metadata = buffer.readBytes(length: Int(metadataLength)),
            let (start, end, lastEpoch, segmentCount) = buffer.readMultipleIntegers(
                as: (Int64, Int64, Int32, UInt16).self),
            let segments = readSegments(Int(segmentCount), from: &buffer),
            let epochCount = buffer.readInteger(as: UInt16.self),
            let epochs = readEpochs(Int(epochCount), from: &buffer),
            let producerFiles = readNames(from: &buffer),
            let first = segments.first, let last = segments.last
        else { return nil }
        // What follows relies on it.
        guard start >= first.baseOffset.rawValue, end < Int64.max >> 1,
            end >= max(start, last.baseOffset.rawValue),
            segments.count == 1 || start < segments[1].baseOffset.rawValue,
            epochs.last.map({ $0.startOffset.rawValue <= end }) ?? true,
            (lastEpoch >= -1), lastEpoch <= epochs.last?.epoch.rawValue ?? -1
        else { return nil }
        let log = ClosedLog(
            metadata: metadata, segments: segments, epochs: epochs,
            logStartOffset: Offset(start), logEndOffset: Offset(end),
            lastBatchEpoch: LeaderEpoch(lastEpoch), producerFiles: producerFiles)
        return (folder, log)
    }

    private static func readSegments(
        _ count: Int, from buffer: inout ByteBuffer
    ) -> [Segment]? {
        guard count > 0, buffer.readableBytes >= count * 16 else { return nil }
        var segments: [Segment] = []
        segments.reserveCapacity(count)
        for _ in 0..<count {
            guard let (base, size) = buffer.readMultipleIntegers(as: (Int64, Int64).self),
                base >= 0, base > segments.last?.baseOffset.rawValue ?? -1, size >= 0,
                size <= Int64(UInt32.max)
            else { return nil }
            segments.append(Segment(baseOffset: Offset(base), size: Int(size)))
        }
        return segments
    }

    private static func readEpochs(
        _ count: Int, from buffer: inout ByteBuffer
    ) -> [EpochCache.Entry]? {
        guard buffer.readableBytes >= count * 12 else { return nil }
        var epochs: [EpochCache.Entry] = []
        epochs.reserveCapacity(count)
        for _ in 0..<count {
            guard let (epoch, start) = buffer.readMultipleIntegers(as: (Int32, Int64).self),
                epoch >= 0, LeaderEpoch(epoch) > epochs.last?.epoch ?? .none, start >= 0,
                start > epochs.last?.startOffset.rawValue ?? -1
            else { return nil }
            epochs.append(
                EpochCache.Entry(epoch: LeaderEpoch(epoch), startOffset: Offset(start)))
        }
        return epochs
    }
}

extension ClosedLog {
    private static func readNames(from buffer: inout ByteBuffer) -> [String]? {
        guard let count = buffer.readInteger(as: UInt16.self) else { return nil }
        var names: [String] = []
        for _ in 0..<count {
            guard let length = buffer.readInteger(as: UInt16.self),
                let name = buffer.readString(length: Int(length)), !name.contains("/")
            else { return nil }
            names.append(name)
        }
        return names
    }

    private init(
        metadata: [UInt8], segments: [Segment], epochs: [EpochCache.Entry],
        logStartOffset: Offset, logEndOffset: Offset, lastBatchEpoch: LeaderEpoch,
        producerFiles: [String]
    ) {
        self.metadata = metadata
        self.segments = segments
        self.epochs = epochs
        self.logStartOffset = logStartOffset
        self.logEndOffset = logEndOffset
        self.lastBatchEpoch = lastBatchEpoch
        self.producerFiles = producerFiles
    }
}
