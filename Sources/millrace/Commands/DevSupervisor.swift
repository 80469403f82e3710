import Configuration
import Glibc

/// Starts the nodes of a `DevPlan`, watches them, and ends them in order.
///
/// One task owns it; everything that happens reaches it through one queue of events.
struct DevSupervisor {
    enum Event: Sendable {
        case stop(reason: String)
        case exited(node: Int32, pid: pid_t, ChildProcess.Exit)
        case startAgain(node: Int32)
        case waitingFor(String)
        /// Names the controllers that follow the quorum without a vote.
        case ready(withoutVote: [DevPlan.Node])
        /// The time that the nodes being stopped were given is over.
        case outOfPatience(round: Int)
    }

    /// The queue of events; may be fed from any thread.
    struct Events: Sendable {
        let stream: AsyncStream<Event>
        private let continuation: AsyncStream<Event>.Continuation

        init() {
            (stream, continuation) = AsyncStream.makeStream()
        }

        func yield(_ event: Event) {
            continuation.yield(event)
        }

        func yield(_ event: Event, after delay: Duration) {
            Task { [continuation] in
                try? await Task.sleep(for: delay)
                continuation.yield(event)
            }
        }
    }

    let plan: DevPlan
    let restart: Bool
    let resumed: Bool
    let events: Events

    /// How long nodes may take to end cleanly.
    private static let patience: Duration = .seconds(20)

    private let executable = ChildProcess.ownExecutable()
    private var pids: [Int32: pid_t] = [:]
    /// How often each node has been started again without a pause.
    private var restarts: [Int32: Int] = [:]
    /// When each node was started.
    private var starts: [Int32: ContinuousClock.Instant] = [:]
    /// A node that has run for this long could run: its end is no reason to wait longer.
    private static let provingTime: Duration = .seconds(2)
    private let pipeForChildren: Int32

    init(plan: DevPlan, restart: Bool, resumed: Bool, events: Events) {
        self.plan = plan
        self.restart = restart
        self.resumed = resumed
        self.events = events
        var ends: [Int32] = [-1, -1]
        if pipe(&ends) == 0 {
            // The write end stays open for as long as this process lives, and nobody else has it:
            // its end of file is how the children learn of our end, however that comes.
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        }
        pipeForChildren = ends[0]
    }

    mutating func run() async throws {
        let count = "\(plan.controllers.count) controllers and \(plan.brokers.count) brokers"
        say("\(resumed ? "Resuming" : "Starting") \(count) on \(plan.directory)")
        do {
            for node in plan.nodes { try start(node) }
            let readiness = Task { [plan, events] in
                await DevReadiness(plan: plan, events: events).waitUntilReady()
            }
            defer { readiness.cancel() }
            try await handleEvents()
        } catch {
            await stopAll()
            throw error
        }
        await stopAll()
    }

    private mutating func handleEvents() async throws {
        var isReady = false
        for await event in events.stream {
            switch event {
            case .stop(let reason):
                say("Stopping: \(reason)")
                return
            case .exited(let id, let pid, let exit):
                guard let node = plan.nodes.first(where: { $0.id == id }), pids[id] == pid else {
                    continue
                }
                pids[id] = nil
                try ClusterFile.write(plan, pids: pids)
                let text = "\(node.name) (pid \(pid)) \(exit); its log: \(node.logPath)"
                if let line = ClusterFile.lastLine(of: node.logPath) {
                    say("\(text)\n  last line: \(line)")
                } else {
                    say(text)
                }
                try planRestart(of: node, isReady: isReady)
            case .startAgain(let id):
                guard let node = plan.nodes.first(where: { $0.id == id }), pids[id] == nil else {
                    continue
                }
                try start(node)
                say("\(node.name) is started again, pid \(pids[id] ?? 0)")
            case .waitingFor(let what):
                say("Still waiting for \(what)")
            case .ready(let withoutVote):
                isReady = true
                restarts = [:]
                printWelcome(withoutVote)
            case .outOfPatience: break
            }
        }
    }

