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
        discussion: "A path that holds others lists them; any other one prints its value.")

    @Argument(help: "Where to look.")
    var path = "/"

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard path.hasPrefix("/") else {
            throw ValidationError("A path begins with a slash: /\(path)")
        }
    }

    func run() async throws {
        let entry = try await client.withClient {
            try await Admin(client: $0).showMetadata(at: path)
        }
        printMetadata(entry, output.output)
    }
}

/// Prints what lies at a path: names one a line, or the value.
func printMetadata(_ entry: MetadataEntry, _ output: OutputFormat) {
    let (content, lines): ((String, JSONValue), [String]) =
        switch entry.content {
        case .directory(let names):
            (("entries", .array(names.map { .string($0) })), names)
        case .value(let json):
            (("value", .raw(json)), [indentedJSON(json)])
        }
    switch output {
    case .text: if !lines.isEmpty { print(lines.joined(separator: "\n")) }
    case .json:
        let object = JSONValue.object([
            ("path", .string(entry.path)), ("offset", JSONValue(entry.offset)), content,
        ])
        print(indentedJSON(object.text()))
    }
}

/// `millrace metadata dump`: the records of the metadata log, one a line.
struct MetadataDumpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump",
        abstract: "Print the committed records of the metadata log, decoded, one a line.",
        discussion: "The columns are offset, leader epoch, time, type and value.")

    @Option(
        help: ArgumentHelp("Begin here; else where the log begins.", valueName: "offset"))
    var fromOffset: Int64?

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let fromOffset, fromOffset < 0 {
            throw ValidationError("--from-offset must be at least 0.")
        }
    }

    func run() async throws {
        try await client.withClient { try await dump(Admin(client: $0)) }
    }

    /// The log as it is committed when this begins; what comes later is left out.
    private func dump(_ admin: Admin) async throws {
        var printer = RecordPrinter(output.output)
        var next = fromOffset
        var end: Int64?
        while true {
            let part = try await admin.dumpMetadata(from: next)
            let limit = end ?? part.highWatermark
            end = limit
            for record in part.records where record.offset < limit {
                try printer.print(
                    DumpedRecord(
                        offset: record.offset, epoch: record.epoch, timestamp: record.timestamp,
                        type: record.type, value: record.value))
            }
            try printer.flush()
            // An answer that moves nothing would be asked for again and again.
            guard part.nextOffset < limit, part.nextOffset > next ?? -1, !printer.isBroken else {
                return
            }
            next = part.nextOffset
        }
    }
}

/// One record of a metadata log or snapshot, ready to be printed.
struct DumpedRecord {
    var offset: Int64
    var epoch: Int32
    /// Milliseconds since 1970.
    var timestamp: Int64
    var type: String
    /// JSON.
    var value: String
}

/// Prints records one a line.
struct RecordPrinter {
    private let format: OutputFormat
    /// Named in each line, where there are several.
    var file: String?
    private var sink = ByteSink(1)

    init(_ format: OutputFormat) {
        self.format = format
    }

    var isBroken: Bool { sink.isBroken }

    mutating func print(_ record: DumpedRecord) throws(CommandFailure) {
        switch format {
        case .text:
            let prefix = file.map { "\($0): " } ?? ""
            try sink.write(
                "\(prefix)\(record.offset)  \(record.epoch)  "
                    + "\(ClockText.timestamp(record.timestamp))  \(record.type)  "
                    + "\(record.value)\n")
        case .json:
            let start: [(name: String, value: JSONValue)] =
                file.map { [("file", .string($0))] } ?? []
            let object = JSONValue.object(
                start + [
                    ("offset", JSONValue(record.offset)), ("epoch", JSONValue(record.epoch)),
                    ("timestamp", JSONValue(record.timestamp)), ("type", .string(record.type)),
                    ("value", .raw(record.value)),
                ])
            try sink.write(object.text() + "\n")
        }
    }

    mutating func flush() throws(CommandFailure) { try sink.flush() }
}
