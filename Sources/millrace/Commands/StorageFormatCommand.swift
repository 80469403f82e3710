import ArgumentParser
import Configuration
import Essentials
import Metadata
import Quorum
import Raft
import Storage

/// `millrace storage format`: makes directories a node's own.
struct StorageFormatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "format",
        abstract: "Make the directories of a node its own, once, before its first start.",
        discussion: """
            A controller also says how its quorum begins. --standalone: with itself as the only voter; \
            others join later. --initial-controllers: with several voters, the same list on each of \
            them; `storage random-id` makes their directory ids. --no-initial-controllers: it joins a \
            quorum that runs, and `quorum add-voter` lets it vote. A broker takes none of them.
            """)

    @OptionGroup var node: NodeOptions

    @Option(
        help: ArgumentHelp(
            "The cluster's id, the same for all its nodes; a random one if left out.",
            valueName: "id"))
    var clusterID: String?

    @Flag(help: "This controller is the first voter of a new cluster, and the only one for now.")
    var standalone = false

    @Option(
        help: ArgumentHelp(
            "The first voters of a new cluster, commas between them; this controller is one.",
            valueName: "id@host:port:directory-id,..."))
    var initialControllers: String?

    @Flag(help: "This controller joins a cluster that runs, at first without a vote.")
    var noInitialControllers = false

    @Option(
        help: ArgumentHelp(
            "The id of the metadata log directory, from `storage random-id`; else a random one, or"
                + " the one that --initial-controllers says.", valueName: "id"))
    var directoryID: String?

    @Option(
        help: ArgumentHelp(
            "The metadata.version that a new cluster begins with; else the newest.",
            valueName: "n"))
    var metadataVersion: Int32?

    @Flag(help: "Leave directories that are already formatted as they are.")
    var ignoreFormatted = false

    func validate() throws {
        if let clusterID, !MetaProperties.isValidClusterID(clusterID) {
            throw ValidationError(
                "--cluster-id takes 1 to 64 letters, digits, dots, dashes and underscores.")
        }
        guard beginnings <= 1 else {
            throw ValidationError(
                "Take one of --standalone, --initial-controllers and --no-initial-controllers.")
        }
        if let initialControllers { _ = try FirstMetadata.parseVoters(initialControllers) }
        if let directoryID, (DirectoryID(directoryID) ?? .zero) == .zero {
            throw ValidationError(
                "'\(directoryID)' is not a directory id; `millrace storage random-id` prints one.")
        }
        let levels = MetadataFeatures.supported
        if let metadataVersion, !levels.contains(metadataVersion) {
            throw ValidationError(
                "--metadata-version takes \(levels.lowerBound) to \(levels.upperBound) in this"
                    + " release.")
        }
        if noInitialControllers, metadataVersion != nil {
            throw ValidationError(
                "A controller that joins a cluster takes its metadata.version; leave"
                    + " --metadata-version out.")
        }
    }

    /// How many ways to begin a quorum were named.
    private var beginnings: Int {
        (standalone ? 1 : 0) + (initialControllers == nil ? 0 : 1) + (noInitialControllers ? 1 : 0)
    }

    func run() async throws {
        let configuration = try node.load()
        let plan = try plan(for: configuration)
        let found = try configuration.allDirectories.map {
            (directory: $0, properties: try MetaProperties.read(from: $0))
        }
        let cluster = try clusterID(of: found, configuration)
        for (directory, properties) in found {
            let isMetadata = directory == configuration.metadataLogDirectory
            if let properties {
                if isMetadata, let wanted = plan.directory, wanted != properties.directoryID {
                    throw CommandFailure(
                        "\(directory) is formatted with directory id \(properties.directoryID), not"
                            + " \(wanted); nothing was changed")
                }
                print("\(directory) was already formatted")
                continue
            }
            let id = isMetadata ? plan.directory ?? .random() : .random()
            if isMetadata, configuration.role == .controller {
                try refuseOldMetadata(in: directory)
                // First: a directory with properties counts as formatted.
                try plan.first(configuration, id).write(to: directory)
            }
            try MetaProperties(
                clusterID: cluster.id, nodeID: configuration.nodeID, directoryID: id
            ).write(to: directory)
            print(
                "formatted \(directory) for node \(configuration.nodeID) of cluster \(cluster.id), "
                    + "directory \(id)")
        }
        if cluster.isNew { print("format the other nodes with --cluster-id \(cluster.id)") }
    }

    /// How the quorum begins here.
    private struct Plan {
        /// The id that the metadata log directory has to get; `nil` for any.
        var directory: DirectoryID?
        var first: (NodeConfiguration, DirectoryID) throws -> FirstMetadata
    }

    private func plan(for configuration: NodeConfiguration) throws -> Plan {
        let directory = directoryID.flatMap { DirectoryID($0) }
        guard configuration.role == .controller else {
            guard beginnings == 0, directoryID == nil, metadataVersion == nil else {
                throw ValidationError(
                    "Node \(configuration.nodeID) is a broker, which never votes: leave"
                        + " --standalone, --initial-controllers, --no-initial-controllers,"
                        + " --directory-id and --metadata-version out.")
            }
            return Plan(directory: nil) { _, _ in FirstMetadata() }
        }
        let level = metadataVersion ?? MetadataFeatures.supported.upperBound
        if standalone {
            return Plan(directory: directory) { configuration, id in
                let listener = configuration.advertisedListener
                return FirstMetadata(
                    voters: VoterSet([
                        Voter(
                            id: configuration.nodeID, directory: id, host: listener.host,
                            port: listener.port)
                    ]), level: level)
            }
        }
        if noInitialControllers { return Plan(directory: directory) { _, _ in FirstMetadata() } }
        guard let initialControllers else {
            throw ValidationError(
                "Say how the quorum of controller \(configuration.nodeID) begins: --standalone for"
                    + " the first controller of a new cluster, --initial-controllers for several at"
                    + " once, --no-initial-controllers for one that joins a cluster that runs.")
        }
        let voters = try FirstMetadata.parseVoters(initialControllers)
        guard let own = voters.voters.first(where: { $0.id == configuration.nodeID }) else {
            throw ValidationError(
                "--initial-controllers does not list this controller, node \(configuration.nodeID);"
                    + " one that joins later is formatted with --no-initial-controllers.")
        }
        guard own.port == configuration.advertisedListener.port else {
            throw ValidationError(
                "--initial-controllers sends others to \(own.host):\(own.port), but controller"
                    + " \(own.id) is at \(configuration.advertisedListener); make them the same.")
        }
        guard directory == nil || directory == own.directory else {
            throw ValidationError(
                "--directory-id is not the one that --initial-controllers has for node \(own.id);"
                    + " leave it out.")
        }
        return Plan(directory: own.directory) { _, _ in
            FirstMetadata(voters: voters, level: level)
        }
    }

    private func clusterID(
        of found: [(directory: String, properties: MetaProperties?)],
        _ configuration: NodeConfiguration
    ) throws -> (id: String, isNew: Bool) {
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
        if let id { return (id, false) }
        // A cluster that runs has an id already, which a random one can't be.
        guard !noInitialControllers else {
            throw ValidationError(
                "A controller that joins a cluster needs its id: --cluster-id, which `millrace"
                    + " quorum status` shows.")
        }
        return (UniqueID.random().description, true)
    }

    /// Metadata in a directory that is not formatted is somebody's: nothing is written over it.
    private func refuseOldMetadata(in directory: String) throws {
        let folder = directory + "/" + LogDirectory.metadataFolder
        let fileSystem: any FileSystem = .local
        guard try fileSystem.isDirectory(folder) else { return }
        let others = try fileSystem.contents(of: folder).filter { !SnapshotFile.isBootstrap($0) }
        guard others.isEmpty else {
            throw CommandFailure(
                "\(folder) holds metadata (\(others.sorted().prefix(3).joined(separator: ", "))), but "
                    + "\(directory) has no \(MetaProperties.fileName); restore that file, or move "
                    + "the folder away")
        }
    }
}

/// `millrace storage random-id`: an id for a cluster or a directory.
struct StorageRandomIDCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "random-id",
        abstract: "Print a random id, for a cluster or for a controller's directory.")

    func run() {
        print(UniqueID.random())
    }
}
