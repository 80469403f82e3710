import Essentials
import NIOCore
import Records

/// What speeds up looking into one segment, by offset and by time.
///
/// It can always be made again by walking over the segment's batches. It is kept in memory for the segment that is written, and in two files (`.index`, `.timeindex`)
/// for the others. The files end in a footer with a checksum and with what they belong to, so that
/// one which is missing, cut, stale or another segment's is noticed, and made again.
struct SegmentIndex: Equatable {
    /// A batch starts at `position`, and its last offset is the segment's base plus `relativeOffset`.
    struct OffsetEntry: Equatable {
        var relativeOffset: UInt32
        var position: UInt32
    }

    /// No timestamp up to the batch that ends with the segment's base plus `relativeOffset`, that
    /// one included, is larger than `timestamp`, which is that batch's.
    struct TimeEntry: Equatable {
        var timestamp: Int64
        var relativeOffset: UInt32
    }

    /// A state to return to; `add` after it is undone.
    struct Mark {
        fileprivate var offsets: Int
        fileprivate var times: Int
        fileprivate var bytesSinceEntry: Int
        fileprivate var maxTimestamp: Int64
        fileprivate var maxTimestampOffset: UInt32
    }

    let baseOffset: Offset
    private(set) var interval: Int
    private(set) var offsets: [OffsetEntry] = []
    private(set) var times: [TimeEntry] = []
    private var bytesSinceEntry = 0
    /// The largest timestamp in the segment; -1 for none.
    private(set) var maxTimestamp: Int64 = -1
    private var maxTimestampOffset: UInt32 = 0

    init(baseOffset: Offset, interval: Int) {
        self.baseOffset = baseOffset
        self.interval = interval
    }

    /// Takes note of the batch at `position`, the next after those already added, or the last one
    /// that has an entry.
    mutating func add(_ batch: RecordBatchHeader, at position: Int) {
        if let last = offsets.last, Int(last.position) == position {
            bytesSinceEntry = batch.totalSize
            return
        }
        let relativeOffset = UInt32(clamping: batch.lastOffset - baseOffset)
        if batch.maxTimestamp > maxTimestamp {
            maxTimestamp = batch.maxTimestamp
            maxTimestampOffset = relativeOffset
        }
        if bytesSinceEntry > interval {
            offsets.append(
                OffsetEntry(relativeOffset: relativeOffset, position: UInt32(clamping: position)))
            addTimeEntry()
            bytesSinceEntry = 0
        }
        bytesSinceEntry += batch.totalSize
    }

    private mutating func addTimeEntry() {
        guard maxTimestamp > times.last?.timestamp ?? -1 else { return }
        times.append(TimeEntry(timestamp: maxTimestamp, relativeOffset: maxTimestampOffset))
    }

    /// Where a walk towards the batch with `offset` may start.
    func position(for offset: Offset) -> Int {
        let relative = UInt32(clamping: offset - baseOffset)
        let after = offsets.partitioningIndex { $0.relativeOffset > relative }
        return after == 0 ? 0 : Int(offsets[after - 1].position)
    }

    /// Where a walk towards the first batch with a timestamp of at least `timestamp` may start.
    func offset(before timestamp: Int64) -> Offset {
        let after = times.partitioningIndex { $0.timestamp >= timestamp }
        return after == 0 ? baseOffset : baseOffset + Int64(times[after - 1].relativeOffset)
    }

    var mark: Mark {
        Mark(
            offsets: offsets.count, times: times.count, bytesSinceEntry: bytesSinceEntry,
            maxTimestamp: maxTimestamp, maxTimestampOffset: maxTimestampOffset)
    }

    mutating func restore(_ mark: Mark) {
        offsets.removeLast(offsets.count - mark.offsets)
        times.removeLast(times.count - mark.times)
        bytesSinceEntry = mark.bytesSinceEntry
        maxTimestamp = mark.maxTimestamp
        maxTimestampOffset = mark.maxTimestampOffset
    }

    /// Forgets the batches from `cut` on, and some before; returns the position from which all up to
    /// `cut` have to be added again.
    mutating func rewind(to cut: Int) -> Int {
        let kept = offsets.partitioningIndex { Int($0.position) >= cut }
        offsets.removeLast(offsets.count - kept)
        guard let last = offsets.last else {
            self = SegmentIndex(baseOffset: baseOffset, interval: interval)
            return 0
        }
        // What was known when the last entry's batch had been added; `add` goes on from that one.
        let keptTimes = times.partitioningIndex { $0.relativeOffset > last.relativeOffset }
        times.removeLast(times.count - keptTimes)
        maxTimestamp = times.last?.timestamp ?? -1
        maxTimestampOffset = times.last?.relativeOffset ?? 0
        return Int(last.position)
    }
}

