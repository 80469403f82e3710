import ArgumentParser
import Glibc
import Millrace
import Synchronization

/// Who must have a record before it counts; takes Kafka's spelling too: all or -1, 1, 0.
struct AcksOption: ExpressibleByArgument {
    let acks: Acks

    init(_ acks: Acks) {
        self.acks = acks
    }

    init?(argument: String) {
        switch argument {
        case "all", "-1": acks = .all
        case "leader", "1": acks = .leader
        case "none", "0": acks = .none
        default: return nil
        }
    }

    static var allValueStrings: [String] { ["all", "1", "0"] }
    var defaultValueDescription: String { "all" }
}

/// The codec of a producer's batches, by its name.
struct CompressionOption: ExpressibleByArgument {
    let compression: Compression

    init(_ compression: Compression) {
        self.compression = compression
    }

    init?(argument: String) {
        guard let compression = Compression(rawValue: argument) else { return nil }
        self.init(compression)
    }

    static var allValueStrings: [String] { Compression.allCases.map(\.rawValue) }
    var defaultValueDescription: String { compression.rawValue }
}

/// How a producer of the command line batches.
struct BatchOptions: ParsableArguments {
    @Option(help: "Who must have a record before it counts: all, 1 (the leader), 0 (nobody).")
    var acks = AcksOption(.all)

    @Option(help: "A batch of this many bytes is sent at once.")
    var batchBytes = 128 * 1024

    @Option(
        help: ArgumentHelp(
            "Milliseconds a batch waits for company. 0: only while another is under way."))
    var lingerMs: Double = 0

    @Option(help: "The codec of batches: none, gzip, snappy, lz4, zstd.")
    var compression = CompressionOption(.none)

    func validate() throws {
        guard batchBytes > 0, lingerMs >= 0, lingerMs <= 60_000 else {
            throw ValidationError("--batch-bytes must be above 0, --linger-ms from 0 to 60000.")
        }
    }

    var configuration: ProducerConfiguration {
        var configuration = ProducerConfiguration()
        configuration.acks = acks.acks
        configuration.compression = compression.compression
        configuration.batchBytes = batchBytes
        configuration.linger = .microseconds(Int64(lingerMs * 1000))
        configuration.bufferBytes = max(configuration.bufferBytes, 8 * batchBytes)
        return configuration
    }
}

/// What has become of the records of a bulk sender.
final class DeliveryCount: Sendable {
    private struct State {
        var acknowledged = 0
        var failed = 0
        var firstError: MillraceError?
    }

    // A lock, because reports come from the client's loop, once a batch.
    private let state = Mutex(State())

    var acknowledged: Int { state.withLock { $0.acknowledged } }
    var failed: Int { state.withLock { $0.failed } }
    var firstError: MillraceError? { state.withLock { $0.firstError } }

    func add(_ report: DeliveryReport) {
        state.withLock { state in
            switch report.result {
            case .success:
                state.acknowledged += report.recordCount
            case .failure(let error):
                state.failed += report.recordCount
                if state.firstError == nil { state.firstError = error }
            }
        }
    }
}

