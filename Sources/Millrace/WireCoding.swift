internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC
internal import Records
internal import SwiftProtobuf

/// A produce request in pieces: a small head, then the batches' own buffers, never joined.
enum ProduceRequestCoding {
    static let path = "/millrace.v1.Broker/Produce"

    static func pieces(
        topic: String, partition: Int32, acks: WireAcks, timeout: Duration, batches: [ByteBuffer]
    ) throws(RPCError) -> [ByteBuffer] {
        var head = WireProduceRequest()
        head.topic = topic
        head.partition = partition
        head.acks = acks
        head.timeoutMs = Int32(clamping: timeout.milliseconds)
        var buffer = try ByteBuffer.encoding(head)
        let length = batches.reduce(0) { $0 + $1.readableBytes }
        buffer.writeProtobufHead(15, length: length)
        return [buffer] + batches
    }
}

/// A fetch answer whose batches are a view of the message they came in.
struct FetchAnswer: Sendable {
    static let path = "/millrace.v1.Broker/Fetch"

    var highWatermark: Offset?
    var logStartOffset: Offset?
    var leaderEpoch: LeaderEpoch?
    var batches = ByteBuffer()
    /// What is not to be shown.
    var aborted = AbortedRecords()

    /// Reads the fields of a `FetchResponse`; unknown ones are skipped.
    ///
    /// - Throws: `CORRUPT_MESSAGE` when the bytes are no protobuf message.
    init(decoding message: ByteBuffer) throws(MillraceError) {
        var reader = ProtobufReader(message)
        while let field = reader.nextField() {
            switch (field.number, field.value) {
            case (1, .varint(let value)):
                highWatermark = Offset(Int64(bitPattern: value))
            case (2, .varint(let value)):
                logStartOffset = Offset(Int64(bitPattern: value))
            case (3, .varint(let value)):
                leaderEpoch = LeaderEpoch(Int32(truncatingIfNeeded: Int64(bitPattern: value)))
            case (6, .bytes(let bytes)):
                Self.add(bytes, to: &aborted)
            case (15, .bytes(let bytes)):
                batches = bytes
            default:
                break
            }
        }
        if reader.isMalformed {
            throw MillraceError(
                .corruptMessage, "the broker's fetch answer is not a valid message")
        }
    }

    /// Adds an `AbortedTransaction`; one that makes no sense says nothing.
    private static func add(_ message: ByteBuffer, to aborted: inout AbortedRecords) {
        var reader = ProtobufReader(message)
        var values: [Int64] = [0, 0, 0]
        while let field = reader.nextField() {
            guard case .varint(let value) = field.value, (1...3).contains(field.number) else {
                continue
            }
            values[Int(field.number) - 1] = Int64(bitPattern: value)
        }
        aborted.add(producerID: values[0], from: Offset(values[1]), to: Offset(values[2]))
    }
}

extension ByteBuffer {
    static func encoding(_ message: some Message) throws(RPCError) -> ByteBuffer {
        do {
            let bytes: [UInt8] = try message.serializedBytes()
            return ByteBuffer(bytes: bytes)
        } catch {
            throw RPCError(.invalidRequest, "the request can't be encoded: \(error)")
        }
    }

    func decoding<Answer: Message>(_ type: Answer.Type) throws(RPCError) -> Answer {
        do {
            return try Answer(serializedBytes: Array(readableBytesView))
        } catch {
            throw RPCError(.corruptMessage, "the answer is not a valid message: \(error)")
        }
    }
}
