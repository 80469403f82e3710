import ArgumentParser
import Broker
import Configuration

/// `millrace broker`: hosts replicas and serves clients.
struct BrokerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "broker",
        abstract: "Run a broker, which stores records and serves clients, until SIGTERM.")

    @OptionGroup var node: NodeOptions

    @Option(help: .hidden)
    var parentPipe: Int32?

    func run() async throws {
        let process = NodeProcess(
            configuration: try node.load(role: .broker), options: node, parentPipe: parentPipe)
        try await process.run { BrokerNode(configuration: $0, logger: $1) }
    }
}

extension BrokerNode: Node {}
