import ArgumentParser
import Glibc
import Millrace

/// `millrace metadata dump`: the records of the metadata log, one a line.
struct MetadataDumpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump",
        abstract: "Print the records of the metadata log, decoded, one a line.",
        discussion: """
            The columns are offset, leader epoch, time, type and value. Without files the committed log \
            of the active controller is printed; files are segments (.log) and snapshots (.checkpoint), \
            whose records were not necessarily committed, and need no cluster.
            """)

    @Argument(
        help: "Segments and snapshots to print instead of the live log.",
        completion: .file(extensions: ["log", "checkpoint"]))
    var files: [String] = []

    @Option(
        help: ArgumentHelp("Begin here; else where the log begins.", valueName: "offset"))
    var fromOffset: Int64?

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let fromOffset, fromOffset < 0 {
            throw ValidationError("--from-offset must be at least 0.")
        }
        guard files.isEmpty || client.bootstrap == nil else {
            throw ValidationError("Files need no cluster: leave --bootstrap out, or the files.")
        }
    }

    func run() async throws {
        signal(SIGPIPE, SIG_IGN)
        if files.isEmpty {
            try await client.withClient { try await dump(Admin(client: $0)) }
        } else {
            try dumpFiles()
        }
    }

    private func dumpFiles() throws {
        var printer = RecordPrinter(output.output)
        for file in files where !printer.isBroken {
            printer.file = files.count > 1 ? file : nil
            do {
                try MetadataFiles.read(file, from: fromOffset ?? 0) { record in
                    try printer.print(record)
                    return !printer.isBroken
                }
            } catch {
                // What came before a damaged place is true, and may be all there is.
                try printer.flush()
                throw error
            }
        }
        try printer.flush()
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