/// `millrace produce TOPIC`: a line of standard input a record.
struct ProduceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "produce", abstract: "Send standard input, a line a record.",
        discussion: """
            Ends at the end of input, at Ctrl-C, or with the first record that fails; then waits for \
            what was sent and reports on standard error how many records were acknowledged.
            """)

    @Argument(help: "The topic to send to.")
    var topic: String

    @Option(help: "What separates a line's key from its value; a line without it has no key.")
    var keySeparator: String?

    @Option(help: "The partition to send to; else by the key's hash, or evenly without a key.")
    var partition: Int32?

    @OptionGroup var batches: BatchOptions
    @OptionGroup var client: ClientOptions

    func validate() throws {
        if keySeparator?.isEmpty == true {
            throw ValidationError("--key-separator must not be empty.")
        }
        if let partition, partition < 0 {
            throw ValidationError("--partition must be 0 or more.")
        }
    }

    func run() async throws {
        Interruption.listen()
        let isComplete = try await client.withClient { try await produce(with: $0) }
        if !isComplete { throw ExitCode.failure }
    }

    /// Sends the whole input; false when some of it was not acknowledged.
    private func produce(with client: MillraceClient) async throws -> Bool {
        let count = DeliveryCount()
        var configuration = batches.configuration
        configuration.onDelivery = { count.add($0) }
        let producer = try Producer(client: client, configuration: configuration)
        try await producer.waitUntilReady(for: topic)

        let start = ContinuousClock.now
        let sender = LineSender(
            producer: producer, topic: topic, partition: partition,
            keySeparator: keySeparator.map { Array($0.utf8) })
        var lines = LineReader(STDIN_FILENO)
        var sent = 0
        var bytes = 0
        var failure: String?
        do {
            while count.failed == 0, try lines.fill() {
                let timestamp = WallClock.milliseconds()
                while let line = lines.next() {
                    while try !sender.send(line, of: lines, timestamp) {
                        try await producer.waitUntilReady(for: topic)
                    }
                    sent += 1
                    bytes += line.count
                }
            }
        } catch let error as MillraceError {
            failure = "line \(sent + 1): \(error.message) (\(error.code))"
        } catch {
            failure = "\(error)"
        }
        await producer.close()
        if failure == nil, let error = count.firstError {
            failure = "\(error.message) (\(error.code))"
        }
        report(count, sent: sent, bytes: bytes, time: ContinuousClock.now - start, failure)
        return failure == nil
    }

    private func report(
        _ count: DeliveryCount, sent: Int, bytes: Int, time: Duration, _ failure: String?
    ) {
        let rate = Rate(records: sent, bytes: bytes, time: time)
        guard let failure else {
            // With acks=0 there is an answer all the same, but it promises nothing.
            let verb = batches.acks.acks == .none ? "sent" : "acknowledged"
            return printError("\(count.acknowledged) records \(verb), \(rate)")
        }
        printError(
            "millrace: \(failure)\n\(count.acknowledged) of \(sent) records acknowledged, "
                + "\(sent - count.acknowledged) not; reading stopped after line \(sent)")
    }
}

/// Sends lines as records.
///
/// Plain values, since it runs for every line.
private struct LineSender {
    let producer: Producer
    let topic: String
    let partition: Int32?
    let keySeparator: [UInt8]?

    /// False when there is no room now.
    func send(_ line: Range<Int>, of lines: LineReader, _ timestamp: Int64) throws -> Bool {
        try lines.withBytes(of: line) { bytes in
            guard let (key, value) = split(bytes) else {
                return try producer.enqueue(
                    topic: topic, partition: partition, value: bytes, timestamp: timestamp)
            }
            return try producer.enqueue(
                topic: topic, partition: partition, key: key, value: value, timestamp: timestamp)
        }
    }

    /// Key and value of a line; `nil` when no separator is asked for, or none is in the line.
    private func split(
        _ line: UnsafeRawBufferPointer
    ) -> (key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)? {
        guard let separator = keySeparator else { return nil }
        var index = 0
        while index + separator.count <= line.count {
            if line[index] == separator[0], line[index...].starts(with: separator) {
                return (
                    UnsafeRawBufferPointer(rebasing: line[..<index]),
                    UnsafeRawBufferPointer(rebasing: line[(index + separator.count)...])
                )
            }
            index += 1
        }
        return nil
    }
}

/// How much in how long, for people.
struct Rate: CustomStringConvertible {
    let records: Int
    let bytes: Int
    let time: Duration

    var seconds: Double {
        let (seconds, attoseconds) = time.components
        return Double(seconds) + Double(attoseconds) / 1e18
    }

    /// 10^6 bytes a second.
    var megabytesPerSecond: Double { seconds > 0 ? Double(bytes) / 1e6 / seconds : 0 }
    var recordsPerSecond: Double { seconds > 0 ? Double(records) / seconds : 0 }

    var description: String {
        "\(rounded(Double(bytes) / 1e6, 1)) MB in \(rounded(seconds, 2)) s:"
            + " \(rounded(megabytesPerSecond, 1)) MB/s, \(rounded(recordsPerSecond, 0)) records/s"
    }
}

/// A number with so many places after the point.
func rounded(_ value: Double, _ places: Int) -> String {
    guard value.isFinite else { return "-" }
    var scale = 1.0
    for _ in 0..<places { scale *= 10 }
    let scaled = (value * scale).rounded()
    guard abs(scaled) < 1e18 else { return "\(value)" }
    let whole = Int64(scaled.magnitude)
    let sign = scaled < 0 ? "-" : ""
    guard places > 0 else { return sign + "\(whole)" }
    let digits = "\(whole % Int64(scale))"
    let padding = String(repeating: "0", count: places - digits.count)
    return sign + "\(whole / Int64(scale)).\(padding)\(digits)"
}
