internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC
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
        buffer.writeProtobufVarint(15 << 3 | 2)
        buffer.writeProtobufVarint(UInt64(length))
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

    /// Reads the fields of a `FetchResponse`; unknown ones are skipped.
    ///
    /// - Throws: `CORRUPT_MESSAGE` when the bytes are no protobuf message.
    init(decoding message: ByteBuffer) throws(MillraceError) {
        var rest = message
        while rest.readableBytes > 0 {
            guard let tag = rest.readProtobufVarint() else { throw Self.malformed }
            switch tag {
            case 1 << 3:
                guard let value = rest.readProtobufVarint() else { throw Self.malformed }
                highWatermark = Offset(Int64(bitPattern: value))
            case 2 << 3:
                guard let value = rest.readProtobufVarint() else { throw Self.malformed }
                logStartOffset = Offset(Int64(bitPattern: value))
            case 3 << 3:
                guard let value = rest.readProtobufVarint() else { throw Self.malformed }
                leaderEpoch = LeaderEpoch(Int32(truncatingIfNeeded: Int64(bitPattern: value)))
            case 15 << 3 | 2:
                guard let length = rest.readProtobufVarint(),
                    let bytes = rest.readSlice(length: Int(clamping: length))
                else { throw Self.malformed }
                batches = bytes
            default:
                guard rest.skipProtobufValue(wireType: tag & 7) else { throw Self.malformed }
            }
        }
    }

    private static let malformed = MillraceError(
        .corruptMessage, "the broker's fetch answer is not a valid message")
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

    mutating func writeProtobufVarint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        writeInteger(UInt8(truncatingIfNeeded: rest))
    }

    mutating func readProtobufVarint() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while shift < 64, let byte = readInteger(as: UInt8.self) {
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }

    /// Passes over a field of a kind we do not know; false when the bytes end too early.
    fileprivate mutating func skipProtobufValue(wireType: UInt64) -> Bool {
        switch wireType {
        case 0: return readProtobufVarint() != nil
        case 1: return readInteger(as: UInt64.self) != nil
        case 2:
            guard let length = readProtobufVarint() else { return false }
            return readSlice(length: Int(clamping: length)) != nil
        case 5: return readInteger(as: UInt32.self) != nil
        default: return false
        }
    }
}
