import ArgumentParser
import Millrace

/// `millrace topic move-log`: a replica goes to another log directory of its broker.
struct TopicMoveLogCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "move-log",
        abstract: "Move a replica to another log directory of its broker, while it is in use.")

    @Argument(help: "The topic's name.")
    var topic: String

    @Option(help: "The partition.")
    var partition: Int32

    @Option(help: "The broker whose replica moves.")
    var broker: Int32

    @Option(
        help: ArgumentHelp(
            "One of the broker's log.dirs, written as there; the one where the replica is ends a move.",
            valueName: "directory"))
    var to: String

    @Option(help: "The bytes to copy in a second; as many as the disks allow unless given.")
    var bytesPerSecond: Int64?

    @Flag(help: "Begin, and don't wait for the end.")
    var noWait = false

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard partition >= 0 else { throw ValidationError("--partition must be at least 0.") }
        if let bytesPerSecond, bytesPerSecond < 1 {
            throw ValidationError("--bytes-per-second must be at least 1.")
        }
    }

    func run() async throws {
        let isThere = try await client.withClient { client in
            let admin = Admin(client: client)
            try await admin.moveLog(
                of: topic, partition: partition, on: broker, to: to, bytesPerSecond: bytesPerSecond)
            return noWait ? false : try await wait(admin)
        }
        let done = isThere ? "is in" : "moves to"
        printResult(
            output.output,
            json: .object([
                ("topic", .string(topic)), ("partition", JSONValue(partition)),
                ("broker", JSONValue(broker)), ("directory", .string(to)),
                ("moved", .bool(isThere)),
            ]),
            text: ["The replica of \(topic)-\(partition) on broker \(broker) \(done) \(to)"])
    }

    /// Returns once the replica is where it is to be; `false` if the move was ended by another.
    private func wait(_ admin: Admin) async throws -> Bool {
        var last = ""
        while true {
            let logs = try await admin.describeLogs(of: topic).filter {
                $0.partition == partition && $0.broker == broker
            }
            let move = logs.first { $0.directory == to && $0.move != nil }?.move
            if let error = move?.error {
                throw CommandFailure("the replica was not moved: \(error)")
            }
            if let move {
                let line = Self.describe(move)
                if line != last, output.output == .text { print(line) }
                last = line
            } else if let replica = logs.first(where: { $0.move == nil }) {
                // While it is swapped it is in neither.
                return replica.directory == to
            }
            try await Task.sleep(for: .milliseconds(500))
        }
    }

    static func describe(_ move: ReplicaLogMove) -> String {
        if let error = move.error { return "not moved: \(error)" }
        guard move.totalBytes > 0 else { return "waits to be moved here" }
        let percent = Double(move.copiedBytes) * 100 / Double(move.totalBytes)
        return "moving here, \(move.copiedBytes) of \(move.totalBytes) bytes, \(Int(percent)) %"
    }

    static func json(_ log: ReplicaLogDescription) -> JSONValue? {
        guard let move = log.move else { return nil }
        return .object([
            ("partition", JSONValue(log.partition)), ("broker", JSONValue(log.broker)),
            ("directory", .string(log.directory)), ("copied", JSONValue(move.copiedBytes)),
            ("size", JSONValue(move.totalBytes)), ("error", .string(move.error ?? "")),
        ])
    }
}
