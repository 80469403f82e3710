import ArgumentParser

/// `millrace bench metadata`: what metadata costs at scale, in this process and without a cluster.
struct BenchMetadataCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metadata",
        abstract: "Measure the controller's metadata at scale, in this process alone.",
        discussion: """
            Builds an image of many partitions on many brokers and measures its memory, its snapshot, \
            the fencing of a dead broker, a standby's takeover, and small changes. Needs no cluster.
            """)

    @Option(help: "Partitions, of all topics together.")
    var partitions = 200_000

    @Option(help: "Brokers, which exist only in the image.")
    var brokers = 200

    @Option(help: "Partitions of each topic.")
    var partitionsPerTopic = 100

    @Option(help: "How many partitions the broker that dies leads.")
    var ledByVictim = 10_000

    @Option(help: "Small changes of each kind to take the time of.")
    var changes = 2_000

    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard (100...5_000_000).contains(partitions), (3...10_000).contains(brokers),
            (1...5_000).contains(partitionsPerTopic), (1...partitions).contains(ledByVictim),
            (10...1_000_000).contains(changes)
        else {
            throw ValidationError(
                "--partitions takes 100 to 5000000, --brokers 3 to 10000, --partitions-per-topic 1 to "
                    + "5000, --led-by-victim at most --partitions, --changes 10 to 1000000.")
        }
    }

    func run() async throws {
        var report = BenchReport()
        report.add("partitions", "Partitions", partitions)
        report.add("brokers", "Brokers", brokers)
        report.add("partitionsPerTopic", "Partitions a topic", partitionsPerTopic)
        var shape = MetadataBench.Shape(
            partitions: partitions, brokers: brokers, partitionsPerTopic: partitionsPerTopic,
            ledByVictim: ledByVictim, changes: changes)
        try MetadataBench(shape: shape).measureAll(into: &report)
        // A tenth of it, for what must not depend on the size.
        shape.partitions = max(100, partitions / 10)
        shape.ledByVictim = min(ledByVictim, shape.partitions)
        let small = try MetadataBench(shape: shape).measureSmallChanges()
        report.add(small, partitions: shape.partitions, prefix: "small")
        report.print(output.output)
    }
}

extension BenchReport {
    /// - Parameter prefix: of the names in JSON.
    mutating func add(
        _ changes: MetadataBench.SmallChanges, partitions: Int, prefix: String
    ) {
        add(
            prefix + "AlterISRMicroseconds", "Change an ISR, of \(partitions)", changes.alterISR,
            places: 1, unit: " µs")
        add(
            prefix + "CreateTopicMicroseconds", "Create a topic, of \(partitions)",
            changes.createTopic, places: 1, unit: " µs")
    }
}
