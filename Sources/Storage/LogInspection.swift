package import Essentials
package import NIOCore
package import Records

/// What is wrong with a file, in words for an operator.
package struct LogFinding: Sendable, Hashable {
    package var path: String
    package var problem: String
}

/// Walks over the batches of a segment's file, and changes nothing; for tools.
package struct SegmentFileReader {
    package struct Batch: Sendable {
        package var header: RecordBatchHeader
        /// Where it starts in the file.
        package var position: Int
        /// The whole batch.
        package var bytes: ByteBuffer
    }

    package let path: String
    package let baseOffset: Offset
    package let size: Int
    private let file: any File
    private var scanner: BatchScanner

    /// - Parameter checksCRC: whether a batch with a wrong checksum ends the walk.
    package init(
        _ path: String, checksCRC: Bool = true, fileSystem: any FileSystem = .local
    ) throws(LogError) {
        let fileName = path.split(separator: "/").last ?? ""
        guard let name = SegmentName(fileName), fileName == name.log else {
            throw .unexpectedFile(path, reason: "segments are called by 20 digits and .log")
        }
        self.path = path
        baseOffset = name.baseOffset
        let file = try io { () throws(FileError) in try fileSystem.open(path, .readOnly) }
        size = try io { () throws(FileError) in try file.size() }
        self.file = file
        scanner = BatchScanner(file, from: 0, to: size, checksCRC: checksCRC, window: 1 << 20)
    }

    /// The next batch; `nil` where the file ends.
    ///
    /// - Throws: `LogError.corruptBatch` where it does not end with a batch; then the walk is over.
    package mutating func next() throws(LogError) -> Batch? {
        switch try io({ () throws(FileError) in try scanner.next() }) {
        case .end:
            return nil
        case .flaw(let error, let position):
            throw .corruptBatch(segment: path, position: position, error)
        case .batch(let header, let position):
            var bytes = [UInt8](repeating: 0, count: header.totalSize)
            let count = try io { () throws(FileError) in
                try file.read(intoArray: &bytes, at: position)
            }
            guard count == bytes.count else {
                throw .corruptBatch(
                    segment: path, position: position,
                    .incomplete(needed: bytes.count, available: count))
            }
            return Batch(header: header, position: position, bytes: ByteBuffer(bytes: bytes))
        }
    }
}

