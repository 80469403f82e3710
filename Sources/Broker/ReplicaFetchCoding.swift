import Essentials
import NIOCore
import RPC
import Replication

/// The wire form of replica fetches, written and read by hand: record bytes are never joined or copied.
///
/// As in `millrace/internal/v1/replica.proto`.
enum ReplicaFetchCoding {
    struct Request: Sendable {
        var clusterID = ""
        var follower: NodeID = -1
        var brokerEpoch = BrokerEpoch.none
        var maxBytes = 0
        var maxWait = Duration.zero
        var fetches: [(id: TopicPartition, fetch: FollowerFetch)] = []
    }

    struct Answer: Sendable {
        var id: TopicPartition
        var leaderEpoch: LeaderEpoch = .none
        var fetchOffset: Offset = -1
        var highWatermark: Offset = 0
        var logStartOffset: Offset = 0
        var hasMore = false
        var content: FollowerDelivery.Content
    }

    // MARK: Requests

    static func encode(
        clusterID: String, follower: NodeID, brokerEpoch: BrokerEpoch, maxBytes: Int,
        maxWait: Duration, positions: some Sequence<(TopicPartition, PartitionFollower.Position)>,
        count: Int
    ) -> ByteBuffer {
        var buffer = ByteBufferAllocator().buffer(capacity: 64 + 72 * count)
        buffer.writeProtobufHead(1, length: clusterID.utf8.count)
        buffer.writeString(clusterID)
        buffer.writeProtobufField(2, varint: Int64(follower.rawValue))
        buffer.writeProtobufField(3, varint: brokerEpoch.rawValue)
        buffer.writeProtobufField(4, varint: Int64(maxBytes))
        buffer.writeProtobufField(5, varint: maxWait.milliseconds)
        var entry = ByteBufferAllocator().buffer(capacity: 96)
        for (id, position) in positions {
            entry.clear()
            entry.writePartition(id)
            entry.writeProtobufField(3, varint: Int64(position.leaderEpoch.rawValue))
            entry.writeProtobufField(4, varint: position.offset.rawValue)
            entry.writeProtobufField(5, varint: Int64(position.lastFetchedEpoch.rawValue))
            entry.writeProtobufField(6, varint: position.durableEnd.rawValue)
            entry.writeProtobufField(7, varint: position.logStartOffset.rawValue)
            entry.writeProtobufField(8, varint: position.highWatermark.rawValue)
            buffer.writeProtobufHead(6, length: entry.readableBytes)
            buffer.writeImmutableBuffer(entry)
        }
        return buffer
    }

    // MARK: Answers

    /// The pieces of an answer: a head, then each partition's batches as they are.
    static func encode(_ answers: [FollowerAnswer]) -> [ByteBuffer] {
        var head = ByteBufferAllocator().buffer(capacity: 16 + 80 * answers.count)
        var pieces: [ByteBuffer] = []
        var size = 0
        var entry = ByteBufferAllocator().buffer(capacity: 96)
        for answer in answers {
            entry.clear()
            entry.writePartition(answer.id)
            entry.writeProtobufField(4, varint: Int64(answer.leaderEpoch.rawValue))
            entry.writeProtobufField(5, varint: answer.highWatermark.rawValue)
            entry.writeProtobufField(6, varint: answer.logStartOffset.rawValue)
            switch answer.content {
            case .failed(let code):
                entry.writeProtobufHead(3, length: code.name.utf8.count)
                entry.writeString(code.name)
            case .diverging(let end):
                entry.writeProtobufField(7, varint: Int64(end.epoch.rawValue))
                entry.writeProtobufField(8, varint: end.endOffset.rawValue)
            case .batches(let bytes):
                entry.writeProtobufField(10, varint: Int64(bytes.readableBytes))
                size += bytes.readableBytes
                if bytes.readableBytes > 0 { pieces.append(bytes) }
            }
            entry.writeProtobufField(9, varint: answer.fetchOffset.rawValue)
            if answer.hasMore { entry.writeProtobufField(11, varint: 1) }
            head.writeProtobufHead(1, length: entry.readableBytes)
            head.writeImmutableBuffer(entry)
        }
        if size > 0 { head.writeProtobufHead(15, length: size) }
        return [head] + pieces
    }

    /// The answers in a message, their batches as slices of it.
    ///
    /// - Throws: `invalidArgument` when the bytes make no sense.
    static func decodeAnswers(_ message: ByteBuffer) throws(RPCError) -> [Answer] {
        var reader = ProtobufReader(message)
        var answers: [(answer: Answer, size: Int)] = []
        var batches = ByteBuffer()
        while let (number, value) = reader.nextField() {
            switch (number, value) {
            case (1, .bytes(let entry)): answers.append(try decodeAnswer(entry))
            case (15, .bytes(let bytes)): batches = bytes
            default: break
            }
        }
        guard !reader.isMalformed else { throw malformed }
        var result: [Answer] = []
        result.reserveCapacity(answers.count)
        for (answer, size) in answers {
            var answer = answer
            if case .batches = answer.content {
                guard let bytes = batches.readSlice(length: size) else { throw malformed }
                answer.content = .batches(bytes)
            }
            result.append(answer)
        }
        guard batches.readableBytes == 0 else { throw malformed }
        return result
    }

