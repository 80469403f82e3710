import ArgumentParser
import Millrace

/// `millrace quorum`: the metadata quorum, as its leader sees it.
struct QuorumCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "quorum", abstract: "Show the metadata quorum.",
        subcommands: [QuorumStatusCommand.self, QuorumReplicationCommand.self])
}

struct QuorumStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the leader, its epoch and the high watermark.")

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let quorum = try await client.withClient { try await Admin(client: $0).describeQuorum() }
        printResult(
            output.output,
            json: .object([
                ("clusterId", .string(quorum.clusterID)),
                ("leaderId", JSONValue(quorum.leaderID)),
                ("leaderEpoch", JSONValue(quorum.leaderEpoch)),
                ("highWatermark", JSONValue(quorum.highWatermark)),
                ("voters", .array(quorum.voters.map(\.json))),
                ("observers", .array(quorum.observers.map(\.json))),
            ]),
            text: [
                "Cluster id:       \(quorum.clusterID)",
                "Leader id:        \(quorum.leaderID.map { "\($0)" } ?? "none")",
                "Leader epoch:     \(quorum.leaderEpoch)",
                "High watermark:   \(quorum.highWatermark)",
                "Max voter lag:    \(maxLag(quorum.voters))",
                "Voters:           \(list(quorum.voters))",
                "Observers:        \(list(quorum.observers))",
            ])
    }

    private func maxLag(_ voters: [QuorumReplicaDescription]) -> String {
        let known = "\(voters.compactMap(\.lag).max() ?? 0)"
        let silent = voters.filter { $0.lag == nil }
        return silent.isEmpty ? known : "\(known) (not heard from: \(list(silent)))"
    }

    private func list(_ replicas: [QuorumReplicaDescription]) -> String {
        replicas.isEmpty
            ? "none" : replicas.map(\.id).sorted().map { "\($0)" }.joined(separator: ", ")
    }
}

struct QuorumReplicationCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replication",
        abstract: "Show every voter's and observer's log end, lag and last fetch.")

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let quorum = try await client.withClient { try await Admin(client: $0).describeQuorum() }
        var rows = quorum.voters.map { replica in
            (replica, replica.id == quorum.leaderID ? "leader" : "follower")
        }
        rows += quorum.observers.map { ($0, "observer") }
        var table = Table("NODE", "LOG END", "LAG", "LAST FETCH", "LAST CAUGHT UP", "STATUS")
        for (replica, status) in rows {
            table.add(
                "\(replica.id)", replica.logEndOffset.map { "\($0)" } ?? "-",
                replica.lag.map { "\($0)" } ?? "-",
                age(replica.lastFetchTimestamp, of: status),
                age(replica.lastCaughtUpTimestamp, of: status), status)
        }
        let json = rows.map { replica, status in
            guard case .object(let fields) = replica.json else { return JSONValue.null }
            return .object(fields + [("status", .string(status))])
        }
        printResult(
            output.output, json: .object([("replicas", .array(json))]), text: table.lines)
    }

    /// How long ago that was.
    ///
    /// The leader fetches from nobody.
    private func age(_ timestamp: Int64?, of status: String) -> String {
        if status == "leader" { return "-" }
        guard let timestamp else { return "never" }
        let age = WallClock.milliseconds() - timestamp
        return "\(max(0, age)) ms ago"
    }
}

extension QuorumReplicaDescription {
    fileprivate var json: JSONValue {
        .object([
            ("id", JSONValue(id)), ("directoryId", JSONValue(directoryID)),
            ("logEndOffset", JSONValue(logEndOffset)), ("lag", JSONValue(lag)),
            ("lastFetchTimestamp", JSONValue(lastFetchTimestamp)),
            ("lastCaughtUpTimestamp", JSONValue(lastCaughtUpTimestamp)),
            ("host", JSONValue(host.isEmpty ? nil : host)), ("port", JSONValue(port)),
        ])
    }
}
