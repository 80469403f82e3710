import ArgumentParser
import Glibc
import Histogram
import Millrace
import NIOCore
import Synchronization

/// Latencies from a microsecond to ten minutes, to three digits.
struct LatencyHistogram: Sendable {
    private var histogram = Histogram<UInt64>(
        highestTrackableValue: 600_000_000, numberOfSignificantValueDigits: .three)

    var count: UInt64 { histogram.totalCount }

    mutating func record(_ time: Duration) {
        let (seconds, attoseconds) = time.components
        let microseconds = seconds * 1_000_000 + attoseconds / 1_000_000_000_000
        _ = histogram.record(UInt64(clamping: min(max(microseconds, 1), 600_000_000)))
    }

    func milliseconds(atPercentile percentile: Double) -> Double {
        guard histogram.totalCount > 0 else { return 0 }
        return Double(histogram.valueAtPercentile(percentile)) / 1000
    }
}

/// `millrace bench latency`: a steady rate, and how long each record takes.
struct BenchLatencyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "latency", abstract: "Measure how long records take at a steady rate.",
        discussion: """
            Each record has a time at which it is due, and its latency runs from then to its \
            acknowledgement: a stall counts for every record that it held up (no coordinated \
            omission). With --end-to-end one record at a time is sent, and its latency ends when a \
            consumer has it.
            """)

    @Option(help: "Records a second.")
    var rate = 1000

    @Option(help: "How long to measure.")
    var seconds = 30

    @Option(help: "Seconds before that which do not count.")
    var warmup = 3

    @Option(help: "Bytes of each record's value.")
    var size = 1000

    @Flag(help: "From sent to consumed, one record at a time.")
    var endToEnd = false

    @OptionGroup var topic: BenchTopicOptions
    @OptionGroup var batches: BatchOptions
    @OptionGroup var cluster: BenchClusterOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard rate > 0, rate <= 1_000_000, seconds > 0, warmup >= 0, size >= 0 else {
            throw ValidationError(
                "--rate and --seconds must be above 0, --warmup and --size not below.")
        }
    }

    func run() async throws {
        let processes = try cluster.cluster()
        try await client.withClient { client in
            try await topic.withTopic(client) { topic in
                let usage = BenchUsage.Start(processes)
                let (latencies, failed) =
                    endToEnd
                    ? try await measureEndToEnd(client, topic)
                    : try await measureAcknowledgements(client, topic)
                let used = usage.end()
                var report = BenchReport()
                report.add("topic", "Topic", topic.name)
                report.add("partitions", "Partitions", topic.partitions.count)
                report.add(
                    "replicationFactor", "Replicas", topic.partitions.first?.replicas.count ?? 0)
                report.add("acks", "Acks", batches.acks.acks.rawValue)
                report.add("size", "Value size", size, unit: " bytes")
                report.add("measures", "Measures", endToEnd ? "end to end" : "acknowledgement")
                if !endToEnd { report.add("rate", "Rate", rate, unit: " records/s") }
                report.add("records", "Records", Int(latencies.count))
                report.add("failed", "Failed", failed)
                report.add(latencies)
                report.add(used, bytes: 0)
                report.print(output.output)
            }
        }
    }

    /// Latencies of acknowledgements, from the times at which the records were due.
    private func measureAcknowledgements(
        _ client: MillraceClient, _ topic: TopicDescription
    ) async throws -> (LatencyHistogram, failed: Int) {
        let producer = try Producer(client: client, configuration: batches.configuration)
        let name = topic.name
        try await producer.waitUntilReady(for: name)
        let shared = SharedResults()
        var payload = BenchPayload(size: size)
        let interval = Duration.seconds(1) / rate
        let start = ContinuousClock.now
        let counted = start + .seconds(warmup)
        for index in 0..<(rate * (warmup + seconds)) {
            let due = start + interval * index
            sleep(until: due)
            let isCounted = due >= counted
            while try !payload.next({ value in
                try producer.enqueue(topic: name, value: value) { result in
                    guard isCounted else { return }
                    let latency = ContinuousClock.now - due
                    shared.state.withLock { state in
                        switch result {
                        case .success: state.latencies.record(latency)
                        case .failure: state.failed += 1
                        }
                    }
                }
            }) {
                try await producer.waitUntilReady(for: name)
            }
        }
        await producer.close()
        return shared.state.withLock { ($0.latencies, $0.failed) }
    }

    /// What completions on the client's loop and the sender share.
    private final class SharedResults: Sendable {
        let state = Mutex((latencies: LatencyHistogram(), failed: 0))
    }

    /// Latencies from `send` to a consumer that waits for the record, one at a time.
    private func measureEndToEnd(
        _ client: MillraceClient, _ topic: TopicDescription
    ) async throws -> (LatencyHistogram, failed: Int) {
        let producer = try Producer(client: client, configuration: batches.configuration)
        let sent = try await producer.send(
            ProducerRecord(topic: topic.name, partition: 0, value: "first"))
        let consumer = try Consumer(
            client: client,
            partitions: [
                ConsumerAssignment(
                    topic: topic.name, partition: 0, start: .offset(sent.offset + 1))
            ])
        var iterator = consumer.makeAsyncIterator()
        var latencies = LatencyHistogram()
        var payload = BenchPayload(size: size)
        let start = ContinuousClock.now
        let end = start + .seconds(warmup + seconds)
        while true {
            let begin = ContinuousClock.now
            guard begin < end else { break }
            let isAccepted = try payload.next {
                try producer.enqueue(topic: topic.name, partition: 0, value: $0)
            }
            guard isAccepted, try await iterator.next() != nil else { break }
            if begin >= start + .seconds(warmup) { latencies.record(ContinuousClock.now - begin) }
        }
        await consumer.close()
        await producer.close()
        return (latencies, 0)
    }

    /// Sleeps on this thread, which is more exact than a task's sleep.
    private func sleep(until due: ContinuousClock.Instant) {
        while true {
            let (seconds, attoseconds) = (due - .now).components
            guard seconds > 0 || attoseconds > 0 else { return }
            usleep(UInt32(clamping: seconds * 1_000_000 + attoseconds / 1_000_000_000_000 + 1))
        }
    }
}
