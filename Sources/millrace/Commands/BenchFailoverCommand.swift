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
            controller is killed; reported is the time until a topic can be created.

            Only a process named in the given cluster.json is ever killed. Start it again yourself, or \
            run `millrace dev --restart`.
            """)

    @Option(help: "Whom to kill: the leader of a partition, or the active controller.")
    var role: Role

    @Option(help: "How: kill (-9), or term for a clean end.")
    var signal: Signal = .kill

    @Option(help: "Records a second, for the role broker.")
    var rate = 1000

    @Option(help: "How long to wait for the end of the gap, in seconds.")
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
    }

    func run() async throws {
        guard let processes = try cluster.cluster() else { return }
        let report = try await client.withClient { client in
            switch role {
            case .broker: try await killLeader(client, processes)
            case .controller: try await killController(client, processes)
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
            milliseconds(acknowledgements.longestGap), places: 1, unit: " ms")
        report.add(
            "newLeaderMs", "New leader seen after", newLeader.map(milliseconds) ?? -1, places: 1,
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

    // MARK: The active controller

    private func killController(
        _ client: MillraceClient, _ processes: BenchCluster
    ) async throws -> BenchReport {
        let admin = Admin(client: client)
        guard let leader = try await admin.describeQuorum().leaderID else {
            throw CommandFailure("no controller leads the quorum now")
        }
        let pid = try processes.pid(of: "controller", id: leader)
        let prefix = "bench-failover-\(UInt32.random(in: 0 ... .max))-"
        // The way to the controller is warm, as in a cluster that is in use.
        _ = try await admin.createTopic(NewTopic(name: prefix + "before", partitions: 1))

        let killed = try send(to: pid)
        let created = await firstCreated(admin, prefix, until: killed + .seconds(patience))
        let newLeader = try? await admin.describeQuorum()
        for topic in (try? await admin.listTopics()) ?? [] where topic.name.hasPrefix(prefix) {
            try? await admin.deleteTopic(topic.name)
        }
        guard let created else {
            throw CommandFailure("no topic could be created within \(patience) s")
        }
        var report = BenchReport()
        report.add("killed", "Killed", "controller-\(leader), active controller")
        report.add("signal", "Signal", "SIG" + signal.rawValue.uppercased())
        report.add(
            "unavailableMs", "Topic created after", milliseconds(created - killed), places: 1,
            unit: " ms")
        report.add("newLeader", "New active controller", Int(newLeader?.leaderID ?? -1))
        report.add("newEpoch", "New epoch", Int(newLeader?.leaderEpoch ?? -1))
        return report
    }

    /// When the first of many attempts succeeded; a new one every 20 ms, since one may hang.
    private func firstCreated(
        _ admin: Admin, _ prefix: String, until end: ContinuousClock.Instant
    ) async -> ContinuousClock.Instant? {
        let isDone = Flag()
        return await withTaskGroup(of: ContinuousClock.Instant?.self) { attempts in
            var attempt = 0
            while ContinuousClock.now < end, !isDone.isSet {
                attempt += 1
                let name = prefix + "\(attempt)"
                attempts.addTask {
                    let topic = NewTopic(name: name, partitions: 1)
                    let answer = try? await admin.createTopic(topic, timeout: .seconds(2))
                    guard answer != nil else { return nil }
                    isDone.set()
                    return ContinuousClock.now
                }
                try? await Task.sleep(for: .milliseconds(20))
            }
            var first: ContinuousClock.Instant?
            for await time in attempts {
                if let time { first = first.map { min($0, time) } ?? time }
            }
            return first
        }
    }

    /// Tells the loop that starts attempts that one of them succeeded.
    private final class Flag: Sendable {
        private let flag = Atomic<Bool>(false)
        var isSet: Bool { flag.load(ordering: .relaxed) }
        func set() { flag.store(true, ordering: .relaxed) }
    }

    private func milliseconds(_ time: Duration) -> Double {
        let (seconds, attoseconds) = time.components
        return Double(seconds) * 1000 + Double(attoseconds) / 1e15
    }
}
