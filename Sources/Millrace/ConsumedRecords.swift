internal import Essentials
public import NIOCore
internal import Records

/// One record as it was read.
///
/// Key and value are views of the batch it came in, not copies.
public struct ConsumedRecord: Sendable, Hashable {
    public var offset: Int64
    /// Milliseconds since 1970.
    public var timestamp: Int64
    public var key: ByteBuffer?
    /// `nil` is a tombstone.
    public var value: ByteBuffer?
    public var headers: [RecordHeader]
}

/// Records of one partition, in order, as one fetch brought them.
public struct ConsumedRecords: Sendable {
    public let topic: String
    public let partition: Int32
    /// The first offset asked for: records of the batch around it that lie before it are left out.
    public var startOffset: Int64 { start.rawValue }
    /// Where reading goes on.
    ///
    /// Offsets between the last record and this one carry no record.
    public var nextOffset: Int64 { next.rawValue }
    /// The end, exclusive, of what was committed when this was fetched.
    public var highWatermark: Int64 { committedEnd.rawValue }
    /// The size of the batches, as they came.
    public var byteCount: Int { batches.readableBytes }

    private let start: Offset
    private let next: Offset
    private let committedEnd: Offset
    private let batches: ByteBuffer
    private let leftOut: AbortedRecords

    init(
        topic: String, partition: Int32, start: Offset, next: Offset, highWatermark: Offset,
        batches: ByteBuffer, leavingOut leftOut: AbortedRecords = AbortedRecords()
    ) {
        self.topic = topic
        self.partition = partition
        self.start = start
        self.next = next
        self.committedEnd = highWatermark
        self.batches = batches
        self.leftOut = leftOut
    }

    /// Calls `body` with every record, in order.
    ///
    /// - Throws: `CORRUPT_MESSAGE` where a record can't be read, or whatever `body` throws.
    public func forEach(_ body: (ConsumedRecord) throws -> Void) throws {
        var reader = RecordReader(batches, checksCRC: false, leavingOut: leftOut)
        while let record = try nextRecord(&reader) {
            try body(record)
        }
    }

    /// All of the records.
    ///
    /// - Throws: `CORRUPT_MESSAGE` where a record can't be read.
    public func all() throws(MillraceError) -> [ConsumedRecord] {
        var reader = RecordReader(batches, checksCRC: false, leavingOut: leftOut)
        var records: [ConsumedRecord] = []
        while let record = try nextRecord(&reader) { records.append(record) }
        return records
    }

    /// The next record at or after `start` that is not a control record.
    private func nextRecord(_ reader: inout RecordReader) throws(MillraceError) -> ConsumedRecord? {
        do throws(RecordError) {
            while let record = try reader.next() {
                guard record.offset >= start else { continue }
                return ConsumedRecord(
                    offset: record.offset.rawValue, timestamp: record.timestamp, key: record.key,
                    value: record.value,
                    headers: record.headers.map { RecordHeader(name: $0.name, value: $0.value) })
            }
            return nil
        } catch {
            throw MillraceError(
                .corruptMessage, "a record of \(topic)-\(partition) can't be read: \(error)")
        }
    }
}
