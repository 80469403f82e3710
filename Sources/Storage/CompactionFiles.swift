import Essentials
import NIOCore
import Records

/// Reads a segment's batches one after the other, and trusts none before its checksum is checked.
struct CompactionReader {
    private static let window = 1 << 20

    private let segment: Segment
    private let allowsGaps: Bool
    /// What was read last, from `chunkStart` on in the file.
    private var chunk = ByteBuffer()
    private var chunkStart = 0
    private var position = 0
    private var lastPosition = 0
    private var lastEpoch = LeaderEpoch.none
    /// The offset after the last batch.
    private(set) var nextOffset: Offset

    init(_ segment: Segment, _ config: LogConfig) {
        self.segment = segment
        allowsGaps = config.allowsOffsetGaps
        nextOffset = segment.baseOffset
    }

    mutating func next(
        _ progress: inout CompactionProgress
    ) throws(LogError) -> (RecordBatchHeader, ByteBuffer)? {
        guard position < segment.size else { return nil }
        lastPosition = position
        do throws(RecordError) {
            guard segment.size - position >= RecordBatchHeader.size else {
                throw .incomplete(
                    needed: RecordBatchHeader.size, available: segment.size - position)
            }
        } catch {
            throw corrupt(error)
        }
        try fill(RecordBatchHeader.size, &progress)
        let header: RecordBatchHeader
        do throws(RecordError) {
            header = try parseHeader()
            guard header.totalSize <= segment.size - position else {
                throw .incomplete(needed: header.totalSize, available: segment.size - position)
            }
        } catch {
            throw corrupt(error)
        }
        try checkLarge(header)
        try fill(header.totalSize, &progress)
        let batch = chunk.getSlice(
            at: chunk.readerIndex + position - chunkStart, length: header.totalSize)
        guard let batch else {
            throw corrupt(.incomplete(needed: header.totalSize, available: 0))
        }
        do throws(RecordError) {
            try batch.withUnsafeReadableBytes { bytes -> Result<Void, RecordError> in
                do throws(RecordError) {
                    return .success(try header.checkCRC(bytes))
                } catch {
                    return .failure(error)
                }
            }.get()
        } catch {
            throw corrupt(error)
        }
        guard header.baseOffset == nextOffset || (allowsGaps && header.baseOffset > nextOffset)
        else { throw .missingRecords(from: nextOffset, to: header.baseOffset) }
        guard header.leaderEpoch >= lastEpoch else {
            throw .epochFell(from: lastEpoch, to: header.leaderEpoch)
        }
        lastEpoch = header.leaderEpoch
        nextOffset = header.nextOffset
        position += header.totalSize
        return (header, batch)
    }

    /// What is wrong with the batch that was returned last.
    func corrupt(_ error: RecordError) -> LogError {
        .corruptBatch(segment: segment.path, position: lastPosition, error)
    }

    /// Checks a batch that takes more memory than the window has before it is given that, for what its
    /// length says may be wrong.
    private func checkLarge(_ header: RecordBatchHeader) throws(LogError) {
        guard header.totalSize > Self.window else { return }
        var scanner = try segment.scanner(from: position, checksCRC: true, window: Self.window)
        let step = try io { () throws(FileError) in try scanner.next() }
        if case .flaw(let error, _) = step { throw corrupt(error) }
    }

    private func parseHeader() throws(RecordError) -> RecordBatchHeader {
        try chunk.withUnsafeReadableBytes { bytes -> Result<RecordBatchHeader, RecordError> in
            do throws(RecordError) {
                return .success(
                    try RecordBatchHeader(
                        parsing: UnsafeRawBufferPointer(rebasing: bytes[(position - chunkStart)...])
                    ))
            } catch {
                return .failure(error)
            }
        }.get()
    }

    /// Sees to it that `count` bytes from `position` on are there; the file has them.
    private mutating func fill(
        _ count: Int, _ progress: inout CompactionProgress
    ) throws(LogError) {
        guard position + count > chunkStart + chunk.readableBytes else { return }
        let wanted = min(max(Self.window, count), segment.size - position)
        chunk = try SegmentReader(segment, waits: true).bytes(at: position, count: wanted)
        chunkStart = position
        try progress.read(wanted)
    }
}

/// Writes the segment that takes the place of others, to a file beside them.
struct CompactionWriter {
    private static let window = 1 << 20

