internal import Essentials
internal import FoundationEssentials
internal import NIOCore
internal import Protocol
internal import SwiftProtobuf
internal import Testing

@testable internal import Millrace

@Suite struct WireCodingTests {
    @Test func aProduceRequestInPiecesIsTheMessageItStandsFor() throws {
        let batches = [ByteBuffer(string: "first"), ByteBuffer(string: "second")]
        let pieces = try ProduceRequestCoding.pieces(
            topic: "t", partition: 3, acks: .all, timeout: .seconds(1), batches: batches)
        let joined = pieces.flatMap { Array($0.readableBytesView) }
        let request = try WireProduceRequest(serializedBytes: joined)
        #expect(request.topic == "t" && request.partition == 3 && request.acks == .all)
        #expect(request.timeoutMs == 1000)
        #expect(Array(request.recordBatches) == Array("firstsecond".utf8))
    }

    @Test func aFetchAnswerIsReadWithoutItsMessageType() throws {
        var message = WireFetchResponse()
        message.highWatermark = 12
        message.logStartOffset = 0
        message.leaderEpoch = 4
        message.records = [WireRecord()]
        message.recordBatches = Data("batches".utf8)
        let bytes: [UInt8] = try message.serializedBytes()
        let answer = try FetchAnswer(decoding: ByteBuffer(bytes: bytes))
        #expect(answer.highWatermark == 12 && answer.logStartOffset == 0)
        #expect(answer.leaderEpoch == 4)
        #expect(String(buffer: answer.batches) == "batches")
    }

    @Test func bytesThatAreNoMessageAreRefused() {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        for length in 0..<200 {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) }
            // Whatever it says, it must not trap, and a length must not be believed.
            let answer = try? FetchAnswer(decoding: ByteBuffer(bytes: bytes))
            #expect((answer?.batches.readableBytes ?? 0) <= length, "seed \(seed)")
        }
        let tooLong = ByteBuffer(bytes: [15 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0x7f, 1])
        #expect(throws: MillraceError.self) { try FetchAnswer(decoding: tooLong) }
    }
}
