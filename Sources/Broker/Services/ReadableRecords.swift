internal import Essentials
internal import Foundation
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC
internal import Records
internal import SwiftProtobuf
internal import Synchronization

/// Turns records as people write them, in JSON, into record batches and back.
enum ReadableRecords {
    /// The records of one request that belong to one partition, as a batch.
    struct Group: Sendable {
        var partition: Int32
        var batch: ByteBuffer
        var count: Int
    }

    /// One batch for each partition that the request's records belong to, in partition order.
    ///
    /// - Throws: when the topic is unknown, a payload can't be stored, or there is no record.
    static func batches(
        of request: WireProduceRequest, image: MetadataImage, partitioner: StickyPartitioner
    ) throws(RPCError) -> [Group] {
        guard !request.records.isEmpty else {
            throw RPCError(
                .invalidRequest,
                #"nothing to append: give records, such as [{"value": {"text": "hello"}}]"#)
        }
        guard let topic = image.topic(named: request.topic) else {
            throw RPCError(
                .unknownTopicOrPartition,
                "there is no topic '\(request.topic)'; create it with: millrace topic create "
                    + request.topic)
        }
        let now = Int64(Date().timeIntervalSince1970 * 1000)
        let keyless =
            request.hasPartition ? request.partition : partitioner.next(of: topic.partitions.count)
        var builders: [Int32: RecordBatchBuilder] = [:]
        for record in request.records {
            let key = record.hasKey ? try record.key.stored() : nil
            let value = record.hasValue ? try record.value.stored() : nil
            var partition = keyless
            if !request.hasPartition, let key {
                partition = key.withUnsafeReadableBytes {
                    Essentials.partition(forKey: $0, of: topic.partitions.count)
                }
            }
            var headers: [RecordHeader] = []
            for header in record.headers {
                headers.append(
                    RecordHeader(
                        name: header.name,
                        value: header.hasValue ? try header.value.stored() : nil))
            }
            builders[partition, default: RecordBatchBuilder()].append(
                key: key, value: value, headers: headers,
                timestamp: record.hasTimestamp ? record.timestamp : now)
        }
        return builders.sorted { $0.key < $1.key }.map { partition, builder in
            var builder = builder
            let count = builder.recordCount
            return Group(partition: partition, batch: builder.finish(), count: count)
        }
    }

    /// The records in `batches` from `offset` on, in readable form; control records are left out.
    ///
    /// - Parameters:
    ///   - maxBytes: the record that reaches it is the last: a few bytes of compressed batches may hold
    ///     very many records.
    ///   - leftOut: the records of aborted transactions.
    /// - Returns: the records, and where to go on; `nil` if there is no batch.
    static func page(
        in batches: ByteBuffer, from offset: Offset, maxBytes: Int = .max,
        leavingOut leftOut: AbortedRecords = AbortedRecords()
    ) throws(RPCError) -> (records: [WireRecord], next: Offset?) {
        var records: [WireRecord] = []
        var next: Offset?
        var bytes = 0
        do {
            var reader = RecordReader(batches, leavingOut: leftOut)
            while let record = try reader.next() {
                if record.offset < offset { continue }
                var readable = WireRecord()
                readable.offset = record.offset.rawValue
                readable.timestamp = record.timestamp
                if let key = record.key { readable.key = WirePayload(stored: key) }
                if let value = record.value { readable.value = WirePayload(stored: value) }
                readable.headers = record.headers.map { header in
                    var readable = WireHeader()
                    readable.name = header.name
                    if let value = header.value { readable.value = WirePayload(stored: value) }
                    return readable
                }
                records.append(readable)
                bytes += record.byteCount
                next = record.offset + 1
                if bytes >= maxBytes { return (records, next) }
            }
            next = reader.nextOffset
        } catch {
            throw RPCError(.corruptMessage, "the stored records can't be read: \(error)")
        }
        return (records, next)
    }

    /// The records alone.
    static func records(
        in batches: ByteBuffer, from offset: Offset, maxBytes: Int = .max
    ) throws(RPCError) -> [WireRecord] {
        try page(in: batches, from: offset, maxBytes: maxBytes).records
    }
}

extension Record {
    /// What is read of it, and some for offset and timestamp.
    fileprivate var byteCount: Int {
        headers.reduce(16 + (key?.readableBytes ?? 0) + (value?.readableBytes ?? 0)) {
            sum, header in
            sum + header.name.utf8.count + (header.value?.readableBytes ?? 0)
        }
    }
}

extension WirePayload {
    /// The bytes to store.
    fileprivate func stored() throws(RPCError) -> ByteBuffer {
        switch form {
        case .text(let text): return ByteBuffer(string: text)
        case .bytes(let data): return ByteBuffer(bytes: data)
        case .json(let value):
            do {
                return ByteBuffer(string: try value.jsonString())
            } catch {
                throw RPCError(
                    .invalidRequest, "a `json` payload can't be written as JSON: \(error)")
            }
        case nil:
            throw RPCError(
                .invalidRequest, "a key, value or header value needs `text`, `bytes` or `json`")
        }
    }

    /// `text` where the bytes are valid UTF-8, else `bytes`.
    fileprivate init(stored bytes: ByteBuffer) {
        self.init()
        if let text = String(validating: bytes.readableBytesView, as: UTF8.self) {
            form = .text(text)
        } else {
            form = .bytes(Data(bytes.readableBytesView))
        }
    }
}

/// Spreads requests without a key evenly, one request's records staying together.
final class StickyPartitioner: Sendable {
    private let turn = Atomic<UInt64>(0)

    /// The next partition of `count`, which is at least 1.
    func next(of count: Int) -> Int32 {
        Int32(turn.wrappingAdd(1, ordering: .relaxed).oldValue % UInt64(max(count, 1)))
    }
}
