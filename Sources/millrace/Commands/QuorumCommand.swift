import ArgumentParser
import Millrace

/// `millrace quorum`: the metadata quorum, as its leader sees it, and changes to its voters.
struct QuorumCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "quorum", abstract: "Show and change the metadata quorum.",
        subcommands: [
            QuorumStatusCommand.self, QuorumReplicationCommand.self, QuorumWatchCommand.self,
            QuorumAddVoterCommand.self, QuorumRemoveVoterCommand.self,
            QuorumTransferCommand.self,
        ])
}

struct QuorumStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the leader, its epoch, its log and its voters.")

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let quorum = try await client.withClient { try await Admin(client: $0).describeQuorum() }
        printResult(
            output.output, json: quorum.json,
            text: [
                "Cluster id:       \(quorum.clusterID)",
                "Leader id:        \(quorum.leaderID.map { "\($0)" } ?? "none")",
                "Leader epoch:     \(quorum.leaderEpoch)",
                "High watermark:   \(quorum.highWatermark)",
                "Log:              \(quorum.logText)",
                "Snapshot:         \(quorum.snapshot.map(\.text) ?? "none")",
                "Max voter lag:    \(maxLag(quorum.voters))",
                "Voters:           \(quorum.voters.voterText)",
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

extension QuorumDescription {
    var json: JSONValue {
        .object([
            ("clusterId", .string(clusterID)),
            ("leaderId", JSONValue(leaderID)),
            ("leaderEpoch", JSONValue(leaderEpoch)),
            ("highWatermark", JSONValue(highWatermark)),
            ("logStartOffset", JSONValue(logStartOffset)),
            ("logEndOffset", JSONValue(logEndOffset)),
            ("snapshot", snapshot.map(\.json) ?? .null),
            ("voters", .array(voters.map(\.json))),
            ("observers", .array(observers.map(\.json))),
        ])
    }

    /// The offsets that the leader's log holds, the end exclusive.
    var logText: String {
        guard let start = logStartOffset, let end = logEndOffset else { return "not known" }
        return "\(start) to \(end)"
    }
}

extension SnapshotDescription {
    var text: String {
        let size = sizeBytes.map { ", \(byteText($0))" } ?? ""
        return "up to \(endOffset), epoch \(epoch)\(size)"
    }

    fileprivate var json: JSONValue {
        .object([
            ("endOffset", JSONValue(endOffset)), ("epoch", JSONValue(epoch)),
            ("sizeBytes", JSONValue(sizeBytes)),
        ])
    }
}

extension [QuorumReplicaDescription] {
    /// Every voter as `quorum add-voter` takes it, without its directory.
    var voterText: String {
        let voters = self.sorted { $0.id < $1.id }.map { voter in
            voter.host.isEmpty
                ? "\(voter.id)"
                : "\(voter.id)@\(BrokerAddress(host: voter.host, port: voter.port))"
        }
        return voters.isEmpty ? "none" : voters.joined(separator: ", ")
    }
}

/// A number of bytes for people to read.
func byteText(_ bytes: Int64) -> String {
    let units = ["kB", "MB", "GB", "TB"]
    guard bytes >= 1_000 else { return "\(bytes) bytes" }
    var value = Double(bytes) / 1_000
    var unit = 0
    while value >= 999.95, unit < units.count - 1 {
        value /= 1_000
        unit += 1
    }
    return rounded(value, 1) + " " + units[unit]
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
        var table = Table(
            "NODE", "DIRECTORY", "LOG END", "LAG", "LAST FETCH", "LAST CAUGHT UP", "STATUS")
        for (replica, status) in rows {
            table.add(
                "\(replica.id)", replica.directoryID ?? "-",
                replica.logEndOffset.map { "\($0)" } ?? "-", replica.lag.map { "\($0)" } ?? "-",
                age(replica.lastFetchTimestamp, of: status),
                age(replica.lastCaughtUpTimestamp, of: status), status)
        }
        let json = rows.map { replica, status in
            guard case .object(let fields) = replica.json else { return JSONValue.null }
            return .object(fields + [("status", .string(status))])
        }
        printResult(
            output.output,
            json: .object([
                ("leaderId", JSONValue(quorum.leaderID)),
                ("leaderEpoch", JSONValue(quorum.leaderEpoch)),
                ("logStartOffset", JSONValue(quorum.logStartOffset)),
                ("logEndOffset", JSONValue(quorum.logEndOffset)),
                ("snapshot", quorum.snapshot.map(\.json) ?? .null),
                ("replicas", .array(json)),
            ]),
            text: table.lines + [
                "",
                "Log of the leader: \(quorum.logText). Its snapshot: "
                    + "\(quorum.snapshot?.text ?? "none").",
            ])
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
    var json: JSONValue {
        .object([
            ("id", JSONValue(id)), ("directoryId", JSONValue(directoryID)),
            ("logEndOffset", JSONValue(logEndOffset)), ("lag", JSONValue(lag)),
            ("lastFetchTimestamp", JSONValue(lastFetchTimestamp)),
            ("lastCaughtUpTimestamp", JSONValue(lastCaughtUpTimestamp)),
            ("host", JSONValue(host.isEmpty ? nil : host)), ("port", JSONValue(port)),
        ])
    }
}
