import ArgumentParser
import Configuration
import Controller

/// `millrace controller`: one voter of the metadata quorum.
struct ControllerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "controller",
        abstract: "Run a controller, a voter of the metadata quorum, until SIGTERM.")

    @OptionGroup var node: NodeOptions

    @Option(help: .hidden)
    var parentPipe: Int32?

    func run() async throws {
        let process = NodeProcess(
            configuration: try node.load(role: .controller), options: node, parentPipe: parentPipe)
        try await process.run { ControllerNode(configuration: $0, logger: $1) }
    }
}

extension ControllerNode: Node {}
