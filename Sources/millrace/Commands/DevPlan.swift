import Configuration
import Essentials
import Glibc
import Metadata
import Quorum
import Raft
import Storage

/// What `millrace dev` runs: every node with its id, port and directories.
struct DevPlan {
    /// One node of the cluster.
    struct Node: Sendable, Hashable {
        var role: NodeConfiguration.Role
        var id: Int32
        var port: Int
        /// Brokers only.
        var rack: String?
        /// `DIR/<role>-<id>`.
        var directory: String
        /// How many log directories it has.
        var logDirectories = 1

        var name: String { "\(role.rawValue) \(id)" }
        var dataDirectory: String { directory + "/data" }
        /// `dataDirectory`, and the others if it has several.
        var dataDirectories: [String] {
            (0..<logDirectories).map { $0 == 0 ? dataDirectory : "\(dataDirectory)-\($0 + 1)" }
        }
        var logPath: String { directory + "/node.log" }
        var configurationPath: String { directory + "/node.properties" }
    }

    static let host = "127.0.0.1"
    /// Controllers have ids from here on, brokers from 1.
    static let firstControllerID: Int32 = 1_001
    /// A controller's port lies this far above a broker's.
    static let controllerPortDistance = 10_000

    let directory: String
    let controllers: [Node]
    let brokers: [Node]
    /// `key=value` for every node.
    let settings: [String]

    init(
        directory: String, controllers: Int, brokers: Int, logDirectories: Int = 1, port: Int,
        settings: [String]
    ) {
        self.directory = directory
        self.settings = settings
        self.controllers = (0..<controllers).map { index in
            let id = Self.firstControllerID + Int32(index)
            return Node(
                role: .controller, id: id, port: port + Self.controllerPortDistance + index,
                rack: nil, directory: "\(directory)/controller-\(id)")
        }
        self.brokers = (0..<brokers).map { index in
            let id = 1 + Int32(index)
            return Node(
                role: .broker, id: id, port: port + index, rack: "r\(id)",
                directory: "\(directory)/broker-\(id)", logDirectories: logDirectories)
        }
    }

    var nodes: [Node] { controllers + brokers }
    var bootstrap: String { "\(Self.host):\(brokers.first?.port ?? 0)" }
    var clusterFile: String { directory + "/cluster.json" }

    /// Names the first port that another process listens on.
    func checkPorts() throws(CommandFailure) {
        for node in nodes
        where PortProbe.isTaken(Endpoint(host: Self.host, port: node.port)) {
            throw CommandFailure(
                "port \(node.port), meant for \(node.name), is taken by another process; "
                    + "stop that one, or choose other ports with --port")
        }
    }

    /// Writes every node's settings and formats what is new; `true` if the cluster was there before.
    func prepare() throws -> Bool {
        var clusterID: String?
        for node in nodes {
            if let found = try MetaProperties.read(from: node.dataDirectory) {
                _ = try MetaProperties.check(
                    node.dataDirectory, nodeID: NodeID(node.id), clusterID: clusterID)
                clusterID = found.clusterID
            }
        }
        try checkControllerCount(isNew: clusterID == nil)
        let cluster = clusterID ?? UniqueID.random().description
        for node in nodes {
            try makeDirectories(node.directory)
            try writeConfiguration(of: node)
        }
        try format(cluster)
        return clusterID != nil
    }

    /// Makes the directories the nodes' own.
    ///
    /// The controllers of a new cluster get each other as its first voters. One that comes later, or
    /// has lost its data, joins without a vote.
    private func format(_ cluster: String) throws {
        var directories: [Int32: DirectoryID] = [:]
        for node in controllers {
            directories[node.id] =
                try MetaProperties.read(from: node.dataDirectory)?.directoryID ?? .random()
        }
        // A first start that was cut short is begun anew: until a controller runs, nobody has voted.
        let isNew = try !controllers.contains { try hasRun($0) }
        let voters = VoterSet(
            controllers.map { node in
                Voter(
                    id: NodeID(node.id), directory: directories[node.id], host: Self.host,
                    port: node.port)
            })
        let first =
            isNew
            ? FirstMetadata(voters: voters, level: MetadataFeatures.supported.upperBound)
            : FirstMetadata()
        for node in nodes {
            let isFormatted = try MetaProperties.read(from: node.dataDirectory) != nil
            if node.role == .controller, isNew || !isFormatted {
                try makeDirectories(node.dataDirectory)
                // First: a directory with properties counts as formatted.
                try first.write(to: node.dataDirectory)
            }
            for path in node.dataDirectories where try MetaProperties.read(from: path) == nil {
                let id = path == node.dataDirectory ? directories[node.id] : nil
                try MetaProperties(
                    clusterID: cluster, nodeID: NodeID(node.id), directoryID: id ?? .random()
                ).write(to: path)
            }
        }
    }

    /// Whether the controller was ever started with the data it has.
    private func hasRun(_ node: Node) throws -> Bool {
        let fileSystem: any FileSystem = .local
        let folder = node.dataDirectory + "/" + LogDirectory.metadataFolder
        guard try fileSystem.isDirectory(folder) else { return false }
        return try fileSystem.contents(of: folder).contains { !SnapshotFile.isBootstrap($0) }
    }

    /// Fewer controllers than there were may be too few of the voters to elect anybody.
    private func checkControllerCount(isNew: Bool) throws {
        guard !isNew else { return }
        var existing = 0
        while true {
            let id = Self.firstControllerID + Int32(existing)
            let path = "\(directory)/controller-\(id)/data"
            guard try MetaProperties.read(from: path) != nil else { break }
            existing += 1
        }
        guard existing <= controllers.count else {
            throw CommandFailure(
                "\(directory) holds a cluster of \(existing) controllers; start it with "
                    + "--controllers \(existing), or use another --data directory")
        }
    }

    /// Writes the node's settings, after a check that it can start with them.
    private func writeConfiguration(of node: Node) throws {
        let servers = controllers.map { "\(Self.host):\($0.port)" }
        // All nodes share one machine: the brokers together take its cores once.
        let loops = max(1, availableCores() / max(1, brokers.count))
        var lines = [
            "# Written by 'millrace dev' at every start.",
            "process.roles=\(node.role.rawValue)",
            "node.id=\(node.id)",
            "listeners=PLAINTEXT://\(Self.host):\(node.port)",
            "controller.quorum.bootstrap.servers=\(servers.joined(separator: ","))",
            "log.dirs="
                + node.dataDirectories.joined(separator: ",").replacing("\\", with: "\\\\"),
        ]
        if let rack = node.rack { lines.append("broker.rack=\(rack)") }
        let chosen = Set(lines.map { $0.prefix { $0 != "=" } })
        for setting in settings where chosen.contains(setting.prefix { $0 != "=" }) {
            throw CommandFailure(
                "--set \(setting): 'millrace dev' chooses \(setting.prefix { $0 != "=" }) itself; "
                    + "leave it out")
        }
        lines.append("num.network.threads=\(loops)")
        // The overrides are checked as such, so that an error names the argument that is wrong.
        _ = try NodeConfiguration.load(
            properties: lines.joined(separator: "\n"), path: node.configurationPath,
            environment: processEnvironment(), overrides: settings)
        for setting in settings {
            lines.removeAll { $0.hasPrefix(setting.prefix { $0 != "=" } + "=") }
            lines.append(setting)
        }
        try writeAtomically(lines.joined(separator: "\n") + "\n", to: node.configurationPath)
    }
}
