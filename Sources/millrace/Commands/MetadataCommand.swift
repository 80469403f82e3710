import ArgumentParser
import Millrace

/// `millrace metadata`: the cluster's metadata as a tree, and the log that it comes from.
struct MetadataCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metadata", abstract: "Look into the cluster's metadata and its log.",
        subcommands: [MetadataShowCommand.self, MetadataDumpCommand.self])
}

/// `millrace metadata show`: what lies at a path.
struct MetadataShowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Browse the metadata like a tree, such as /topics/NAME/partitions/0.",
        discussion: """
            A path that holds others lists them; any other one prints its value. The active controller \
            answers, or with --snapshot a snapshot's file, which needs no cluster.
            """)

    @Argument(help: "Where to look.")
    var path = "/"

    @Option(
        help: ArgumentHelp("A snapshot to look into instead.", valueName: "file.checkpoint"),
        completion: .file(extensions: ["checkpoint"]))
    var snapshot: String?

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard path.hasPrefix("/") else {
            throw ValidationError("A path begins with a slash: /\(path)")
        }
        guard snapshot == nil || client.bootstrap == nil else {
            throw ValidationError("Take either --snapshot or --bootstrap.")
        }
    }

    func run() async throws {
        if let snapshot {
            let (content, end) = try MetadataFiles.content(at: path, inSnapshot: snapshot)
            return printMetadata(content, at: path, offset: end, output.output)
        }
        let entry = try await client.withClient {
            try await Admin(client: $0).showMetadata(at: path)
        }
        printMetadata(entry.content, at: entry.path, offset: entry.offset, output.output)
    }
}

/// Prints what lies at a path: names one a line, or the value.
func printMetadata(
    _ content: MetadataEntry.Content, at path: String, offset: Int64, _ output: OutputFormat
) {
    let (field, lines): ((String, JSONValue), [String]) =
        switch content {
        case .directory(let names):
            (("entries", .array(names.map { .string($0) })), names)
        case .value(let json):
            (("value", .raw(json)), [indentedJSON(json)])
        }
    switch output {
    case .text: if !lines.isEmpty { print(lines.joined(separator: "\n")) }
    case .json:
        let object = JSONValue.object([
            ("path", .string(path)), ("offset", JSONValue(offset)), field,
        ])
        print(indentedJSON(object.text()))
    }
}
