import ArgumentParser
import Glibc
import Millrace

/// `millrace bench`: the workloads that Kafka's own tools measure, for side-by-side figures.
struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure throughput, latency, failover and metadata at scale.",
        discussion: """
            MB and GB are 10^6 and 10^9 bytes of record values. With --cluster-json, which `millrace \
            dev` writes, the brokers' CPU time and memory are reported too.
            """,
        subcommands: [
            BenchProduceCommand.self, BenchConsumeCommand.self, BenchLatencyCommand.self,
            BenchFailoverCommand.self, BenchMetadataCommand.self,
        ])
}

/// Which topic a benchmark runs on.
struct BenchTopicOptions: ParsableArguments {
    @Option(help: "A topic that exists; else one is created, and deleted in the end.")
    var topic: String?

    @Option(help: "Partitions of the topic created.")
    var partitions: Int32 = 6

    @Option(help: "Replicas of the topic created.")
    var replicationFactor: Int32?

    @Flag(help: "Keep the topic created, such as to consume it.")
    var keepTopic = false

    /// Runs `body` with the topic, created and deleted around it unless it was given.
    func withTopic<Result>(
        _ client: MillraceClient, _ body: (TopicDescription) async throws -> Result
    ) async throws -> Result {
        let admin = Admin(client: client)
        if let topic { return try await body(try await admin.describeTopic(topic)) }
        let name = "bench-\(UInt32.random(in: 0 ... .max))"
        _ = try await admin.createTopic(
            NewTopic(name: name, partitions: partitions, replicationFactor: replicationFactor))
        let description = try await admin.waitUntilLed(name)
        do {
            let result = try await body(description)
            if !keepTopic { try await admin.deleteTopic(name) }
            return result
        } catch {
            if !keepTopic { try? await admin.deleteTopic(name) }
            throw error
        }
    }
}

/// Where to find the cluster's processes.
struct BenchClusterOptions: ParsableArguments {
    @Option(
        name: [.customLong("cluster-json"), .customLong("pid-file")],
        help: ArgumentHelp(
            "The DIR/cluster.json of `millrace dev`, to report its processes' CPU and memory.",
            valueName: "file"))
    var clusterJSON: String?

    func cluster() throws(CommandFailure) -> BenchCluster? {
        guard let clusterJSON else { return nil }
        return try BenchCluster.read(clusterJSON)
    }
}

/// Named figures: a line each for people, fields for programs.
struct BenchReport {
    private var figures: [(name: String, label: String, value: JSONValue, text: String)] = []

    mutating func add(_ name: String, _ label: String, _ value: Int, unit: String = "") {
        figures.append((name, label, JSONValue(value), "\(value)\(unit)"))
    }

    mutating func add(
        _ name: String, _ label: String, _ value: Double, places: Int = 2, unit: String = ""
    ) {
        figures.append((name, label, .number(value), rounded(value, places) + unit))
    }

    mutating func add(_ name: String, _ label: String, _ value: String) {
        figures.append((name, label, .string(value), value))
    }

    mutating func add(_ name: String, _ label: String, _ values: [Double]) {
        let text = values.map { "\($0)" }.joined(separator: " ")
        figures.append((name, label, .array(values.map { .number($0) }), text))
    }

    /// What was moved in how long.
    mutating func add(_ rate: Rate) {
        add("records", "Records", rate.records)
        add("bytes", "Bytes of values", rate.bytes)
        add("seconds", "Time", rate.seconds, places: 3, unit: " s")
        add("megabytesPerSecond", "Throughput", rate.megabytesPerSecond, places: 1, unit: " MB/s")
        add("recordsPerSecond", "Rate", rate.recordsPerSecond, places: 0, unit: " records/s")
    }

    /// The CPU time that this process, and the cluster's, took for `bytes`.
    mutating func add(_ usage: BenchUsage, bytes: Int) {
        let gigabytes = Double(bytes) / 1e9
        add("clientCPUSeconds", "Client CPU", usage.client, unit: " s")
        if bytes > 0 {
            add(
                "clientCPUSecondsPerGB", "Client CPU per GB", usage.client / gigabytes,
                unit: " s/GB")
        }
        for (role, seconds) in usage.cluster {
            add("\(role)CPUSeconds", "All \(role)s' CPU", seconds, unit: " s")
            guard bytes > 0 else { continue }
            add(
                "\(role)CPUSecondsPerGB", "All \(role)s' CPU per GB", seconds / gigabytes,
                unit: " s/GB")
        }
        for (name, megabytes) in usage.memory {
            add("\(name)RSSMB", "RSS of \(name)", megabytes, places: 1, unit: " MB")
        }
    }

    mutating func add(_ latencies: LatencyHistogram, prefix: String = "") {
        for (name, percentile) in [("p50", 50.0), ("p99", 99), ("p99.9", 99.9), ("max", 100)] {
            add(
                prefix + name + "Ms", "Latency \(name)",
                latencies.milliseconds(atPercentile: percentile), places: 3, unit: " ms")
        }
    }

    func print(_ format: OutputFormat) {
        let width = figures.reduce(0) { max($0, $1.label.count) }
        printResult(
            format, json: .object(figures.map { ($0.name, $0.value) }),
            text: figures.map { figure in
                let padding = String(repeating: " ", count: width - figure.label.count)
                return "\(figure.label):\(padding)  \(figure.text)"
            })
    }
}