    private let survey: CompactionSurvey
    private let name: SegmentName
    private var file: (any File)?
    private var pending = ByteBuffer()
    private var written = 0
    private(set) var index: SegmentIndex
    /// Offsets of one leader epoch that nothing has been written for yet.
    private var gap: (offsets: Range<Offset>, epoch: LeaderEpoch)?
    /// Placeholders that there were, less those that were written.
    private var placeholders = 0
    private var hasChanges = false

    init(_ survey: CompactionSurvey, base: Offset) {
        self.survey = survey
        name = SegmentName(base)
        index = SegmentIndex(baseOffset: base, interval: survey.config.indexIntervalBytes)
    }

    var size: Int { written + pending.readableBytes }
    private var path: String { "\(survey.directory)/\(name.cleaned)" }

    /// Whether anything differs from the one segment that was added.
    var isChanged: Bool { hasChanges || placeholders != 0 }

    /// Whether another segment may go into the same file.
    func hasRoom(for item: CompactionSurvey.Item) -> Bool {
        let (total, overflow) = size.addingReportingOverflow(item.size)
        let entries = index.offsets.count + item.size / max(1, survey.config.indexIntervalBytes) + 1
        return !overflow && total <= min(survey.config.segmentBytes, Int(Int32.max))
            && item.endOffset - name.baseOffset <= Int64(Int32.max)
            && entries * 12 <= survey.config.maxIndexBytes
    }

    mutating func add(
        _ header: RecordBatchHeader, _ batch: ByteBuffer, _ verdict: BatchVerdict,
        _ progress: inout CompactionProgress
    ) throws(LogError) {
        switch verdict {
        case .kept:
            try closeGap(progress)
            try write(header, batch, progress)
        case .replaced(let other, let otherHeader):
            hasChanges = true
            try closeGap(progress)
            try write(otherHeader, other, progress)
        case .dropped:
            if header.isPlaceholder { placeholders += 1 } else { hasChanges = true }
            try addToGap(header, progress)
        }
    }

    private mutating func addToGap(
        _ header: RecordBatchHeader, _ progress: CompactionProgress
    ) throws(LogError) {
        if let current = gap, current.epoch == header.leaderEpoch,
            header.nextOffset - current.offsets.lowerBound <= Int64(Int32.max)
        {
            gap = (current.offsets.lowerBound..<header.nextOffset, current.epoch)
            return
        }
        try closeGap(progress)
        gap = (header.baseOffset..<header.nextOffset, header.leaderEpoch)
    }

    private mutating func closeGap(_ progress: CompactionProgress) throws(LogError) {
        guard let gap else { return }
        self.gap = nil
        placeholders -= 1
        let (batch, header) = RecordBatches.placeholder(gap.offsets, epoch: gap.epoch)
        try write(header, batch, progress)
    }

    private mutating func write(
        _ header: RecordBatchHeader, _ batch: ByteBuffer, _ progress: CompactionProgress
    ) throws(LogError) {
        index.add(header, at: size)
        pending.writeImmutableBuffer(batch)
        if pending.readableBytes >= Self.window { try writePending(progress) }
    }

    private mutating func writePending(_ progress: CompactionProgress) throws(LogError) {
        guard pending.readableBytes > 0 || file == nil else { return }
        try progress.willWrite(pending.readableBytes)
        let file = try openFile()
        let position = written
        do throws(FileError) {
            try pending.withUnsafeReadableBytes { bytes -> Result<Void, FileError> in
                do throws(FileError) {
                    return .success(try file.write(bytes, at: position))
                } catch {
                    return .failure(error)
                }
            }.get()
        } catch {
            throw .io(error)
        }
        written += pending.readableBytes
        pending.clear()
    }

    private mutating func openFile() throws(LogError) -> any File {
        if let file { return file }
        let (path, permit) = (path, survey.permit)
        // Not in the folder of another log, which may have the same path by now.
        let file = try io { () throws(FileError) in
            try survey.files.withState { state, fileSystem throws(FileError) -> (any File)? in
                guard state.path != nil, state.permit == permit, state.swap == nil else {
                    return nil
                }
                return try fileSystem.open(path, .create)
            }
        }
        guard let file else { throw .closed }
        self.file = file
        return file
    }

    /// All of the segments is added.
    mutating func finish(_ progress: CompactionProgress) throws(LogError) {
        try closeGap(progress)
        try writePending(progress)
    }

    /// Makes the file's bytes durable.
    func sync() throws(LogError) {
        guard let file else { return }
        try survey.health.watch { () throws(FileError) in try file.sync() }
    }

    /// Removes the file.
    func discard() {
        guard file != nil else { return }
        // A leftover is removed at the next start.
        try? survey.fileSystem.remove(path)
    }
}
