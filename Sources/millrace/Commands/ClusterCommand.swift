import ArgumentParser
import Millrace

/// `millrace cluster`: the nodes, the features they agree on, and what is done to the whole.
struct ClusterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cluster", abstract: "Show the cluster's nodes and features, and change them.",
        subcommands: [
            ClusterNodesCommand.self, ClusterFeaturesCommand.self, ClusterUpgradeCommand.self,
            ClusterUnregisterCommand.self,
        ], defaultSubcommand: ClusterNodesCommand.self)
}

/// `millrace cluster nodes`, or just `millrace cluster`: every node, its role, and whether it serves.
struct ClusterNodesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nodes",
        abstract: "Show the cluster's nodes: roles, racks, fenced or not, leaders per broker.")

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let cluster = try await client.withClient {
            try await Admin(client: $0).describeCluster()
        }
        var table = Table(
            "ID", "ROLE", "ADDRESS", "RACK", "STATE", "LEADERS", "REPLICAS", "OFFLINE")
        for node in cluster.nodes {
            table.add(
                "\(node.id)", node.role.rawValue, "\(node.host):\(node.port)", node.rack ?? "-",
                state(of: node, in: cluster), node.leaders.map { "\($0)" } ?? "-",
                node.replicas.map { "\($0)" } ?? "-", node.offlineReplicas.map { "\($0)" } ?? "-")
        }
        let active = cluster.activeController.map { "\($0)" } ?? "none"
        printResult(
            output.output,
            json: .object([
                ("clusterId", .string(cluster.clusterID)),
                ("activeController", JSONValue(cluster.activeController)),
                ("nodes", .array(cluster.nodes.map(\.json))),
            ]),
            text: ["Cluster \(cluster.clusterID), active controller \(active)"] + table.lines)
    }

    private func state(of node: NodeDescription, in cluster: ClusterDescription) -> String {
        switch node.role {
        case .controller: node.id == cluster.activeController ? "active" : "standby"
        case .broker: node.isFenced == true ? "fenced" : "serving"
        }
    }
}

extension NodeDescription {
    fileprivate var json: JSONValue {
        .object([
            ("id", JSONValue(id)), ("role", .string(role.rawValue)), ("host", .string(host)),
            ("port", JSONValue(port)), ("rack", JSONValue(rack)), ("fenced", JSONValue(isFenced)),
            ("brokerEpoch", JSONValue(brokerEpoch)), ("leaders", JSONValue(leaders)),
            ("replicas", JSONValue(replicas)), ("offlineReplicas", JSONValue(offlineReplicas)),
        ])
    }
}
