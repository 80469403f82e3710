import ArgumentParser
import Configuration
import Glibc

/// `millrace dev`: a whole cluster on this machine, one process a node.
struct DevCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dev",
        abstract: "Run a cluster on this machine, each node a process of its own, until Ctrl-C.",
        discussion: """
            The first start makes the data directory, later ones resume it; with more controllers than \
            before, the new ones follow the quorum until `quorum add-voter` lets them vote. DIR/cluster.json lists \
            the processes; each one's settings and log are in DIR/<role>-<id>. A node that died \
            can be started by hand: millrace broker --config DIR/broker-1/node.properties
            """)

    @Option(help: "The number of controllers; an odd one.")
    var controllers = 3

    @Option(help: "The number of brokers.")
    var brokers = 3

    @Option(help: "The number of log directories of each broker.")
    var logDirs = 1

    @Option(help: "The first broker's port; controllers get ports 10000 above.")
    var port = 9092

    @Option(
        help: ArgumentHelp("The directory for everything the cluster keeps.", valueName: "dir"),
        completion: .directory)
    var data: String

    @Flag(help: "Start a node again when it dies.")
    var restart = false

    @Option(
        name: .customLong("set"), parsing: .singleValue,
        help: ArgumentHelp("A setting for every node; repeatable.", valueName: "key=value"))
    var settings: [String] = []

    @Option(help: .hidden)
    var parentPipe: Int32?

    func validate() throws {
        guard (1...99).contains(controllers) else {
            throw ValidationError("--controllers takes a number from 1 to 99.")
        }
        guard (1...999).contains(brokers) else {
            throw ValidationError("--brokers takes a number from 1 to 999.")
        }
        guard (1...99).contains(logDirs) else {
            throw ValidationError("--log-dirs takes a number from 1 to 99.")
        }
        let last = 65_535 - DevPlan.controllerPortDistance - max(controllers, brokers)
        guard (1...last).contains(port) else {
            throw ValidationError(
                "--port takes a number from 1 to \(last), so that the controllers' ports fit.")
        }
        guard !data.isEmpty else { throw ValidationError("--data needs a directory.") }
    }

    func run() async throws {
        let events = DevSupervisor.Events()
        StopRequests.listen(parentPipe: parentPipe) { events.yield(.stop(reason: $0)) }
        try makeDirectories(data)
        let plan = DevPlan(
            directory: try absolutePath(data), controllers: controllers, brokers: brokers,
            logDirectories: logDirs, port: port, settings: settings)
        // Held until the process ends, however it ends.
        _ = try lock(plan.directory)
        ClusterFile.awaitLeftovers(of: plan)
        try plan.checkPorts()
        let resumed = try plan.prepare()
        var supervisor = DevSupervisor(
            plan: plan, restart: restart, resumed: resumed, events: events)
        try await supervisor.run()
    }

    private func absolutePath(_ path: String) throws(CommandFailure) -> String {
        guard let resolved = realpath(path, nil) else {
            throw CommandFailure("cannot use \(path): \(systemMessage(errno))")
        }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    private func lock(_ directory: String) throws(CommandFailure) -> Int32 {
        let path = directory + "/.lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            throw CommandFailure(
                "cannot write to \(directory): \(systemMessage(errno)); "
                    + "choose another directory with --data")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            throw CommandFailure(
                "\(directory) is in use by another 'millrace dev'; stop that one, "
                    + "or choose another directory with --data")
        }
        return descriptor
    }
}