// MARK: Files

extension SegmentIndex {
    private static let magic: UInt32 = 0x4d4c_4958  // "MLIX"
    private static let footerSize = 4 + 8 + 8 + 8 + 8 + 4

    /// The contents of the two files, for a segment of `size` bytes.
    func encoded(segmentSize size: Int) -> (offsets: [UInt8], times: [UInt8]) {
        var offsetBytes = ByteBuffer()
        offsetBytes.reserveCapacity(offsets.count * 8 + Self.footerSize)
        for entry in offsets {
            offsetBytes.writeInteger(entry.relativeOffset)
            offsetBytes.writeInteger(entry.position)
        }
        var timeBytes = ByteBuffer()
        timeBytes.reserveCapacity((times.count + 1) * 12 + Self.footerSize)
        var complete = self
        complete.addTimeEntry()
        for entry in complete.times {
            timeBytes.writeInteger(entry.timestamp)
            timeBytes.writeInteger(entry.relativeOffset)
        }
        return (footed(offsetBytes, size), footed(timeBytes, size))
    }

    private func footed(_ entries: ByteBuffer, _ segmentSize: Int) -> [UInt8] {
        var bytes = entries
        bytes.writeInteger(Self.magic)
        bytes.writeInteger(baseOffset.rawValue)
        bytes.writeInteger(Int64(segmentSize))
        bytes.writeInteger(Int64(interval))
        bytes.writeInteger(Int64(bytesSinceEntry))
        let crc = bytes.withUnsafeReadableBytes { CRC32C.checksum($0) }
        bytes.writeInteger(crc)
        return Array(bytes.readableBytesView)
    }

    /// The index that these files hold; `nil` unless both are whole and this segment's.
    ///
    /// Its interval is what it was made with, whatever the log's is now.
    init?(
        offsets offsetBytes: [UInt8], times timeBytes: [UInt8], baseOffset: Offset,
        segmentSize: Int
    ) {
        self.init(baseOffset: baseOffset, interval: 0)
        guard
            var offsetEntries = unfooted(offsetBytes, segmentSize),
            var timeEntries = unfooted(timeBytes, segmentSize),
            offsetEntries.readableBytes % 8 == 0, timeEntries.readableBytes % 12 == 0
        else { return nil }
        offsets.reserveCapacity(offsetEntries.readableBytes / 8)
        while let (relativeOffset, position) = offsetEntries.readMultipleIntegers(
            as: (UInt32, UInt32).self)
        {
            offsets.append(OffsetEntry(relativeOffset: relativeOffset, position: position))
        }
        while let (timestamp, relativeOffset) = timeEntries.readMultipleIntegers(
            as: (Int64, UInt32).self)
        {
            times.append(TimeEntry(timestamp: timestamp, relativeOffset: relativeOffset))
        }
        maxTimestamp = times.last?.timestamp ?? -1
        maxTimestampOffset = times.last?.relativeOffset ?? 0
    }

    /// The entries alone, if the footer is right.
    private mutating func unfooted(_ bytes: [UInt8], _ segmentSize: Int) -> ByteBuffer? {
        guard bytes.count >= Self.footerSize else { return nil }
        let crc = bytes.withUnsafeBytes {
            CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0.dropLast(4)))
        }
        let entries = ByteBuffer(bytes: bytes.dropLast(Self.footerSize))
        var footer = ByteBuffer(bytes: bytes.suffix(Self.footerSize))
        guard
            let (magic, base, size, interval, bytesSinceEntry, stored) =
                footer.readMultipleIntegers(
                    as: (UInt32, Int64, Int64, Int64, Int64, UInt32).self),
            stored == crc, magic == Self.magic, base == baseOffset.rawValue,
            size == Int64(segmentSize), (1...1 << 30).contains(interval), bytesSinceEntry >= 0,
            self.interval == 0 || interval == Int64(self.interval)
        else { return nil }
        self.interval = Int(interval)
        self.bytesSinceEntry = Int(bytesSinceEntry)
        return entries
    }
}

extension RandomAccessCollection {
    /// The first index whose element satisfies `predicate`, given that all after it do too.
    func partitioningIndex(where predicate: (Element) -> Bool) -> Index {
        var low = startIndex
        var count = self.count
        while count > 0 {
            let half = count / 2
            let middle = index(low, offsetBy: half)
            if predicate(self[middle]) {
                count = half
            } else {
                low = index(after: middle)
                count -= half + 1
            }
        }
        return low
    }
}