    private mutating func planRestart(of node: DevPlan.Node, isReady: Bool) throws {
        guard restart else {
            guard isReady else {
                throw CommandFailure("\(node.name) ended before the cluster was ready")
            }
            guard !pids.isEmpty else { throw CommandFailure("every node has ended") }
            return
        }
        if let start = starts[node.id], .now - start > Self.provingTime { restarts[node.id] = 0 }
        let attempts = restarts[node.id, default: 0]
        restarts[node.id] = attempts + 1
        // 0.1 s at first, doubling to 12.8 s, so that a node that cannot run is no busy loop.
        events.yield(
            .startAgain(node: node.id), after: .milliseconds(100 << min(attempts, 7)))
    }

    private mutating func start(_ node: DevPlan.Node) throws(CommandFailure) {
        let pid = try ChildProcess.spawn(
            executable: executable,
            arguments: [
                node.role.rawValue, "--config", node.configurationPath,
                "--parent-pipe", String(ChildProcess.parentPipe),
            ], logPath: node.logPath, pipe: pipeForChildren)
        pids[node.id] = pid
        starts[node.id] = .now
        ChildProcess.watch(pid) { [events, id = node.id] exit in
            events.yield(.exited(node: id, pid: pid, exit))
        }
        try ClusterFile.write(plan, pids: pids)
    }

    /// Ends the brokers, which hand their partitions over to each other, and then the controllers.
    private mutating func stopAll() async {
        await stop(plan.brokers, round: 0)
        await stop(plan.controllers, round: 1)
        do {
            try ClusterFile.write(plan, pids: [:])
        } catch {
            printError("millrace: \(error)")
        }
        say("Stopped; the data is in \(plan.directory)")
    }

    private mutating func stop(_ nodes: [DevPlan.Node], round: Int) async {
        let ids = Set(nodes.map(\.id))
        for (id, pid) in pids where ids.contains(id) { kill(pid, SIGTERM) }
        events.yield(.outOfPatience(round: round), after: Self.patience)
        guard pids.keys.contains(where: ids.contains) else { return }
        for await event in events.stream {
            switch event {
            case .exited(let id, let pid, let exit) where pids[id] == pid:
                pids[id] = nil
                if exit.code != 0, let node = plan.nodes.first(where: { $0.id == id }) {
                    say("\(node.name) (pid \(pid)) \(exit); its log: \(node.logPath)")
                }
            case .outOfPatience(round):
                for (id, pid) in pids where ids.contains(id) {
                    say("Node \(id) (pid \(pid)) does not end; killing it")
                    kill(pid, SIGKILL)
                }
            case .exited, .outOfPatience, .stop, .startAgain, .waitingFor, .ready: break
            }
            guard pids.keys.contains(where: ids.contains) else { return }
        }
    }

    private func printWelcome(_ withoutVote: [DevPlan.Node]) {
        let program = shellQuoted(CommandLine.arguments.first ?? "millrace")
        let option = plan.brokers.first?.port == 9092 ? "" : " --bootstrap \(plan.bootstrap)"
        say(
            """
            Ready. Bootstrap address: \(plan.bootstrap)
            Try, in another terminal:
              \(program) topic create greetings --partitions 6\(option)
              echo hello | \(program) produce greetings\(option)
              \(program) consume greetings --from-beginning --exit-at-end\(option)
              \(program) quorum status\(option)
            Ctrl-C stops the cluster and keeps the data.
            """)
        for node in withoutVote {
            say(
                "\(node.name) has no vote; give it one:\n  \(program) quorum add-voter "
                    + "\(node.id)@\(DevPlan.host):\(node.port)\(option)")
        }
    }

    private func say(_ text: String) {
        print(text)
        fflush(nil)
    }
}
