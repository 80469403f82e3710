import Foundation
import Testing

/// A cluster of real processes, under `millrace dev`, with a data directory of its own.
///
/// Every process ends with the test: `dev` and the nodes started here watch their standard input, and
/// the end of file there ends them even if the test process is killed.
final class Cluster {
    struct Node: Decodable {
        var role: String
        var id: Int
        var pid: pid_t?
        var port: Int
        var dataDir: String
        var log: String
        var config: String
    }

    private struct ClusterFile: Decodable {
        var bootstrap: String
        var processes: [Node]
    }

    let directory: URL
    let port: Int
    private let controllers: Int
    private let brokers: Int
    private let logDirs: Int
    private(set) var dev: RunningProcess
    /// Nodes that a test started again itself, by id.
    private var restarted: [Int: RunningProcess] = [:]

    private init(
        directory: URL, port: Int, controllers: Int, brokers: Int, logDirs: Int
    ) throws {
        self.directory = directory
        self.port = port
        self.controllers = controllers
        self.brokers = brokers
        self.logDirs = logDirs
        dev = try Self.startDev(
            directory: directory, port: port, controllers: controllers, brokers: brokers,
            logDirs: logDirs)
    }

    /// Runs `body` with a cluster that is ready, and ends the cluster whatever happens.
    static func with(
        controllers: Int = 1, brokers: Int = 1, logDirs: Int = 1,
        _ body: (Cluster) async throws -> Void
    ) async throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(at: directory) }
        let cluster = try Cluster(
            directory: directory, port: try freePorts(max(controllers, brokers)),
            controllers: controllers, brokers: brokers, logDirs: logDirs)
        do {
            try await cluster.awaitReady()
            try await body(cluster)
        } catch {
            let report = cluster.report()
            try? await cluster.stop()
            Issue.record(Comment(rawValue: report))
            throw error
        }
        try await cluster.stop()
    }

    // MARK: Starting and ending

    private static func startDev(
        directory: URL, port: Int, controllers: Int, brokers: Int, logDirs: Int
    ) throws -> RunningProcess {
        try RunningProcess(
            binary,
            [
                "dev", "--controllers", "\(controllers)", "--brokers", "\(brokers)",
                "--port", "\(port)", "--data", directory.appendingPathComponent("data").path,
                "--parent-pipe", "0", "--log-dirs", "\(logDirs)",
            ], in: directory)
    }

    func awaitReady() async throws {
        try await eventually(within: .seconds(60), "the cluster is ready: \(dev.errors)") {
            if !dev.isRunning { throw RunningProcess.Failure(description: dev.errors) }
            return dev.output.contains("Bootstrap address")
        }
    }

    /// Ends everything cleanly.
    func stop() async throws {
        for (id, process) in restarted.sorted(by: { $0.key < $1.key }) {
            process.send(SIGTERM)
            let result = try await process.wait(within: .seconds(30))
            #expect(result.exitCode == 0, "node \(id): \(result.errors)")
        }
        restarted = [:]
        guard dev.isRunning else { return }
        dev.send(SIGTERM)
        let result = try await dev.wait(within: .seconds(60))
        #expect(result.exitCode == 0, "dev: \(result.errors)")
    }

    /// Starts the cluster again, after `stop`, on the same data.
    func start() async throws {
        dev = try Self.startDev(
            directory: directory, port: port, controllers: controllers, brokers: brokers,
            logDirs: logDirs)
        try await awaitReady()
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    func kill(_ id: Int) async throws {
        let pid: pid_t
        if let process = restarted.removeValue(forKey: id) {
            pid = process.pid
            process.send(SIGKILL)
            try await process.wait()
        } else {
            pid = try #require(try node(id).pid)
            Foundation.kill(pid, SIGKILL)
        }
        try await eventually("node \(id) is gone") { !isAlive(pid) }
    }

    /// Stops a node in order, and waits until it is gone.
    func terminate(_ id: Int) async throws {
        if let process = restarted.removeValue(forKey: id) {
            process.send(SIGTERM)
            let result = try await process.wait(within: .seconds(30))
            #expect(result.exitCode == 0, "node \(id): \(result.errors)")
        } else {
            let pid = try #require(try node(id).pid)
            Foundation.kill(pid, SIGTERM)
            try await eventually("node \(id) is gone") { !isAlive(pid) }
        }
    }

    /// Starts a node that has ended, with the configuration it had.
    func restart(_ id: Int) throws {
        let node = try node(id)
        restarted[id] = try RunningProcess(Self.binary, Self.arguments(of: node), in: directory)
    }

    /// Waits until a node that was started again serves.
    func awaitRestarted(_ id: Int) async throws {
        let process = try #require(restarted[id])
        try await eventually(within: .seconds(60), "node \(id) is ready: \(process.errors)") {
            process.output.contains("is ready")
        }
    }

    /// Starts a node that has ended, on a copy of its data in a file system of its own, of `megabytes`.
    ///
    /// What happens there is seen by that process alone; `path(_:seenBy:)` leads to it.
    func restartOnSmallDisk(_ id: Int, megabytes: Int) throws {
        let node = try node(id)
        // The kernel drops the file system with the last process in it.
        let script = """
            set -e
            data=$1; shift
            mkdir -p "$data.copy"
            cp -a "$data/." "$data.copy"
            mount -t tmpfs -o size=\(megabytes)m tmpfs "$data"
            cp -a "$data.copy/." "$data"
            exec "$0" "$@"
            """
        restarted[id] = try RunningProcess(
            "/usr/bin/env",
            [
                "unshare", "--map-root-user", "--mount", "sh", "-c", script, Self.binary,
                node.dataDir,
            ] + Self.arguments(of: node), in: directory)
    }

    /// A path as a node that was started by a test sees it.
    func path(_ path: String, seenBy id: Int) throws -> String {
        let process = try #require(restarted[id])
        return "/proc/\(process.pid)/root\(path)"
    }

    private static func arguments(of node: Node) -> [String] {
        [node.role, "--config", node.config, "--parent-pipe", "0"]
    }

    func send(_ signal: Int32, to id: Int) throws {
        if let process = restarted[id] {
            process.send(signal)
        } else {
            Foundation.kill(try #require(try node(id).pid), signal)
        }
    }

    // MARK: Asking

    var bootstrap: String { "127.0.0.1:\(port)" }

    func nodes() throws -> [Node] {
        let data = try Data(contentsOf: directory.appendingPathComponent("data/cluster.json"))
        return try JSONDecoder().decode(ClusterFile.self, from: data).processes
    }

    func node(_ id: Int) throws -> Node {
        try #require(try nodes().first { $0.id == id })
    }

    /// Starts a client command, to be fed through its standard input.
    func begin(_ arguments: String...) throws -> RunningProcess {
        try RunningProcess(
            Self.binary, arguments + ["--bootstrap", bootstrap], in: directory)
    }

    /// Runs a client command to its end, which must be a success; what it printed.
    @discardableResult
    func millrace(_ arguments: String..., within limit: Duration = .seconds(60)) async throws
        -> String
    {
        let result = try await RunningProcess.run(
            Self.binary, arguments + ["--bootstrap", bootstrap], in: directory, within: limit)
        guard result.exitCode == 0 else {
            throw RunningProcess.Failure(
                description: "millrace \(arguments.joined(separator: " ")) failed with "
                    + "\(result.exitCode): \(result.errors.suffix(1_000))")
        }
        return result.output
    }

    /// Runs a client command with `--output json` and decodes its answer.
    func millrace<Answer: Decodable>(
        _ arguments: String..., as type: Answer.Type
    ) async throws -> Answer {
        let result = try await RunningProcess.run(
            Self.binary, arguments + ["--output", "json", "--bootstrap", bootstrap], in: directory)
        guard result.exitCode == 0 else {
            throw RunningProcess.Failure(
                description: "millrace \(arguments) failed: \(result.errors.suffix(1_000))")
        }
        return try JSONDecoder().decode(type, from: Data(result.output.utf8))
    }

    /// The ends of all logs, for a test that failed.
    private func report() -> String {
        let logs = ((try? nodes()) ?? []).map { node in
            let text = (try? String(contentsOfFile: node.log, encoding: .utf8)) ?? ""
            let lines = text.split(separator: "\n").suffix(15).joined(separator: "\n")
            return "--- \(node.role) \(node.id)\n\(lines)"
        }
        let own = restarted.sorted { $0.key < $1.key }.map { id, process in
            "--- node \(id), started again\n\(process.errors.suffix(2_000))"
        }
        return (["--- dev\n\(dev.output)\(dev.errors)"] + logs + own).joined(separator: "\n")
    }

    // MARK: Surroundings

    /// Whether a test may give a process a file system of its own.
    static let canMount: Bool = {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["unshare", "--map-root-user", "--mount", "true"]
        process.standardError = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }()

    /// The program under test: the one `MILLRACE_TEST_BINARY` names, as `Deploy/test` names the release
    /// build, or else the one that the build puts beside the tests.
    static let binary =
        ProcessInfo.processInfo.environment["MILLRACE_TEST_BINARY"]
        ?? URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        .deletingLastPathComponent().appendingPathComponent("millrace").path

    static func temporaryDirectory() throws -> URL {
        let url = FileManager.default.temporaryDirectory
            .appendingPathComponent("millrace-test-\(UUID().uuidString.prefix(8))")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        return url
    }

    /// The first of `count` ports that are free, and whose counterparts for controllers are, too.
    ///
    /// All lie below those that the system gives to outgoing connections.
    static func freePorts(_ count: Int) throws -> Int {
        for _ in 0..<200 {
            let first = Int.random(in: 12_000..<20_000)
            let ports = (0..<count).flatMap { [first + $0, first + 10_000 + $0] }
            if ports.allSatisfy({ (try? ListeningSocket(port: $0)) != nil }) { return first }
        }
        throw RunningProcess.Failure(description: "no free ports")
    }
}
