import Foundation
import Testing

/// What an operator does beside the nodes that `millrace dev` runs.
extension Cluster {
    /// Runs a client command that must fail with exit code 1; what it said.
    func failure(_ arguments: String...) async throws -> String {
        let result = try await RunningProcess.run(
            Self.binary, arguments + ["--bootstrap", bootstrap], in: directory)
        #expect(result.exitCode == 1, "\(arguments): \(result.output)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
        return result.errors
    }

    /// A controller that `millrace dev` knows nothing of.
    struct OwnController {
        var id: Int
        var port: Int
        var directoryID: String
        var process: RunningProcess

        var voter: String { "\(id)@127.0.0.1:\(port)" }
    }

    /// Formats a controller that joins this cluster, and starts it.
    func startController(_ id: Int) async throws -> OwnController {
        let port = try Self.freePorts(1)
        let model = try #require(try nodes().first { $0.role == "controller" })
        let data = directory.appendingPathComponent("own-\(id)").path
        let replaced = ["node.id=", "listeners=", "log.dirs="]
        let kept = try String(contentsOfFile: model.config, encoding: .utf8)
            .split(separator: "\n").filter { line in !replaced.contains { line.hasPrefix($0) } }
        let config = directory.appendingPathComponent("own-\(id).properties")
        let lines =
            kept + ["node.id=\(id)", "listeners=PLAINTEXT://127.0.0.1:\(port)", "log.dirs=\(data)"]
        try Data((lines.joined(separator: "\n") + "\n").utf8).write(to: config)
        let directoryID = try await Self.run("storage", "random-id", in: directory)
        _ = try await Self.run(
            "storage", "format", "--config", config.path, "--no-initial-controllers",
            "--cluster-id", try await quorum().clusterId, "--directory-id", directoryID,
            in: directory)
        return OwnController(
            id: id, port: port, directoryID: directoryID,
            process: try RunningProcess(
                Self.binary, ["controller", "--config", config.path, "--parent-pipe", "0"],
                in: directory))
    }

    /// Runs a command that needs no cluster and must succeed; what it printed.
    static func run(_ arguments: String..., in directory: URL) async throws -> String {
        let result = try await RunningProcess.run(binary, arguments, in: directory)
        try #require(result.exitCode == 0, "\(arguments): \(result.errors)")
        return result.output.trimmingCharacters(in: .newlines)
    }
}
