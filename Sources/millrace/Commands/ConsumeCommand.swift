import ArgumentParser
import Glibc
import Millrace
import NIOCore

/// `millrace consume TOPIC`: records to standard output.
struct ConsumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "consume", abstract: "Write a topic's records to standard output.",
        discussion: """
            Begins with the records that arrive from now on, unless told otherwise, and goes on until \
            Ctrl-C. Records of one partition come in order; partitions are mixed.

            The json format is an object a line: topic, partition, offset, timestamp, key, value, \
            headers. Keys and values that are not UTF-8 are given as {"base64": "…"}.
            """)

    @Argument(help: "The topic to read.")
    var topic: String

    @Flag(help: "Begin with the oldest record.")
    var fromBeginning = false

    @Option(help: "Begin at this offset, in every partition that is read.")
    var offset: Int64?

    @Option(name: .long, parsing: .singleValue, help: "Read this partition only; repeatable.")
    var partition: [Int32] = []

    @Option(help: "End after this many records.")
    var maxMessages: Int?

    @Flag(help: "End with the last record that was committed when the command began.")
    var exitAtEnd = false

    @Option(help: "What to write of each record: value, key-value or json.")
    var format: RecordFormat = .value

    @Option(help: "What to write between key and value.")
    var keySeparator = "\t"

    @OptionGroup var client: ClientOptions

    func validate() throws {
        if fromBeginning, offset != nil {
            throw ValidationError("Give either --from-beginning or --offset.")
        }
        if let offset, offset < 0 { throw ValidationError("--offset must be 0 or more.") }
        if let maxMessages, maxMessages < 1 {
            throw ValidationError("--max-messages must be at least 1.")
        }
        if partition.contains(where: { $0 < 0 }) {
            throw ValidationError("--partition must be 0 or more.")
        }
    }

    func run() async throws {
        Interruption.listen()
        try await client.withClient { try await consume(with: $0) }
    }

    private func consume(with client: MillraceClient) async throws {
        let description = try await Admin(client: client).describeTopic(topic)
        let partitions = partition.isEmpty ? description.partitions.map(\.partition) : partition
        for number in partitions
        where !description.partitions.contains(where: {
            $0.partition == number
        }) {
            throw CommandFailure(
                "topic '\(topic)' has no partition \(number); its partitions are 0 to"
                    + " \(description.partitions.count - 1)")
        }
        var configuration = ConsumerConfiguration()
        configuration.stopsAtEnd = exitAtEnd
        // From the beginning means from what is left, even if retention is faster than the reader.
        configuration.outOfRange = fromBeginning ? .earliest : .fail
        let start: StartPosition =
            offset.map { .offset($0) } ?? (fromBeginning ? .earliest : .latest)
        let consumer = try Consumer(
            client: client,
            partitions: partitions.map {
                ConsumerAssignment(topic: topic, partition: $0, start: start)
            }, configuration: configuration)
        Interruption.onRequest { Task { await consumer.close() } }

        var sink = ByteSink(STDOUT_FILENO)
        var remaining = maxMessages ?? .max
        for try await records in consumer {
            try write(records, to: &sink, remaining: &remaining)
            // Every fetch's worth at once, so that a slow trickle is seen as it comes.
            try sink.flush()
            if remaining == 0 || sink.isBroken || Interruption.isRequested { break }
        }
        await consumer.close()
    }

    private func write(
        _ records: ConsumedRecords, to sink: inout ByteSink, remaining: inout Int
    ) throws {
        let writer = RecordWriter(format: format, keySeparator: keySeparator)
        try records.forEach { record in
            guard remaining > 0, !sink.isBroken else { return }
            remaining -= 1
            try writer.write(record, of: records, to: &sink)
        }
    }
}

enum RecordFormat: String, ExpressibleByArgument, CaseIterable {
    case value
    case keyValue = "key-value"
    case json
}

/// Writes records in one of the formats.
struct RecordWriter {
    let format: RecordFormat
    let keySeparator: String

    func write(
        _ record: ConsumedRecord, of records: ConsumedRecords, to sink: inout ByteSink
    ) throws {
        switch format {
        case .value:
            try write(record.value, to: &sink)
        case .keyValue:
            try write(record.key, to: &sink)
            try sink.write(keySeparator)
            try write(record.value, to: &sink)
        case .json:
            let headers = record.headers.map { header in
                JSONValue.object([
                    ("name", .string(header.name)), ("value", json(header.value)),
                ])
            }
            let fields: [(String, JSONValue)] = [
                ("topic", .string(records.topic)), ("partition", JSONValue(records.partition)),
                ("offset", JSONValue(record.offset)), ("timestamp", JSONValue(record.timestamp)),
                ("key", json(record.key)), ("value", json(record.value)),
                ("headers", .array(headers)),
            ]
            try sink.write(JSONValue.object(fields).text())
        }
        sink.write(0x0A)
    }

    private func write(_ bytes: ByteBuffer?, to sink: inout ByteSink) throws {
        guard let bytes else { return }
        try bytes.withUnsafeReadableBytes { try sink.write($0) }
    }

    private func json(_ bytes: ByteBuffer?) -> JSONValue {
        guard let bytes else { return .null }
        if let text = String(validating: bytes.readableBytesView, as: UTF8.self) {
            return .string(text)
        }
        return .object([("base64", .string(base64(Array(bytes.readableBytesView))))])
    }

    private func base64(_ bytes: [UInt8]) -> String {
        let alphabet = Array(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        var text: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            let bits = group.reduce(0) { $0 << 8 | UInt32($1) } << UInt32(8 * (3 - group.count))
            for digit in 0..<4 {
                let isPadding = digit > group.count
                text.append(
                    isPadding
                        ? UInt8(ascii: "=") : alphabet[Int(bits >> UInt32(18 - 6 * digit) & 63)])
            }
        }
        return String(decoding: text, as: UTF8.self)
    }
}
