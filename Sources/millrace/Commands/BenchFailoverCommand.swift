import ArgumentParser
import Glibc
import Millrace
import Synchronization

/// `millrace bench failover`: kill a leader, and time how long its work stands still.
struct BenchFailoverCommand: AsyncParsableCommand {
    enum Role: String, ExpressibleByArgument, CaseIterable { case broker, controller }
    enum Signal: String, ExpressibleByArgument, CaseIterable { case kill, term }

    static let configuration = CommandConfiguration(
        commandName: "failover",
        abstract: "Kill a partition's leader or the active controller, and time the gap.",
        discussion: """
            broker: a producer sends steadily with acks=all to a topic of one partition; its leader is \
            killed; reported is the longest time without an acknowledged write. controller: the active \
            controller is killed, a topic is created, and the victim has to catch up, --runs times; \
            reported is the time that creating the topic took, with all of the client's retries.

            Only a process named in the given cluster.json is ever hurt. `millrace dev --restart` starts \
            it again, which more than one run needs.
            """)

    @Option(help: "Whom to kill: the leader of a partition, or the active controller.")
    var role: Role

    @Option(help: "How: kill (-9), or term for a clean end.")
    var signal: Signal = .kill

    @Flag(help: "Pause the active controller with SIGSTOP instead, and let it go on afterwards.")
    var pause = false

    @Option(help: "How often, for the role controller; 50 unless given.")
    var runs: Int?

    @Option(help: "Records a second, for the role broker.")
    var rate = 1000

    @Option(
        help: "How long to wait for the end of the gap, or for a node to come back, in seconds.")
    var patience = 60

