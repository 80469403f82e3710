import ArgumentParser
import Millrace

struct TopicDeleteRecordsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete-records",
        abstract: "Delete the oldest records of a partition from all its replicas.")

    @Argument(help: "The topic's name.")
    var topic: String

    @Option(help: "The partition.")
    var partition: Int32

    @Option(
        parsing: .unconditional,
        help: "The first offset that stays; -1 deletes all that is committed.")
    var beforeOffset: Int64

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard partition >= 0 else { throw ValidationError("--partition must be at least 0.") }
        guard beforeOffset >= -1 else {
            throw ValidationError("--before-offset takes an offset, or -1 for all.")
        }
    }

    func run() async throws {
        let start = try await client.withClient {
            try await Admin(client: $0).deleteRecords(
                of: topic, partition: partition, before: beforeOffset < 0 ? nil : beforeOffset)
        }
        printResult(
            output.output,
            json: .object([
                ("topic", .string(topic)), ("partition", JSONValue(partition)),
                ("logStartOffset", JSONValue(start)),
            ]),
            text: ["Partition \(topic)-\(partition) starts at offset \(start) now"])
    }
}