/// An offline look at everything in a partition's folder, or in a log directory.
package struct LogInspection {
    package private(set) var findings: [LogFinding] = []
    package private(set) var segmentCount = 0
    package private(set) var batchCount = 0
    package private(set) var byteCount = 0
    private let fileSystem: any FileSystem
    /// Whether offsets may be missing between batches, as they are after compaction.
    private let allowsGaps: Bool

    package init(allowsGaps: Bool = false, fileSystem: any FileSystem = .local) {
        self.allowsGaps = allowsGaps
        self.fileSystem = fileSystem
    }

    /// Looks at all partitions in a log directory, or at one partition's folder.
    package mutating func inspect(_ directory: String) throws(LogError) {
        let names = try io { () throws(FileError) in try fileSystem.contents(of: directory) }
        if names.contains(where: { $0.hasSuffix(".log") }) {
            return try inspectFolder(directory, names, LogCheckpoint())
        }
        let checkpoints = try io { () throws(FileError) in
            try DirectoryCheckpoints(reading: directory, fileSystem: fileSystem)
        }
        var known = checkpoints.folders
        for name in names where PartitionFolder(name) != nil {
            let folder = "\(directory)/\(name)"
            guard try io({ () throws(FileError) in try fileSystem.isDirectory(folder) }) else {
                continue
            }
            known.remove(name)
            let files = try io { () throws(FileError) in try fileSystem.contents(of: folder) }
            try inspectFolder(folder, files, checkpoints[name])
        }
        for folder in known.sorted() where checkpoints[folder].highWatermark > 0 {
            report("\(directory)/\(folder)", "is missing, though records of it were committed")
        }
    }

    private mutating func report(_ path: String, _ problem: String) {
        findings.append(LogFinding(path: path, problem: problem))
    }

    private mutating func inspectFolder(
        _ folder: String, _ names: [String], _ checkpoint: LogCheckpoint
    ) throws(LogError) {
        let segments = names.filter { $0.hasSuffix(".log") }
        var expected: Offset?
        var epochs = EpochCache()
        for name in segments {
            let path = "\(folder)/\(name)"
            guard let segment = SegmentName(name) else {
                report(path, "is no segment: those are called by 20 digits and .log")
                continue
            }
            let base = segment.baseOffset
            if let end = expected, base < end || (base > end && !allowsGaps) {
                report(path, "starts at offset \(base), but the segment before it ends at \(end)")
            }
            // After damage nobody knows where the segment ends.
            expected = try inspectSegment(path, at: segment, of: folder, &epochs)
        }
        if let end = expected, end < checkpoint.floor {
            report(folder, "ends at offset \(end), but \(checkpoint.floor) was durable")
        }
        if let start = checkpoint.logStartOffset,
            let first = segments.first.flatMap({ SegmentName($0) }),
            first.baseOffset > start
        {
            report(folder, "starts at offset \(first.baseOffset), but \(start) should be its first")
        }
        try inspectEpochs(folder, epochs)
        if names.contains(LogRecovery.damageMarker) {
            report(folder, "was found damaged when it was last opened")
        }
    }

    /// Returns where the segment ends; `nil` when that can't be told.
    private mutating func inspectSegment(
        _ path: String, at name: SegmentName, of folder: String, _ epochs: inout EpochCache
    ) throws(LogError) -> Offset? {
        segmentCount += 1
        var end = name.baseOffset
        let interval = try indexInterval(folder, name)
        var index = SegmentIndex(baseOffset: name.baseOffset, interval: interval ?? 4_096)
        do throws(LogError) {
            var reader = try SegmentFileReader(path, fileSystem: fileSystem)
            byteCount += reader.size
            while let batch = try reader.next() {
                batchCount += 1
                let header = batch.header
                if header.baseOffset < end || (header.baseOffset > end && !allowsGaps) {
                    report(
                        path,
                        "byte \(batch.position): offset \(header.baseOffset) follows where \(end)"
                            + " should")
                }
                if header.leaderEpoch < epochs.latest {
                    report(
                        path,
                        "byte \(batch.position): leader epoch \(header.leaderEpoch) follows"
                            + " \(epochs.latest)")
                }
                do throws(RecordError) {
                    var records = RecordReader(batch.bytes, includesControlBatches: true)
                    while try records.next() != nil {}
                } catch {
                    report(path, "byte \(batch.position): \(error)")
                }
                epochs.assign(header.leaderEpoch, startOffset: header.baseOffset)
                index.add(header, at: batch.position)
                end = header.nextOffset
            }
            try inspectIndex(index, interval, folder, name, size: reader.size)
            return end
        } catch {
            guard case .corruptBatch(_, let position, let cause) = error else { throw error }
            report(path, "byte \(position): \(cause)")
            return nil
        }
    }

    // MARK: Beside the batches

    private func indexInterval(
        _ folder: String, _ name: SegmentName
    ) throws(LogError) -> Int? {
        for file in [name.offsetIndex, name.timeIndex] {
            let bytes = try io { () throws(FileError) in
                try fileSystem.readFile("\(folder)/\(file)")
            }
            if let interval = bytes.flatMap({ SegmentIndex.interval(ofFile: $0) }) {
                return interval
            }
        }
        return nil
    }

    /// An index that is missing, or of an earlier size, is made anew and no finding.
    private mutating func inspectIndex(
        _ index: SegmentIndex, _ interval: Int?, _ folder: String, _ name: SegmentName, size: Int
    ) throws(LogError) {
        let expected = index.encoded(segmentSize: size)
        for (file, right) in [
            (name.offsetIndex, expected.offsets), (name.timeIndex, expected.times),
        ] {
            let path = "\(folder)/\(file)"
            guard
                let bytes = try io({ () throws(FileError) in try fileSystem.readFile(path) }),
                !bytes.isEmpty
            else { continue }
            if SegmentIndex.interval(ofFile: bytes) == nil {
                report(path, "is damaged; it is made anew when the log is opened")
            } else if SegmentIndex.segmentSize(ofFile: bytes) == size, bytes != right {
                report(path, "does not fit its segment; remove it, and it is made anew")
            }
        }
    }

    private mutating func inspectEpochs(_ folder: String, _ found: EpochCache) throws(LogError) {
        let path = "\(folder)/\(EpochCache.fileName)"
        guard let bytes = try io({ () throws(FileError) in try fileSystem.readFile(path) }) else {
            return
        }
        guard let stored = EpochCache(decoding: bytes) else {
            return report(path, "is damaged; it is made anew when the log is opened")
        }
        // The first may have started in what has been removed since.
        for entry in found.entries.dropFirst() {
            let known = stored.entries.first { $0.epoch == entry.epoch }
            guard let known, known.startOffset != entry.startOffset,
                known.startOffset > found.entries.first?.startOffset ?? 0
            else { continue }
            report(
                path,
                "leader epoch \(entry.epoch) starts at offset \(entry.startOffset), not"
                    + " \(known.startOffset)")
        }
    }
}