    @OptionGroup var cluster: BenchClusterOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard cluster.clusterJSON != nil else {
            throw ValidationError(
                "--cluster-json must name the cluster.json of the cluster to hurt.")
        }
        guard rate > 0, rate <= 100_000, patience > 0 else {
            throw ValidationError("--rate and --patience must be above 0.")
        }
        guard role == .controller || (runs == nil && !pause) else {
            throw ValidationError("--runs and --pause are for --role controller.")
        }
        guard (1...10_000).contains(runs ?? 1) else {
            throw ValidationError("--runs takes 1 to 10000.")
        }
    }

    func run() async throws {
        guard let file = cluster.clusterJSON, let processes = try cluster.cluster() else { return }
        let report = try await client.withClient { client in
            switch role {
            case .broker: return try await killLeader(client, processes)
            case .controller:
                let harm: BenchControllerFailover.Harm =
                    pause
                    ? .pause
                    : .signal(
                        signal == .kill ? SIGKILL : SIGTERM,
                        name: "SIG" + signal.rawValue.uppercased())
                let bench = BenchControllerFailover(
                    admin: Admin(client: client), clusterJSON: file, harm: harm,
                    runs: runs ?? 50, patience: .seconds(patience))
                return bench.report(try await bench.run())
            }
        }
        report.print(output.output)
    }

    private func send(to pid: Int32) throws -> ContinuousClock.Instant {
        let now = ContinuousClock.now
        guard Glibc.kill(pid, signal == .kill ? SIGKILL : SIGTERM) == 0 else {
            throw CommandFailure("cannot signal process \(pid): \(systemMessage(errno))")
        }
        return now
    }

    // MARK: The leader of a partition

    /// When writes were acknowledged, as the client's loop tells.
    private final class Acknowledgements: Sendable {
        private struct State {
            var last: ContinuousClock.Instant?
            var longestGap = Duration.zero
            var gapEnd: ContinuousClock.Instant?
            var count = 0
            var failed = 0
        }

        private let state = Mutex(State())

        /// Forgets gaps so far, so that what follows is what is measured.
        func restart() {
            state.withLock { state in
                state.longestGap = .zero
                state.gapEnd = nil
            }
        }

        func add(_ isSuccess: Bool) {
            let now = ContinuousClock.now
            state.withLock { state in
                guard isSuccess else {
                    state.failed += 1
                    return
                }
                state.count += 1
                if let last = state.last, now - last > state.longestGap {
                    state.longestGap = now - last
                    state.gapEnd = now
                }
                state.last = now
            }
        }

        var last: ContinuousClock.Instant? { state.withLock { $0.last } }
        var longestGap: Duration { state.withLock { $0.longestGap } }
        var gapEnd: ContinuousClock.Instant? { state.withLock { $0.gapEnd } }
        var counts: (acknowledged: Int, failed: Int) {
            state.withLock { ($0.count, $0.failed) }
        }
    }

    private func killLeader(
        _ client: MillraceClient, _ processes: BenchCluster
    ) async throws -> BenchReport {
        let admin = Admin(client: client)
        let topic = "bench-failover-\(UInt32.random(in: 0 ... .max))"
        _ = try await admin.createTopic(NewTopic(name: topic, partitions: 1))
        let before = try await admin.waitUntilLed(topic)
        guard let leader = before.partitions.first?.leader else {
            throw CommandFailure("partition \(topic)-0 has no leader")
        }
        let pid = try processes.pid(of: "broker", id: leader)

        let producer = try Producer(client: client)
        try await producer.waitUntilReady(for: topic)
        let acknowledgements = Acknowledgements()
        let sending = Task { [rate] in
            let interval = Duration.seconds(1) / rate
            var payload = BenchPayload(size: 1000)
            while !Task.isCancelled {
                let isAccepted = try payload.next { value in
                    try producer.enqueue(topic: topic, partition: 0, value: value) { result in
                        if case .success = result {
                            acknowledgements.add(true)
                        } else {
                            acknowledgements.add(false)
                        }
                    }
                }
                if !isAccepted { try await producer.waitUntilReady(for: topic) }
                try await Task.sleep(for: interval, tolerance: .zero)
            }
        }
        try await Task.sleep(for: .seconds(3))
        acknowledgements.restart()
        let killed = try send(to: pid)
        let newLeader = try await timeOfNewLeader(admin, topic, old: leader, since: killed)
        let end = ContinuousClock.now + .seconds(patience)
        // Until writes have gone through for two seconds again, so that the gap is over.
        while ContinuousClock.now < end {
            try await Task.sleep(for: .milliseconds(50))
            if let gapEnd = acknowledgements.gapEnd, gapEnd > killed,
                ContinuousClock.now - gapEnd > .seconds(2),
                let last = acknowledgements.last, ContinuousClock.now - last < .seconds(1)
            {
                break
            }
        }
        sending.cancel()
        _ = await sending.result
        await producer.close()
        try? await admin.deleteTopic(topic)

        var report = BenchReport()
        report.add("killed", "Killed", "broker-\(leader), leader of \(topic)-0")
        report.add("signal", "Signal", "SIG" + signal.rawValue.uppercased())
        report.add(
            "unavailableMs", "Without an acknowledged write",
            acknowledgements.longestGap.inMilliseconds, places: 1, unit: " ms")
        report.add(
            "newLeaderMs", "New leader seen after", newLeader?.inMilliseconds ?? -1, places: 1,
            unit: " ms")
        report.add("acknowledged", "Acknowledged", acknowledgements.counts.acknowledged)
        report.add("failed", "Failed", acknowledgements.counts.failed)
        return report
    }

    private func timeOfNewLeader(
        _ admin: Admin, _ topic: String, old: Int32, since killed: ContinuousClock.Instant
    ) async throws -> Duration? {
        let end = killed + .seconds(patience)
        while ContinuousClock.now < end {
            let leader = try? await admin.describeTopic(topic).partitions.first?.leader
            if let leader, leader != old { return ContinuousClock.now - killed }
            try await Task.sleep(for: .milliseconds(5))
        }
        return nil
    }
}
