import Essentials
import Records

/// Where each leader epoch starts in a log, as far back as the log goes.
///
/// Epochs and start offsets rise from entry to entry. The last epoch may be empty: its leader has
/// begun and not yet appended. An empty epoch that another follows leaves no trace; its end offset
/// is the next one's start all the same.
struct EpochCache: Equatable {
    struct Entry: Equatable, Sendable {
        var epoch: LeaderEpoch
        /// The offset of the epoch's first record.
        var startOffset: Offset
    }

    private(set) var entries: [Entry] = []

    init() {}

    init(_ entries: [Entry]) {
        for entry in entries { assign(entry.epoch, startOffset: entry.startOffset) }
    }

    var latest: LeaderEpoch { entries.last?.epoch ?? .none }

    /// Notes that `epoch` starts at `startOffset`, unless it, or a later one, is known already.
    ///
    /// Returns whether anything changed.
    @discardableResult
    mutating func assign(_ epoch: LeaderEpoch, startOffset: Offset) -> Bool {
        guard epoch > latest else { return false }
        // Nothing was appended in an epoch that starts no lower than its successor.
        while let last = entries.last, last.startOffset >= startOffset { entries.removeLast() }
        entries.append(Entry(epoch: epoch, startOffset: startOffset))
        return true
    }

    /// Forgets the epochs that start at `end` or later: the log now ends there.
    @discardableResult
    mutating func truncate(to end: Offset) -> Bool {
        let count = entries.count
        while let last = entries.last, last.startOffset >= end { entries.removeLast() }
        return entries.count != count
    }

    /// Forgets where epochs started below `start`, where the log now starts.
    @discardableResult
    mutating func advanceStart(to start: Offset) -> Bool {
        guard let kept = entries.lastIndex(where: { $0.startOffset <= start }) else { return false }
        guard kept > 0 || entries[kept].startOffset < start else { return false }
        entries.removeFirst(kept)
        entries[0].startOffset = start
        return true
    }

    mutating func removeAll() {
        entries.removeAll()
    }

    /// The epoch that the record at `offset` has; `none` below the first.
    func epoch(at offset: Offset) -> LeaderEpoch {
        entries.last { $0.startOffset <= offset }?.epoch ?? .none
    }

    /// The largest epoch not above `epoch`, and where it ends; `logEnd` is where the last one does.
    func end(for epoch: LeaderEpoch, logEnd: Offset) -> (epoch: LeaderEpoch, endOffset: Offset)? {
        guard let index = entries.lastIndex(where: { $0.epoch <= epoch }) else { return nil }
        let next = index + 1
        return (entries[index].epoch, next < entries.count ? entries[next].startOffset : logEnd)
    }
}

// MARK: The checkpoint file

extension EpochCache {
    static let fileName = "leader-epoch-checkpoint"

    /// Kafka's text form: a version, a count, then a line with epoch and start offset each.
    var encoded: [UInt8] {
        CheckpointText.encode(entries.map { "\($0.epoch) \($0.startOffset)" }, version: 0)
    }

    /// What the file says; `nil` unless it is whole and makes sense.
    init?(decoding bytes: [UInt8]) {
        guard
            let lines = CheckpointText.lines(of: bytes, version: 0)
        else { return nil }
        for line in lines {
            guard line.count == 2, let epoch = Int32(line[0]), let start = Int64(line[1]),
                epoch >= 0, start >= 0, LeaderEpoch(epoch) > latest,
                start > entries.last?.startOffset.rawValue ?? -1
            else { return nil }
            entries.append(Entry(epoch: LeaderEpoch(epoch), startOffset: Offset(start)))
        }
    }
}

/// The frame that Kafka's checkpoint files share: a version, a count, and that many lines.
///
/// Here a line with a checksum of all before it follows, which finds a digit that is no more what was
/// written. A file without one was written by an earlier release, or by a person.
enum CheckpointText {
    private static let checksumKey = "crc32c "

    static func encode(_ lines: [String], version: Int) -> [UInt8] {
        var text = "\(version)\n\(lines.count)\n"
        for line in lines { text += "\(line)\n" }
        return Array((text + "\(checksumKey)\(checksum(Array(text.utf8)))\n").utf8)
    }

    private static func checksum(_ bytes: [UInt8]) -> String {
        let digits = String(bytes.withUnsafeBytes { CRC32C.checksum($0) }, radix: 16)
        return String(repeating: "0", count: max(0, 8 - digits.utf8.count)) + digits
    }

    /// The words of each line after the first two; `nil` unless the file is whole.
    static func lines(of bytes: [UInt8], version: Int) -> [[Substring]]? {
        // Without its last line break the last number may have lost digits.
        guard bytes.last == UInt8(ascii: "\n") else { return nil }
        let text = String(decoding: bytes, as: UTF8.self)
        var lines = text.dropLast().split(separator: "\n", omittingEmptySubsequences: false)
        if let last = lines.last, last.hasPrefix(checksumKey) {
            let count = bytes.count - last.utf8.count - 1
            // Bytes that are no text have become others.
            guard count >= 0, last.dropFirst(checksumKey.count) == checksum(Array(bytes[..<count]))
            else { return nil }
            lines.removeLast()
        }
        guard lines.count >= 2, Int(lines[0]) == version, let count = Int(lines[1]),
            count == lines.count - 2
        else { return nil }
        return lines.dropFirst(2).map { $0.split(separator: " ") }
    }
}
