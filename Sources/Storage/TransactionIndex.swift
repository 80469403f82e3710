import Essentials
import NIOCore
import Records

/// The aborted transactions whose markers lie in one segment, in the order of those (`.txnindex`).
///
/// The file is Kafka's: for each a version (2), the producer's id (8), first offset (8), last offset (8)
/// and last stable offset (8).
package struct TransactionIndex: Sendable, Equatable {
    static let entrySize = 34
    private static let version: Int16 = 0

    package private(set) var entries: [AbortedTransaction] = []

    package init() {}

    /// What a file says; `nil` unless it is whole and makes sense.
    package init?(decoding bytes: [UInt8]) {
        guard bytes.count % Self.entrySize == 0 else { return nil }
        var buffer = ByteBuffer(bytes: bytes)
        entries.reserveCapacity(bytes.count / Self.entrySize)
        while buffer.readableBytes > 0 {
            guard
                let (version, id, first, last, stable) = buffer.readMultipleIntegers(
                    as: (Int16, Int64, Int64, Int64, Int64).self),
                version == Self.version, id >= 0, first >= 0, last > first, stable >= 0,
                last > entries.last?.lastOffset.rawValue ?? -1
            else { return nil }
            entries.append(
                AbortedTransaction(
                    producerID: id, firstOffset: Offset(first), lastOffset: Offset(last),
                    lastStableOffset: Offset(stable)))
        }
    }

    package var encoded: [UInt8] { entries.flatMap(Self.encode) }

    static func encode(_ entry: AbortedTransaction) -> [UInt8] {
        var buffer = ByteBuffer()
        buffer.writeMultipleIntegers(
            version, entry.producerID, entry.firstOffset.rawValue, entry.lastOffset.rawValue,
            entry.lastStableOffset.rawValue)
        return Array(buffer.readableBytesView)
    }

    package mutating func append(_ entry: AbortedTransaction) {
        entries.append(entry)
    }

    /// Forgets those whose markers are among `markers`; returns whether there were any.
    mutating func remove(markers: Set<Offset>) -> Bool {
        let count = entries.count
        entries.removeAll { markers.contains($0.lastOffset) }
        return entries.count < count
    }

    /// Forgets those whose markers lie at `end` or above; returns whether there were any.
    mutating func truncate(to end: Offset) -> Bool {
        let kept = entries.partitioningIndex { $0.lastOffset >= end }
        guard kept < entries.count else { return false }
        entries.removeLast(entries.count - kept)
        return true
    }
}

/// By what a segment's transaction index is found to be all there.
struct TransactionIndexSummary: Sendable, Equatable {
    var segment: Offset
    var count: Int
    /// Of the file's bytes.
    var crc: UInt32

    init(segment: Offset, count: Int, crc: UInt32) {
        self.segment = segment
        self.count = count
        self.crc = crc
    }

    init(_ index: TransactionIndex, of segment: Offset) {
        self.init(segment: segment, count: 0, crc: 0)
        for entry in index.entries { add(entry) }
    }

    mutating func add(_ entry: AbortedTransaction) {
        count += 1
        crc = TransactionIndex.encode(entry).withUnsafeBytes {
            CRC32C.checksum($0, continuing: crc)
        }
    }
}
