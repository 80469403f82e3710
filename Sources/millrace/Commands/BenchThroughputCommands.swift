import ArgumentParser
import Glibc
import Millrace
import NIOCore

/// Values to send: slices of a block of random capitals, so that no two neighbours are alike.
struct BenchPayload {
    private let block: [UInt8]
    private let size: Int
    private var position = 0

    init(size: Int) {
        self.size = size
        block = (0..<(size + 65_536)).map { _ in
            UInt8.random(in: UInt8(ascii: "A")...UInt8(ascii: "Z"))
        }
    }

    mutating func next<Result>(
        _ body: (UnsafeRawBufferPointer) throws -> Result
    ) rethrows -> Result {
        position = (position + 251) % (block.count - size + 1)
        return try block.withUnsafeBytes { bytes in
            try body(UnsafeRawBufferPointer(rebasing: bytes[position..<(position + size)]))
        }
    }
}

/// `millrace bench produce`: as many records as go through.
struct BenchProduceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "produce", abstract: "Send records as fast as they are acknowledged.")

    @Option(help: "How many records to send.")
    var records = 1_000_000

    @Option(help: "Bytes of each record's value.")
    var size = 1000

    @OptionGroup var topic: BenchTopicOptions
    @OptionGroup var batches: BatchOptions
    @OptionGroup var cluster: BenchClusterOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard records > 0, size >= 0, size <= 1 << 20 else {
            throw ValidationError("--records must be above 0, --size from 0 to 1048576.")
        }
    }

    func run() async throws {
        let processes = try cluster.cluster()
        try await client.withClient { client in
            try await topic.withTopic(client) { topic in
                let report = try await measure(client, topic, processes)
                report.print(output.output)
            }
        }
    }

    private func measure(
        _ client: MillraceClient, _ topic: TopicDescription, _ processes: BenchCluster?
    ) async throws -> BenchReport {
        let count = DeliveryCount()
        var configuration = batches.configuration
        configuration.onDelivery = { count.add($0) }
        let producer = try Producer(client: client, configuration: configuration)
        let name = topic.name
        try await producer.waitUntilReady(for: name)
        var payload = BenchPayload(size: size)
        let total = records

        let usage = BenchUsage.Start(processes)
        let start = ContinuousClock.now
        for _ in 0..<total {
            while try !payload.next({ try producer.enqueue(topic: name, value: $0) }) {
                try await producer.waitUntilReady(for: name)
            }
        }
        await producer.flush()
        let time = ContinuousClock.now - start
        let used = usage.end()
        await producer.close()
        if let error = count.firstError {
            throw CommandFailure(
                "\(count.failed) of \(total) records failed: \(error.message) (\(error.code))")
        }
        var report = BenchReport()
        report.add("topic", "Topic", name)
        report.add("partitions", "Partitions", topic.partitions.count)
        report.add("replicationFactor", "Replicas", topic.partitions.first?.replicas.count ?? 0)
        report.add("acks", "Acks", batches.acks.acks.rawValue)
        report.add("size", "Value size", size, unit: " bytes")
        report.add(Rate(records: total, bytes: total * size, time: time))
        report.add(used, bytes: total * size)
        return report
    }
}

/// `millrace bench consume`: read a topic once, from the beginning.
struct BenchConsumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "consume", abstract: "Read a topic from its beginning, every record of it.")

    @Option(help: "The topic to read, such as one that `bench produce --keep-topic` left.")
    var topic: String

    @Option(help: "End after this many records; else at the end of the topic.")
    var records: Int?

    @Option(help: "A fetch brings about this many bytes.")
    var fetchBytes = 1 << 20

    @OptionGroup var cluster: BenchClusterOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let processes = try cluster.cluster()
        try await client.withClient { client in
            let description = try await Admin(client: client).describeTopic(topic)
            var configuration = ConsumerConfiguration()
            configuration.stopsAtEnd = true
            configuration.outOfRange = .earliest
            configuration.fetchBytes = fetchBytes
            configuration.prefetchBytes = 2 * fetchBytes
            let usage = BenchUsage.Start(processes)
            let start = ContinuousClock.now
            let consumer = try Consumer(
                client: client,
                partitions: description.partitions.map {
                    ConsumerAssignment(topic: topic, partition: $0.partition)
                }, configuration: configuration)
            var count = 0
            var bytes = 0
            let limit = records ?? .max
            for try await records in consumer {
                try records.forEach { record in
                    count += 1
                    bytes += record.value?.readableBytes ?? 0
                }
                if count >= limit { break }
            }
            let time = ContinuousClock.now - start
            let used = usage.end()
            await consumer.close()
            var report = BenchReport()
            report.add("topic", "Topic", topic)
            report.add("partitions", "Partitions", description.partitions.count)
            report.add(Rate(records: count, bytes: bytes, time: time))
            report.add(used, bytes: bytes)
            report.print(output.output)
        }
    }
}
