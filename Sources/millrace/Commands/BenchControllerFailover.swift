import Glibc
import Millrace
import Synchronization

/// Kills or pauses the active controller, again and again, and times until a topic can be created.
struct BenchControllerFailover {
    enum Harm: Sendable, Hashable {
        case signal(Int32, name: String)
        /// SIGSTOP, and SIGCONT once the time is taken.
        case pause

        var name: String {
            switch self {
            case .signal(_, let name): name
            case .pause: "SIGSTOP"
            }
        }
    }

    /// What one run showed.
    struct Run {
        var victim: Int32
        var time: Duration
        /// Who led after it.
        var leader: Int32?
        var epoch: Int32
    }

    /// The process that stands still now, which must not stay so whatever happens.
    private static let paused = Mutex<pid_t?>(nil)

    let admin: Admin
    let clusterJSON: String
    let harm: Harm
    let runs: Int
    /// The longest wait for each thing that is to happen.
    let patience: Duration

    func run() async throws -> [Run] {
        signal(SIGPIPE, SIG_IGN)
        Interruption.listen()
        Interruption.onRequest {
            Self.resume()
            _exit(130)
        }
        let prefix = "bench-failover-\(UInt32.random(in: 0 ... .max))-"
        // The way to the controller is warm, as in a cluster that is in use.
        try await create(prefix + "before", within: patience)
        try? await admin.deleteTopic(prefix + "before")
        var done: [Run] = []
        for number in 1...runs {
            let run = try await once(prefix + "\(number)")
            done.append(run)
            if runs > 1, isatty(STDERR_FILENO) == 1 {
                printError(
                    "run \(number) of \(runs): controller \(run.victim) \(harm.name), a topic after "
                        + "\(rounded(run.time.inMilliseconds, 1)) ms")
            }
        }
        return done
    }

    private func once(_ topic: String) async throws -> Run {
        let before = try await admin.describeQuorum()
        guard let victim = before.leaderID else {
            throw CommandFailure("no controller leads the quorum now")
        }
        let pid = try BenchCluster.read(clusterJSON).pid(of: "controller", id: victim)
        let start = try hurt(pid)
        let created: Result<Void, any Error>
        do {
            created = .success(try await create(topic, within: patience))
        } catch {
            created = .failure(error)
        }
        let time = ContinuousClock.now - start
        Self.resume()
        do {
            try created.get()
        } catch {
            throw CommandFailure(
                "no topic could be created within \(patience.components.seconds) s: \(error)")
        }
        let after = try? await admin.describeQuorum()
        try? await admin.deleteTopic(topic)
        // The victim of a single run may stay down, for somebody to look at.
        if runs > 1 || harm == .pause { try await awaitReturn(of: victim, killed: pid) }
        return Run(
            victim: victim, time: time, leader: after?.leaderID,
            epoch: after?.leaderEpoch ?? before.leaderEpoch)
    }

    private func hurt(_ pid: pid_t) throws(CommandFailure) -> ContinuousClock.Instant {
        let number: Int32
        switch harm {
        case .signal(let signal, _): number = signal
        case .pause:
            number = SIGSTOP
            Self.paused.withLock { $0 = pid }
        }
        let now = ContinuousClock.now
        guard kill(pid, number) == 0 else {
            throw CommandFailure("cannot signal process \(pid): \(systemMessage(errno))")
        }
        return now
    }

    private static func resume() {
        paused.withLock { pid in
            if let pid { kill(pid, SIGCONT) }
            pid = nil
        }
    }

    /// One call as any user makes it: the client library tries again until it succeeds.
    private func create(_ topic: String, within limit: Duration) async throws {
        _ = try await admin.createTopic(NewTopic(name: topic, partitions: 1), timeout: limit)
    }

    /// Waits until the victim runs again and has all that the leader has.
    private func awaitReturn(of id: Int32, killed pid: pid_t) async throws {
        let end = ContinuousClock.now + patience
        if harm != .pause {
            while try !isRunning(id, otherThan: pid) {
                guard ContinuousClock.now < end else {
                    throw CommandFailure(
                        "controller \(id) was not started again; run the cluster with "
                            + "`millrace dev --restart`, or do one run only with --runs 1")
                }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
        let since = WallClock.milliseconds()
        while ContinuousClock.now < end {
            let quorum = try? await admin.describeQuorum()
            let voter = quorum?.voters.first { $0.id == id }
            // What it fetched before it was hurt says nothing.
            if let quorum, quorum.leaderID != nil, let voter, voter.lag == 0,
                quorum.leaderID == id || voter.lastFetchTimestamp ?? 0 > since
            {
                return
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw CommandFailure(
            "controller \(id) did not catch up within \(patience.components.seconds) s; see its log"
        )
    }

    private func isRunning(_ id: Int32, otherThan pid: pid_t) throws -> Bool {
        let process = try BenchCluster.read(clusterJSON).processes.first {
            $0.role == "controller" && $0.id == id
        }
        return process?.pid.map { $0 != pid } ?? false
    }
}

extension BenchControllerFailover {
    func report(_ done: [Run]) -> BenchReport {
        var report = BenchReport()
        report.add("signal", "Signal", harm.name)
        if done.count == 1, let run = done.first {
            report.add("killed", "Killed", "controller-\(run.victim), active controller")
            report.add(
                "unavailableMs", "Topic created after", run.time.inMilliseconds, places: 1,
                unit: " ms")
            report.add("newLeader", "New active controller", Int(run.leader ?? -1))
            report.add("newEpoch", "New epoch", Int(run.epoch))
            return report
        }
        let times = done.map(\.time.inMilliseconds)
        let sorted = times.sorted()
        report.add("runs", "Runs", done.count)
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)] {
            // The nearest rank: a time that was measured, never one in between.
            let rank = max(1, Int((share * Double(sorted.count)).rounded(.up)))
            report.add(
                name + "Ms", "Topic created after, \(name)", sorted[min(rank, sorted.count) - 1],
                places: 1, unit: " ms")
        }
        report.add("timesMs", "Every run", times.map { ($0 * 10).rounded() / 10 })
        return report
    }
}

extension Duration {
    /// With fractions, for figures.
    var inMilliseconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) * 1_000 + Double(attoseconds) / 1e15
    }
}
