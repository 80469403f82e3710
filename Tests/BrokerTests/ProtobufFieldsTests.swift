import Essentials
import Foundation
import NIOCore
import Protocol
import SwiftProtobuf
import Testing

@testable import Broker

@Suite struct ProtobufFieldsTests {
    private func request() throws -> (WireProduceRequest, ByteBuffer) {
        var request = WireProduceRequest()
        request.topic = "packages"
        request.partition = 3
        request.acks = .leader
        request.timeoutMs = 1_500
        request.recordBatches = .init((0..<200).map { UInt8($0) })
        let bytes: [UInt8] = try request.serializedBytes()
        return (request, ByteBuffer(bytes: bytes))
    }

    @Test func aCompactProduceRequestIsReadAsTheGeneralDecoderReadsIt() throws {
        let (request, bytes) = try request()
        let view = try #require(ProduceRequestView(bytes))
        #expect(view.topic == request.topic)
        #expect(view.partition == request.partition)
        #expect(view.acks == request.acks)
        #expect(view.timeoutMilliseconds == request.timeoutMs)
        #expect(Array(view.recordBatches.readableBytesView) == Array(request.recordBatches))
    }

    @Test func readableRecordsAreLeftToTheGeneralDecoder() throws {
        var request = WireProduceRequest()
        request.topic = "packages"
        request.records = [WireRecord()]
        let bytes: [UInt8] = try request.serializedBytes()
        #expect(ProduceRequestView(ByteBuffer(bytes: bytes)) == nil)
    }

    @Test func aCutRequestIsMalformed() throws {
        let (_, bytes) = try request()
        for length in 1..<bytes.readableBytes {
            guard let cut = bytes.getSlice(at: 0, length: length) else { continue }
            if let view = ProduceRequestView(cut) {
                // Cut between two fields: what is missing is missing whole.
                #expect(view.recordBatches.readableBytes == 0)
            }
        }
    }

    @Test(arguments: 0..<64 as Range<UInt64>)
    func mutatedRequestsNeverCrash(_ seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var (_, bytes) = try request()
        for _ in 0..<8 {
            let index = Int.random(in: 0..<bytes.readableBytes, using: &generator)
            bytes.setInteger(UInt8.random(in: 0...255, using: &generator), at: index)
        }
        _ = ProduceRequestView(bytes)
    }

    @Test func theHeadOfAFetchAnswerIsWhatProtobufWouldWrite() throws {
        let batches = ByteBuffer(repeating: 7, count: 300)
        let pieces = FetchService.pieces(
            of: FetchOutcome(
                batches: batches, highWatermark: 12, logStartOffset: 0, leaderEpoch: 4))
        let joined = pieces.flatMap { Array($0.readableBytesView) }
        let response = try WireFetchResponse(serializedBytes: joined)
        #expect(response.highWatermark == 12)
        #expect(response.logStartOffset == 0 && response.hasLogStartOffset)
        #expect(response.leaderEpoch == 4)
        #expect(response.recordBatches.count == 300)
    }
}
