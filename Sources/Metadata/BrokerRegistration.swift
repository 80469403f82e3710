package import Essentials

/// A broker as the metadata log knows it.
package struct BrokerRegistration: Equatable, Sendable {
    package var id: NodeID
    /// Drawn afresh by every start of the process.
    package var incarnation: UniqueID
    /// The offset of the registration record, so no two registrations share one.
    package var epoch: BrokerEpoch
    /// Where clients and other brokers reach it.
    package var host: String
    package var port: Int
    package var rack: String?
    /// The log directories it opened.
    package var directories: [DirectoryID]
    /// Those that it has and could not open when it registered.
    ///
    /// Below `MetadataFeatures.offlineReplicas` they are among `directories`.
    package var offlineDirectories: [DirectoryID]
    /// Registered, but not serving: leads nothing, in no ISR.
    package var fenced: Bool
    package var inControlledShutdown: Bool
    /// The levels of `metadata.version` that its release supports; `nil` where it was written by a
    /// release, or at a level, that does not say.
    package var featureLevels: ClosedRange<Int32>?

    package init(
        id: NodeID, incarnation: UniqueID, epoch: BrokerEpoch, host: String, port: Int,
        rack: String? = nil, directories: [DirectoryID] = [],
        offlineDirectories: [DirectoryID] = [], fenced: Bool = true,
        inControlledShutdown: Bool = false, featureLevels: ClosedRange<Int32>? = nil
    ) {
        self.id = id
        self.incarnation = incarnation
        self.epoch = epoch
        self.host = host
        self.port = port
        self.rack = rack
        self.directories = directories
        self.offlineDirectories = offlineDirectories
        self.fenced = fenced
        self.inControlledShutdown = inControlledShutdown
        self.featureLevels = featureLevels
    }

    /// Whether it may lead, join an ISR, and be given new replicas.
    package var isActive: Bool { !fenced && !inControlledShutdown }
}
