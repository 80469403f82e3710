import ArgumentParser
import Millrace

/// `millrace quorum watch`: the quorum as it is now, and now, and now.
struct QuorumWatchCommand: AsyncParsableCommand {
    private static let interval = Duration.milliseconds(500)
    /// A node that takes longer than this to answer counts as unreachable in this round.
    private static let patience = Duration.seconds(2)

    static let configuration = CommandConfiguration(
        commandName: "watch",
        abstract: "Show the quorum live: leader, epoch, log, and how far everybody is behind.",
        discussion: """
            On a terminal the view is drawn anew twice a second until Ctrl-C. Elsewhere, or with --once, \
            it is printed once.
            """)

    @Flag(help: "Print the view once and end.")
    var once = false

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard output.output == .text || once || !Terminal.isInteractive else {
            throw ValidationError(
                "--output json prints one view: add --once, or use `millrace quorum status`.")
        }
    }

    func run() async throws {
        guard !once, Terminal.isInteractive else {
            let quorum = try await client.withClient {
                try await Admin(client: $0).describeQuorum()
            }
            var view = QuorumView()
            view.update(.success(quorum), now: WallClock.milliseconds())
            return printResult(
                output.output, json: quorum.json, text: view.lines(now: WallClock.milliseconds()))
        }
        try await client.withClient { client in
            let admin = Admin(client: client)
            var view = QuorumView()
            Terminal.open()
            defer { Terminal.close() }
            while true {
                let start = ContinuousClock.now
                do throws(MillraceError) {
                    let quorum = try await admin.describeQuorum(timeout: Self.patience)
                    view.update(.success(quorum), now: WallClock.milliseconds())
                } catch {
                    view.update(.failure(error), now: WallClock.milliseconds())
                }
                Terminal.draw(view.lines(now: WallClock.milliseconds(), isLive: true))
                try await Task.sleep(until: start + Self.interval, tolerance: .zero)
            }
        }
    }
}

/// What `quorum watch` shows: the newest answer, and what happened since it began.
struct QuorumView {
    private static let eventLimit = 8
    private var quorum: QuorumDescription?
    /// When the quorum was last heard from, in milliseconds since 1970.
    private var heardAt: Int64?
    /// Why it was not heard from just now.
    private var failure: MillraceError?
    /// The newest last.
    private var events: [String] = []

    mutating func update(_ answer: Result<QuorumDescription, MillraceError>, now: Int64) {
        switch answer {
        case .success(let new):
            if failure != nil { note("the quorum answers again", now) }
            failure = nil
            if let quorum { noteChanges(from: quorum, to: new, now) }
            quorum = new
            heardAt = now
        case .failure(let error):
            if failure == nil { note("no answer: \(error.code)", now) }
            failure = error
        }
    }

    private mutating func noteChanges(
        from old: QuorumDescription, to new: QuorumDescription, _ now: Int64
    ) {
        let leader = { (id: Int32?) in id.map { "\($0)" } ?? "nobody" }
        if old.leaderID != new.leaderID || old.leaderEpoch != new.leaderEpoch {
            note(
                "leader \(leader(old.leaderID)) in epoch \(old.leaderEpoch) → "
                    + "\(leader(new.leaderID)) in epoch \(new.leaderEpoch)", now)
        }
        let (before, after) = (Set(old.voters.map(\.id)), Set(new.voters.map(\.id)))
        for id in after.subtracting(before).sorted() { note("\(id) became a voter", now) }
        for id in before.subtracting(after).sorted() { note("\(id) is no voter any more", now) }
        if let snapshot = new.snapshot, snapshot != old.snapshot {
            note("snapshot \(snapshot.text)", now)
        }
    }

    private mutating func note(_ event: String, _ now: Int64) {
        events.append("\(ClockText.timeOfDay(now))  \(event)")
        if events.count > Self.eventLimit { events.removeFirst() }
    }

    /// The view as lines of text.
    func lines(now: Int64, isLive: Bool = false) -> [String] {
        var lines: [String] = []
        if let quorum {
            let leader = quorum.leaderID.map { "\($0)" } ?? "none"
            lines = [
                "Cluster \(quorum.clusterID)    \(ClockText.timeOfDay(now))"
                    + (isLive ? "    Ctrl-C ends" : ""),
                "",
                "Leader           \(leader), epoch \(quorum.leaderEpoch)",
                "High watermark   \(quorum.highWatermark)",
                "Log              \(quorum.logText)",
                "Newest snapshot  \(quorum.snapshot?.text ?? "none")",
                "",
            ]
            lines += replicaLines(of: quorum, now: now)
        } else {
            lines = ["Waiting for the quorum    \(ClockText.timeOfDay(now))    Ctrl-C ends"]
        }
        if let failure {
            let since = heardAt.map { "No answer for \(ClockText.age(now - $0))" } ?? "No answer"
            lines += ["", "\(since): \(failure.message) (\(failure.code))"]
            if quorum != nil { lines.append("What is above may have changed since.") }
        }
        if !events.isEmpty { lines += [""] + events }
        return lines
    }

    private func replicaLines(of quorum: QuorumDescription, now: Int64) -> [String] {
        var table = Table(
            "NODE", "ROLE", "LOG END", "LAG", "LAST FETCH", "LAG, DOUBLED BY EACH CELL")
        let voters = quorum.voters.sorted { $0.id < $1.id }
        for (replica, role) in voters.map({ ($0, "voter") })
            + quorum.observers.sorted(by: { $0.id < $1.id }).map({ ($0, "observer") })
        {
            let isLeader = replica.id == quorum.leaderID && role == "voter"
            table.add(
                "\(replica.id)", isLeader ? "leader" : role,
                replica.logEndOffset.map { "\($0)" } ?? "-", replica.lag.map { "\($0)" } ?? "-",
                isLeader
                    ? "" : replica.lastFetchTimestamp.map { ClockText.age(now - $0) } ?? "never",
                Self.bar(isLeader ? 0 : replica.lag))
        }
        return table.lines
    }

    /// One cell for a lag of 1, and one more for each doubling: what matters is how long it will take.
    static func bar(_ lag: Int64?) -> String {
        guard let lag else { return "not heard from" }
        guard lag > 0 else { return "·" }
        return String(repeating: "█", count: Int64.bitWidth - lag.leadingZeroBitCount)
    }
}