    private static func decodeAnswer(
        _ entry: ByteBuffer
    ) throws(RPCError) -> (answer: Answer, size: Int) {
        var reader = ProtobufReader(entry)
        var id = PartitionID()
        var answer = Answer(
            id: TopicPartition(topic: .zero, partition: 0), content: .batches(ByteBuffer()))
        var size = 0
        var error: ErrorCode?
        var divergingEpoch: LeaderEpoch?
        var divergingEnd: Offset = 0
        while let (number, value) = reader.nextField() {
            if id.take(number, value) { continue }
            switch (number, value) {
            case (3, .bytes(let name)) where name.readableBytes > 0:
                error = ErrorCode(name: String(buffer: name)) ?? .unknownServerError
            case (4, .varint(let bits)):
                answer.leaderEpoch = LeaderEpoch(Int32(truncatingIfNeeded: bits))
            case (5, .varint(let bits)):
                answer.highWatermark = Offset(Int64(bitPattern: bits))
            case (6, .varint(let bits)):
                answer.logStartOffset = Offset(Int64(bitPattern: bits))
            case (7, .varint(let bits)):
                divergingEpoch = LeaderEpoch(Int32(truncatingIfNeeded: bits))
            case (8, .varint(let bits)): divergingEnd = Offset(Int64(bitPattern: bits))
            case (9, .varint(let bits)): answer.fetchOffset = Offset(Int64(bitPattern: bits))
            case (10, .varint(let bits)): size = Int(truncatingIfNeeded: bits)
            case (11, .varint(let bits)): answer.hasMore = bits != 0
            default: break
            }
        }
        guard !reader.isMalformed, let partition = id.value, size >= 0, divergingEnd >= 0,
            answer.highWatermark >= 0, answer.logStartOffset >= 0
        else { throw malformed }
        answer.id = partition
        if let error {
            answer.content = .failed(error)
        } else if let divergingEpoch {
            answer.content = .diverging(EpochEnd(epoch: divergingEpoch, endOffset: divergingEnd))
        }
        return (answer, size)
    }

    static let malformed = RPCError(.invalidRequest, "the replica fetch message makes no sense")
}

extension ReplicaFetchCoding.Request {
    /// Reads a request.
    ///
    /// - Throws: `invalidArgument` when the bytes make no sense.
    init(_ message: ByteBuffer) throws(RPCError) {
        var reader = ProtobufReader(message)
        var entries: [ByteBuffer] = []
        while let (number, value) = reader.nextField() {
            switch (number, value) {
            case (1, .bytes(let text)): clusterID = String(buffer: text)
            case (2, .varint(let bits)): follower = NodeID(Int32(truncatingIfNeeded: bits))
            case (3, .varint(let bits)): brokerEpoch = BrokerEpoch(Int64(bitPattern: bits))
            case (4, .varint(let bits)): maxBytes = Int(clamping: Int64(bitPattern: bits))
            case (5, .varint(let bits)):
                maxWait = .milliseconds(min(max(0, Int64(bitPattern: bits)), 60_000))
            case (6, .bytes(let entry)): entries.append(entry)
            default: break
            }
        }
        guard !reader.isMalformed, follower >= 0 else { throw ReplicaFetchCoding.malformed }
        maxBytes = min(max(1, maxBytes), 48 << 20)
        fetches.reserveCapacity(entries.count)
        for entry in entries { fetches.append(try decode(entry)) }
    }

    private func decode(
        _ entry: ByteBuffer
    ) throws(RPCError) -> (id: TopicPartition, fetch: FollowerFetch) {
        var reader = ProtobufReader(entry)
        var id = PartitionID()
        var fetch = FollowerFetch(
            follower: follower, brokerEpoch: brokerEpoch, leaderEpoch: 0, position: 0,
            lastFetchedEpoch: 0, durableEnd: 0, logStartOffset: 0, highWatermark: 0)
        while let (number, value) = reader.nextField() {
            if id.take(number, value) { continue }
            guard case .varint(let bits) = value else { continue }
            let offset = Offset(Int64(bitPattern: bits))
            let epoch = LeaderEpoch(Int32(truncatingIfNeeded: bits))
            switch number {
            case 3: fetch.leaderEpoch = epoch
            case 4: fetch.position = offset
            case 5: fetch.lastFetchedEpoch = epoch
            case 6: fetch.durableEnd = offset
            case 7: fetch.logStartOffset = offset
            case 8: fetch.highWatermark = offset
            default: break
            }
        }
        guard !reader.isMalformed, let partition = id.value, fetch.position >= 0,
            fetch.durableEnd >= 0
        else { throw ReplicaFetchCoding.malformed }
        return (partition, fetch)
    }
}

/// Fields 1 and 2 of every entry: topic id and partition.
private struct PartitionID {
    private var topic: TopicID?
    private var partition: Int32 = 0

    var value: TopicPartition? {
        topic.map { TopicPartition(topic: $0, partition: partition) }
    }

    mutating func take(_ number: Int, _ value: ProtobufReader.Value) -> Bool {
        switch (number, value) {
        case (1, .bytes(let bytes)):
            var bytes = bytes
            if bytes.readableBytes == 16, let high = bytes.readInteger(as: UInt64.self),
                let low = bytes.readInteger(as: UInt64.self)
            {
                topic = TopicID(high: high, low: low)
            }
            return true
        case (2, .varint(let bits)):
            partition = Int32(truncatingIfNeeded: bits)
            return true
        default:
            return false
        }
    }
}

extension ByteBuffer {
    fileprivate mutating func writePartition(_ id: TopicPartition) {
        writeProtobufHead(1, length: 16)
        writeInteger(id.topic.high)
        writeInteger(id.topic.low)
        writeProtobufField(2, varint: Int64(id.partition))
    }
}
