package import Essentials

/// What the active controller goes by.
package struct ControllerOptions: Sendable {
    package var clusterID: String
    /// Node ids of the controllers, which no broker may take.
    package var controllers: Set<NodeID>
    /// The level that the metadata records of a new cluster start at.
    package var initialMetadataLevel = MetadataFeatures.supported.lowerBound
    /// A broker not heard from for this long is fenced.
    package var sessionTimeout: Duration = .seconds(3)
    /// Partitions of a topic that does not say.
    package var partitions = 1
    /// Replicas of a topic that does not say; `nil` means 3, or as many as there are brokers.
    package var replicationFactor: Int?
    /// Written into the configs of each new topic that does not say; `nil` leaves it to the
    /// topic's number of replicas.
    package var minInSyncReplicas: Int?
    /// For topics that do not say: elect a replica that may lack committed records when no other
    /// is left.
    package var uncleanLeaderElection = false
    /// If sessions were not checked for longer than this, the controller itself stood still, and
    /// the silence says nothing about the brokers.
    package var longestCheckGap: Duration = .milliseconds(500)

    /// What nodes are configured with by their own files, as this one is: every key with its value.
    package var nodeConfigs: [String: String] = [:]
    /// The most bytes of one batch of records; what may not be split must fit.
    package var maxBatchBytes = 960 << 10

    package init(clusterID: String, controllers: Set<NodeID> = []) {
        self.clusterID = clusterID
        self.controllers = controllers
    }

    package static let maxPartitionsPerCall = 10_000
}
