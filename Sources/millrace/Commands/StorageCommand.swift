import ArgumentParser
import Configuration
import Storage

/// `millrace storage`: prepares and shows a node's directories.
struct StorageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "storage", abstract: "Prepare and show the directories of a node.",
        subcommands: [
            StorageFormatCommand.self, StorageInfoCommand.self, StorageRandomIDCommand.self,
        ])
}

/// `millrace storage info`: shows whose the directories of a node are.
struct StorageInfoCommand: AsyncParsableCommand {
    enum Output: String, ExpressibleByArgument, CaseIterable { case text, json }

    static let configuration = CommandConfiguration(
        commandName: "info", abstract: "Show whose the directories of a node are.")

    @OptionGroup var node: NodeOptions

    @Option(help: "text or json")
    var output: Output = .text

    func run() async throws {
        let configuration = try node.load()
        let found = try configuration.allDirectories.map {
            (directory: $0, properties: try MetaProperties.read(from: $0))
        }
        switch output {
        case .text:
            for (directory, properties) in found {
                let line = properties.map {
                    "cluster \($0.clusterID), node \($0.nodeID), directory \($0.directoryID)"
                }
                print("\(directory): \(line ?? "not formatted")")
            }
        case .json:
            let entries = found.map { directory, properties in
                let rest = properties.map {
                    #", "formatted": true, "clusterId": \#(jsonString($0.clusterID)), "#
                        + #""nodeId": \#($0.nodeID), "directoryId": "\#($0.directoryID)""#
                }
                return #"{"path": \#(jsonString(directory))\#(rest ?? #", "formatted": false"#)}"#
            }
            print(#"{"directories": [\#(entries.joined(separator: ", "))]}"#)
        }
        guard found.allSatisfy({ $0.properties != nil }) else { throw ExitCode.failure }
    }
}
