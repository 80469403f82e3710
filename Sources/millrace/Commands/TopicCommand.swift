import ArgumentParser
import Millrace

/// `millrace topic`: create, list, describe, alter and delete topics.
struct TopicCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topic", abstract: "Create, list, describe, alter and delete topics.",
        subcommands: [
            TopicCreateCommand.self, TopicListCommand.self, TopicDescribeCommand.self,
            TopicAlterCommand.self, TopicDeleteCommand.self, TopicDeleteRecordsCommand.self,
            TopicMoveLogCommand.self,
        ])
}

struct TopicCreateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Create a topic.")

    @Argument(help: "The topic's name.")
    var topic: String

    @Option(help: "How many partitions; 1 unless given.")
    var partitions: Int32?

    @Option(help: "Replicas of each partition; 3, or as many as there are brokers, unless given.")
    var replicationFactor: Int32?

    @Option(
        name: .long, parsing: .singleValue,
        help: ArgumentHelp(
            "A topic config, such as min.insync.replicas=2; repeatable.", valueName: "key=value"))
    var config: [String] = []

    @Flag(help: "A topic that exists already is fine.")
    var ifNotExists = false

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let partitions, partitions < 1 {
            throw ValidationError("--partitions must be at least 1.")
        }
        if let replicationFactor, replicationFactor < 1 {
            throw ValidationError("--replication-factor must be at least 1.")
        }
        for entry in config where !entry.dropFirst().contains("=") {
            throw ValidationError("--config takes key=value, not '\(entry)'.")
        }
    }

    func run() async throws {
        try await client.withClient { client in
            let admin = Admin(client: client)
            do {
                _ = try await admin.createTopic(
                    NewTopic(
                        name: topic, partitions: partitions, replicationFactor: replicationFactor,
                        configs: configs))
            } catch let error as MillraceError
                where ifNotExists && error.code == "TOPIC_ALREADY_EXISTS"
            {
                // What was asked for is there.
            }
            let created = try await admin.waitUntilLed(topic)
            let factor = created.partitions.first?.replicas.count ?? 0
            printResult(
                output.output,
                json: .object([
                    ("name", .string(created.name)), ("topicId", .string(created.id)),
                    ("partitions", JSONValue(created.partitions.count)),
                    ("replicationFactor", JSONValue(factor)),
                ]),
                text: [
                    "Created topic \(created.name): \(created.partitions.count) partitions,"
                        + " replication factor \(factor), id \(created.id)"
                ])
        }
    }

    private var configs: [String: String] {
        var configs: [String: String] = [:]
        for entry in config {
            guard let separator = entry.firstIndex(of: "=") else { continue }
            configs[String(entry[..<separator])] =
                String(entry[entry.index(after: separator)...])
        }
        return configs
    }
}

struct TopicListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List all topics.")

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let topics = try await client.withClient { try await Admin(client: $0).listTopics() }
        var table = Table("TOPIC", "PARTITIONS", "REPLICAS", "ID")
        for topic in topics {
            table.add(
                topic.name, "\(topic.partitions.count)",
                "\(topic.partitions.first?.replicas.count ?? 0)", topic.id)
        }
        let json = topics.map { topic in
            JSONValue.object([
                ("name", .string(topic.name)), ("topicId", .string(topic.id)),
                ("partitions", JSONValue(topic.partitions.count)),
                ("replicationFactor", JSONValue(topic.partitions.first?.replicas.count ?? 0)),
            ])
        }
        printResult(
            output.output, json: .object([("topics", .array(json))]),
            text: topics.isEmpty ? ["There are no topics."] : table.lines)
    }
}

