import ArgumentParser
import Millrace

/// `millrace config describe`: the configs of a running cluster, and where each comes from.
struct ConfigDescribeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "describe",
        abstract: "Show the configs of a topic, a broker or the whole cluster.")

    @Argument(help: "Only these; else all that there are.")
    var keys: [String] = []

    @OptionGroup var whose: ConfigResourceOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let resource = whose.resource
        let entries = try await client.withClient {
            try await Admin(client: $0).describeConfigs(of: resource, names: keys)
        }
        var table = Table("NAME", "VALUE", "FROM", "DEFAULT")
        for entry in entries {
            let other = entry.defaultValue == entry.value ? "" : entry.defaultValue
            table.add(entry.name, entry.value, entry.source.rawValue, other)
        }
        let json = entries.map { entry in
            JSONValue.object([
                ("name", .string(entry.name)), ("value", .string(entry.value)),
                ("source", .string(entry.source.rawValue)),
                ("default", .string(entry.defaultValue)),
                ("documentation", .string(entry.documentation)),
            ])
        }
        printResult(
            output.output, json: .object(resource.json + [("configs", .array(json))]),
            text: table.lines)
    }
}

/// `millrace config alter`: changes configs while the cluster runs.
struct ConfigAlterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "alter",
        abstract: "Change configs of a topic, a broker or the whole cluster, all or none.",
        discussion: """
            The change is in force at once, without a restart, and outlives restarts: it goes before \
            what a node's file says.
            """)

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp("A new value; repeatable.", valueName: "key=value"))
    var set: [String] = []

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp("Back to the default; repeatable.", valueName: "key"))
    var delete: [String] = []

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp("One more item of a list; repeatable.", valueName: "key=item"))
    var append: [String] = []

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp("One item less of a list; repeatable.", valueName: "key=item"))
    var subtract: [String] = []

    @Flag(help: "Check everything, change nothing.")
    var validateOnly = false

    @OptionGroup var whose: ConfigResourceOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard !(try changes).isEmpty else {
            throw ValidationError(
                "Say what to change: --set, --delete, --append or --subtract.")
        }
    }

    private var changes: [ConfigAlteration] {
        get throws(ValidationError) {
            var changes: [ConfigAlteration] = []
            for text in set { changes.append(try .parse(text, option: "--set") { .set($0) }) }
            for text in delete { changes.append(try .parseKey(text, option: "--delete")) }
            for text in append {
                changes.append(try .parse(text, option: "--append") { .append($0) })
            }
            for text in subtract {
                changes.append(try .parse(text, option: "--subtract") { .subtract($0) })
            }
            try ConfigAlteration.check(changes)
            return changes
        }
    }

    func run() async throws {
        try await alterConfigs(
            of: whose.resource, try changes, validateOnly: validateOnly, client: client,
            output: output.output)
    }
}