extension SegmentIndex {
    /// What the footer of an index file says; `nil` unless its checksum is right.
    private static func footer(of bytes: [UInt8]) -> (size: Int, interval: Int)? {
        guard bytes.count >= 40 else { return nil }
        let crc = bytes.withUnsafeBytes {
            CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0.dropLast(4)))
        }
        var footer = ByteBuffer(bytes: bytes.suffix(40))
        guard
            let (_, _, size, interval, _, stored) = footer.readMultipleIntegers(
                as: (UInt32, Int64, Int64, Int64, Int64, UInt32).self),
            stored == crc, size >= 0, (1...1 << 30).contains(interval)
        else { return nil }
        return (Int(size), Int(interval))
    }

    static func interval(ofFile bytes: [UInt8]) -> Int? { footer(of: bytes)?.interval }
    static func segmentSize(ofFile bytes: [UInt8]) -> Int? { footer(of: bytes)?.size }
}

/// An index file's entries, as they are; for tools.
package enum IndexFile {
    /// Each entry as an offset, and a position in the segment or a timestamp.
    package static func entries(
        of path: String, fileSystem: any FileSystem = .local
    ) throws(LogError) -> [(offset: Offset, value: Int64)] {
        let fileName = String(path.split(separator: "/").last ?? "")
        guard let name = SegmentName(fileName),
            [name.offsetIndex, name.timeIndex].contains(fileName)
        else { throw .unexpectedFile(path, reason: "it is no index of a segment") }
        guard let bytes = try io({ () throws(FileError) in try fileSystem.readFile(path) }) else {
            throw .unexpectedFile(path, reason: "it is not there, or too large")
        }
        guard SegmentIndex.interval(ofFile: bytes) != nil else {
            throw .unexpectedFile(path, reason: "it is damaged; it is made anew when needed")
        }
        var buffer = ByteBuffer(bytes: bytes.dropLast(40))
        var entries: [(offset: Offset, value: Int64)] = []
        if fileName == name.timeIndex {
            while let (time, relative) = buffer.readMultipleIntegers(as: (Int64, UInt32).self) {
                entries.append((name.baseOffset + Int64(relative), time))
            }
        } else {
            while let (relative, position) = buffer.readMultipleIntegers(as: (UInt32, UInt32).self)
            {
                entries.append((name.baseOffset + Int64(relative), Int64(position)))
            }
        }
        return entries
    }
}