struct TopicDescribeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "describe", abstract: "Show a topic's partitions, leaders and replicas.")

    @Argument(help: "The topic's name.")
    var topic: String

    @Flag(help: "Show instead what each replica takes on its broker's disk.")
    var size = false

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        if size { return try await showSizes() }
        let name = topic
        let topic = try await client.withClient {
            try await Admin(client: $0).describeTopic(name)
        }
        var table = Table("PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "ELR", "OFFLINE")
        for partition in topic.partitions {
            table.add(
                "\(partition.partition)", partition.leader.map { "\($0)" } ?? "none",
                "\(partition.leaderEpoch)", list(partition.replicas), list(partition.isr),
                list(partition.eligibleLeaderReplicas), list(partition.offlineReplicas))
        }
        let partitions = topic.partitions.map(\.json)
        printResult(
            output.output,
            json: .object([
                ("name", .string(topic.name)), ("topicId", .string(topic.id)),
                ("partitions", .array(partitions)),
            ]),
            text: ["Topic \(topic.name), id \(topic.id)"] + table.lines)
    }

    private func showSizes() async throws {
        let name = topic
        let all = try await client.withClient {
            try await Admin(client: $0).describeLogs(of: name)
        }
        let replicas = all.filter { $0.move == nil }
        let moves = all.filter { $0.move != nil }
        var table = Table(
            "PARTITION", "BROKER", "BYTES", "SEGMENTS", "START", "END", "COMPACTED", "DIRECTORY")
        for replica in replicas {
            table.add(
                "\(replica.partition)", "\(replica.broker)", "\(replica.size)",
                "\(replica.segments)", "\(replica.logStartOffset)", "\(replica.logEndOffset)",
                text(of: replica.compaction), replica.directory)
        }
        for copy in moves {
            guard let move = copy.move else { continue }
            table.add(
                "\(copy.partition)", "\(copy.broker)", "\(move.copiedBytes)", "-", "-", "-", "-",
                "\(copy.directory) (\(TopicMoveLogCommand.describe(move)))")
        }
        let json = replicas.map { replica in
            JSONValue.object([
                ("partition", JSONValue(replica.partition)), ("broker", JSONValue(replica.broker)),
                ("size", JSONValue(replica.size)), ("segments", JSONValue(replica.segments)),
                ("logStartOffset", JSONValue(replica.logStartOffset)),
                ("logEndOffset", JSONValue(replica.logEndOffset)),
                ("directory", .string(replica.directory)),
                ("compaction", compactionJSON(replica.compaction)),
            ])
        }
        let total = replicas.reduce(0) { $0 + $1.size }
        printResult(
            output.output,
            json: .object([
                ("name", .string(name)), ("size", JSONValue(total)), ("replicas", .array(json)),
                ("moves", .array(moves.compactMap { TopicMoveLogCommand.json($0) })),
            ]),
            text: ["Topic \(name): \(total) bytes in \(replicas.count) replicas"] + table.lines)
    }

    private func text(of compaction: LogCompactionDescription?) -> String {
        guard let compaction else { return "-" }
        var text = "to \(compaction.firstDirtyOffset)"
        if let bytes = compaction.dirtyBytes, let ratio = compaction.dirtyRatio {
            text += ", \(bytes) dirty (\(percent(ratio)))"
        }
        if let progress = compaction.progress { text += ", \(percent(progress)) done" }
        return text
    }

    private func percent(_ fraction: Double) -> String { "\(Int(fraction * 100)) %" }

    private func compactionJSON(_ compaction: LogCompactionDescription?) -> JSONValue {
        guard let compaction else { return .null }
        return .object([
            ("firstDirtyOffset", JSONValue(compaction.firstDirtyOffset)),
            ("dirtyBytes", JSONValue(compaction.dirtyBytes)),
            ("dirtyRatio", number(compaction.dirtyRatio)),
            ("progress", number(compaction.progress)),
        ])
    }

    private func number(_ value: Double?) -> JSONValue {
        guard let value else { return .null }
        return .number(value)
    }

    private func list(_ ids: [Int32]) -> String {
        ids.isEmpty ? "-" : ids.map { "\($0)" }.joined(separator: ",")
    }
}

struct TopicAlterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "alter", abstract: "Change a topic's configs, all or none, while it is in use."
    )

    @Argument(help: "The topic's name.")
    var topic: String

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp(
            "A new value, such as min.insync.replicas=2; repeatable.", valueName: "key=value"))
    var config: [String] = []

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp("Back to the default; repeatable.", valueName: "key"))
    var deleteConfig: [String] = []

    @Flag(help: "Check everything, change nothing.")
    var validateOnly = false

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard !(try changes).isEmpty else {
            throw ValidationError("Say what to change: --config or --delete-config.")
        }
    }

    private var changes: [ConfigAlteration] {
        get throws(ValidationError) {
            var changes: [ConfigAlteration] = []
            for text in config { changes.append(try .parse(text, option: "--config") { .set($0) }) }
            for text in deleteConfig {
                changes.append(try .parseKey(text, option: "--delete-config"))
            }
            try ConfigAlteration.check(changes)
            return changes
        }
    }

    func run() async throws {
        try await alterConfigs(
            of: .topic(topic), try changes, validateOnly: validateOnly, client: client,
            output: output.output)
    }
}

struct TopicDeleteCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete a topic with all its records.")

    @Argument(help: "The topic's name.")
    var topic: String

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await client.withClient { try await Admin(client: $0).deleteTopic(topic) }
        printResult(
            output.output, json: .object([("name", .string(topic)), ("deleted", .bool(true))]),
            text: ["Deleted topic \(topic)"])
    }
}

extension PartitionDescription {
    fileprivate var json: JSONValue {
        let fields: [(String, JSONValue)] = [
            ("partition", JSONValue(partition)), ("leader", JSONValue(leader)),
            ("leaderEpoch", JSONValue(leaderEpoch)), ("replicas", JSONValue(replicas)),
            ("isr", JSONValue(isr)), ("eligibleLeaderReplicas", JSONValue(eligibleLeaderReplicas)),
            ("offlineReplicas", JSONValue(offlineReplicas)),
        ]
        return .object(fields)
    }
}
