package import Configuration
package import Essentials
package import Storage

/// What a quorum node has to know to start.
package struct QuorumOptions: Sendable {
    package var clusterID: String
    package var local: NodeID
    package var directory: DirectoryID
    /// Whether this node may become a voter, and so keeps everything durable; otherwise it observes.
    package var isController: Bool
    /// `controller.quorum.bootstrap.servers`: any controllers, to find the leader by.
    package var bootstrapServers: [Endpoint]
    /// Where others reach this controller; `nil` for a broker, and where nobody was told.
    package var listener: Endpoint?
    /// `metadata.log.dir`: the folder in which the metadata log lies.
    package var directoryPath: String
    package var electionTimeout: Duration = .seconds(1)
    package var fetchTimeout: Duration = .seconds(2)
    /// The most bytes a fetch of the log answers.
    package var maxFetchBytes = 4 << 20
    /// The most bytes of a snapshot in one answer; a node asks for no more, and gives no more.
    package var snapshotChunkBytes = 1 << 20
    /// `metadata.log.max.record.bytes.between.snapshots`.
    package var snapshotBytes = 20 << 20
    /// `metadata.log.max.snapshot.interval.ms`; zero for no limit.
    package var snapshotInterval: Duration = .seconds(3_600)
    /// The levels of metadata records that this release writes and reads.
    package var metadataLevels: ClosedRange<Int32> = 1...1

    package init(
        clusterID: String, local: NodeID, directory: DirectoryID, isController: Bool,
        bootstrapServers: [Endpoint], listener: Endpoint? = nil, directoryPath: String
    ) {
        self.clusterID = clusterID
        self.local = local
        self.directory = directory
        self.isController = isController
        self.bootstrapServers = bootstrapServers
        self.listener = listener
        self.directoryPath = directoryPath
    }

    /// - Parameter properties: those of the metadata log's directory.
    package init(_ configuration: NodeConfiguration, properties: MetaProperties) {
        let advertised = configuration.advertisedListener
        self.init(
            clusterID: properties.clusterID, local: configuration.nodeID,
            directory: properties.directoryID, isController: configuration.role == .controller,
            bootstrapServers: configuration.bootstrapServers,
            listener: configuration.role == .controller && advertised.port > 0 ? advertised : nil,
            directoryPath: configuration.metadataLogDirectory)
        electionTimeout = configuration.quorumElectionTimeout
        fetchTimeout = configuration.quorumFetchTimeout
        snapshotBytes = configuration.metadataSnapshotBytes
        snapshotInterval = configuration.metadataSnapshotInterval
    }
}
