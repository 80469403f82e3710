public import NIOCore

/// A named value that travels with a record.
public struct RecordHeader: Sendable, Hashable {
    public var name: String
    public var value: ByteBuffer?

    public init(name: String, value: ByteBuffer?) {
        self.name = name
        self.value = value
    }
}

/// One record to be sent.
public struct ProducerRecord: Sendable, Hashable {
    public var topic: String
    /// Chosen by the key's hash, as Kafka's clients do, or evenly without a key, when `nil`.
    public var partition: Int32?
    public var key: ByteBuffer?
    /// `nil` is a tombstone in a compacted topic.
    public var value: ByteBuffer?
    public var headers: [RecordHeader]
    /// Milliseconds since 1970; now when `nil`.
    public var timestamp: Int64?

    public init(
        topic: String, partition: Int32? = nil, key: ByteBuffer? = nil, value: ByteBuffer?,
        headers: [RecordHeader] = [], timestamp: Int64? = nil
    ) {
        self.topic = topic
        self.partition = partition
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
    }

    public init(topic: String, partition: Int32? = nil, key: String? = nil, value: String) {
        self.init(
            topic: topic, partition: partition, key: key.map(ByteBuffer.init(string:)),
            value: ByteBuffer(string: value))
    }
}

/// Where a record ended up.
public struct RecordMetadata: Sendable, Hashable {
    public var topic: String
    public var partition: Int32
    /// -1 with `Acks.none`.
    public var offset: Int64
}
