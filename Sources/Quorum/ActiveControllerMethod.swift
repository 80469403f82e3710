/// What only the active controller answers, and any node takes: all of `millrace.v1.Admin` and
/// `millrace.v1.Quorum`.
///
/// The one list of them, for controllers, which serve or forward them, and for brokers, which forward.
package enum ActiveControllerMethod: String, CaseIterable, Sendable {
    case createTopic = "/millrace.v1.Admin/CreateTopic"
    case deleteTopic = "/millrace.v1.Admin/DeleteTopic"
    case describeCluster = "/millrace.v1.Admin/DescribeCluster"
    case alterConfigs = "/millrace.v1.Admin/AlterConfigs"
    case describeConfigs = "/millrace.v1.Admin/DescribeConfigs"
    case unregisterBroker = "/millrace.v1.Admin/UnregisterBroker"
    case describeFeatures = "/millrace.v1.Admin/DescribeFeatures"
    case updateFeatures = "/millrace.v1.Admin/UpdateFeatures"
    case describeQuorum = "/millrace.v1.Quorum/DescribeQuorum"
    case addVoter = "/millrace.v1.Quorum/AddVoter"
    case removeVoter = "/millrace.v1.Quorum/RemoveVoter"
    case transferLeadership = "/millrace.v1.Quorum/TransferLeadership"
    case showMetadata = "/millrace.v1.Quorum/ShowMetadata"
    case dumpMetadata = "/millrace.v1.Quorum/DumpMetadata"

    package var path: String { rawValue }
}
