import Essentials
import Foundation
import Metadata
import NIOCore
import Protocol
import RPC
import Records
import SwiftProtobuf
import Testing

@testable import Broker

@Suite struct ReadableRecordsTests {
    private func image(partitions: Int) throws -> MetadataImage {
        var image = MetadataImage()
        let topic = TopicID(high: 1, low: 2)
        try image.apply(.topic(id: topic, name: "t"), at: 0)
        for partition in 0..<partitions {
            try image.apply(
                .partition(
                    TopicPartition(topic: topic, partition: Int32(partition)),
                    PartitionState(
                        replicas: [1], isr: [1], eligibleLeaderReplicas: [], leader: 1,
                        leaderEpoch: 0, partitionEpoch: 0)), at: Offset(Int64(partition) + 1))
        }
        return image
    }

    private func record(key: String?, value: WirePayload.OneOf_Form) -> WireRecord {
        var record = WireRecord()
        if let key { record.key.text = key }
        record.value.form = value
        return record
    }

    private func groups(_ request: WireProduceRequest, partitions: Int = 4) throws
        -> [ReadableRecords.Group]
    {
        try ReadableRecords.batches(
            of: request, image: try image(partitions: partitions),
            partitioner: StickyPartitioner())
    }

    @Test func recordsComeBackAsTheyWereWritten() throws {
        var request = WireProduceRequest()
        request.topic = "t"
        request.partition = 2
        var first = record(key: "k", value: .text("hello"))
        var header = WireHeader()
        header.name = "h"
        header.value.text = "x"
        first.headers = [header]
        first.timestamp = 1_700_000_000_000
        request.records = [first, record(key: nil, value: .bytes(.init([0xff, 0xfe])))]
        let groups = try groups(request)
        #expect(groups.map(\.partition) == [2])
        #expect(groups.map(\.count) == [2])
        let records = try ReadableRecords.records(in: groups[0].batch, from: 0)
        #expect(records.map(\.offset) == [0, 1])
        #expect(records[0].key.text == "k" && records[0].value.text == "hello")
        #expect(records[0].headers == [header])
        #expect(records[0].timestamp == 1_700_000_000_000)
        #expect(!records[1].hasKey)
        #expect(records[1].value.bytes == .init([0xff, 0xfe]))
        #expect(try ReadableRecords.records(in: groups[0].batch, from: 1).count == 1)
    }

    @Test func asMuchIsReadAsIsAskedForHoweverMuchIsCompressed() throws {
        var batches = ByteBuffer()
        for batch in 0..<3 {
            var builder = RecordBatchBuilder()
            for _ in 0..<100 {
                builder.append(
                    key: nil, value: [UInt8](repeating: 7, count: 1_000), timestamp: 1)
            }
            batches.writeImmutableBuffer(
                builder.finish(baseOffset: Offset(Int64(batch * 100)), compression: .zstd))
        }
        #expect(batches.readableBytes < 3_000)
        let all = try ReadableRecords.records(in: batches, from: 0)
        #expect(all.count == 300)
        let some = try ReadableRecords.records(in: batches, from: 150, maxBytes: 20_000)
        #expect(some == Array(all[150..<170]))
        #expect(try ReadableRecords.records(in: batches, from: 299, maxBytes: 1).count == 1)
    }

    @Test func keysChooseTheirPartitionAndKeylessRecordsStayTogether() throws {
        var request = WireProduceRequest()
        request.topic = "t"
        request.records = (0..<40).map { record(key: "key-\($0)", value: .text("\($0)")) }
        #expect(try groups(request).count == 4)
        request.records = (0..<40).map { record(key: nil, value: .text("\($0)")) }
        #expect(try groups(request).count == 1)
    }

    @Test func jsonIsStoredAsText() throws {
        var value = Google_Protobuf_Value()
        value.structValue.fields["n"] = 1
        var request = WireProduceRequest()
        request.topic = "t"
        request.partition = 0
        request.records = [record(key: nil, value: .json(value))]
        let records = try ReadableRecords.records(in: try groups(request)[0].batch, from: 0)
        #expect(records[0].value.text == #"{"n":1}"# || records[0].value.text == #"{"n":1.0}"#)
    }

    @Test func whatCannotBeStoredIsRefused() throws {
        var request = WireProduceRequest()
        request.topic = "t"
        #expect(throws: RPCError.self) { try groups(request) }
        var empty = WireRecord()
        empty.value = WirePayload()
        request.records = [empty]
        #expect(throws: RPCError.self) { try groups(request) }
        request.topic = "unknown"
        request.records = [record(key: nil, value: .text("x"))]
        #expect(throws: RPCError.self) { try groups(request) }
    }
}
