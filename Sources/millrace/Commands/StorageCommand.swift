import ArgumentParser
import Configuration
import Essentials
import Metadata
import Quorum
import Raft
import Storage

/// `millrace storage`: prepares and shows a node's directories.
struct StorageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "storage", abstract: "Prepare and show the directories of a node.",
        subcommands: [StorageFormatCommand.self, StorageInfoCommand.self])
}

/// `millrace storage format`: makes directories a node's own.
struct StorageFormatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "format",
        abstract: "Make the directories of a node its own, once, before its first start.")

    @OptionGroup var node: NodeOptions

    @Option(
        help: ArgumentHelp(
            "The cluster's id, the same for all its nodes; a random one if left out.",
            valueName: "id"))
    var clusterID: String?

    @Flag(help: "Leave directories that are already formatted as they are.")
    var ignoreFormatted = false

    func run() async throws {
        if let clusterID, !MetaProperties.isValidClusterID(clusterID) {
            throw ValidationError(
                "--cluster-id takes 1 to 64 letters, digits, dots, dashes and underscores.")
        }
        let configuration = try node.load()
        let found = try configuration.allDirectories.map {
            (directory: $0, properties: try MetaProperties.read(from: $0))
        }
        var id = clusterID
        for case (let directory, let properties?) in found {
            guard ignoreFormatted else {
                throw CommandFailure(
                    "\(directory) is already formatted for node \(properties.nodeID) of cluster "
                        + "\(properties.clusterID); nothing was changed (--ignore-formatted leaves "
                        + "such directories as they are)")
            }
            let checked = try MetaProperties.check(
                directory, nodeID: configuration.nodeID, clusterID: id)
            id = checked.clusterID
        }
        let cluster = id ?? UniqueID.random().description
        for (directory, properties) in found {
            if properties != nil {
                print("\(directory) was already formatted")
                continue
            }
            let id = DirectoryID.random()
            if configuration.role == .controller, directory == configuration.metadataLogDirectory {
                try writeFirstVoters(configuration, id)
            }
            try MetaProperties(
                clusterID: cluster, nodeID: configuration.nodeID, directoryID: id
            ).write(to: directory)
            print("formatted \(directory) for node \(configuration.nodeID) of cluster \(cluster)")
        }
        if id == nil { print("format the other nodes with --cluster-id \(cluster)") }
    }

    /// A lone controller is the first voter of its cluster; it begins the metadata log.
    private func writeFirstVoters(
        _ configuration: NodeConfiguration, _ directory: DirectoryID
    ) throws {
        guard configuration.voters.map(\.id) == [configuration.nodeID] else {
            throw CommandFailure(
                "a cluster begins with one controller: format it with itself alone in "
                    + "controller.quorum.voters, or use 'millrace dev'")
        }
        let voters = VoterSet(
            configuration.voters.map {
                Voter(
                    id: $0.id, directory: directory, host: $0.endpoint.host, port: $0.endpoint.port)
            })
        let level = MetadataRecord.featureLevel(
            name: MetadataFeatures.metadataVersion, level: MetadataFeatures.supported.upperBound)
        try BootstrapSnapshot.write(
            to: configuration.metadataLogDirectory, voters: voters, records: [level.encoded()])
    }
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
