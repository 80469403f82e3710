import Essentials
import Raft

/// Runs the commands of a scenario file on a small quorum, one at a time, and tells what happened.
///
/// - `quorum voters=1,2,3 [observers=4] [logs=1:1,1,4;2:1,1] [epoch=7] [batches=1]`: starts it;
///   `logs` gives the epochs of the records that replicas hold at first, `epoch` the epoch they are
///   in, `batches` how many a fetch answers. Random numbers follow from the replica's id.
/// - `timer N`: the clock moves to replica N's next deadline, and N notices.
/// - `time 2s`: the clock moves; nobody notices until the next input.
/// - `deliver [1->2] [drop|repeat|fail]`: delivers what is on its way, or that part of it, in
///   order; what is sent in answer stays on its way.
/// - `settle`: delivers and completes everything until nothing is left to do.
/// - `elect N`: timer and settle until N leads; only what replicas do is told, not what they say.
/// - `run 5s`: as many timers and as much settling as fit into that time, told in the same way.
/// - `persist N`, `flush N`: completes the writes of the election state, or of the log.
/// - `propose N COUNT`, `resign N`, `lost N PEER`: N appends, steps down, loses a connection.
/// - `kill N`, `power-off N`, `start N`: the process ends, the machine loses what was not synced,
///   the process starts.
/// - `cut N...`, `heal`: what these replicas send and what is sent to them is lost.
/// - `status [N...]`, `log [N...]`.
final class ScenarioRunner {
    private var replicas: [NodeID: SimulatedReplica] = [:]
    private var packets: [Packet] = []
    private var cut: Set<NodeID> = []
    private var now = MonotonicTime.zero
    private var lastPayload: UInt64 = 0
    private var output: [String] = []
    private var starts: UInt64 = 0
    private var isQuiet = false
    /// How many lines a step may take to settle before something is wrong.
    private let maxSteps = 2_000

    private var ids: [NodeID] { replicas.keys.sorted() }

    func run(_ command: String) -> String {
        output = []
        let words = command.split(separator: " ").map(String.init)
        if let name = words.first { perform(name, Array(words.dropFirst())) }
        return output.isEmpty ? "ok" : output.joined(separator: "\n")
    }

    private func perform(_ name: String, _ arguments: [String]) {
        let named = arguments.compactMap { Int32($0) }.map { NodeID($0) }
        let replica = named.first.flatMap { replicas[$0] }
        switch (name, replica) {
        case ("quorum", _): makeQuorum(arguments)
        case ("time", _): now = now + duration(arguments.first ?? "")
        case ("timer", let replica?):
            if let node = replica.node { now = max(now, node.nextDeadline) }
            act(replica) { $0.step(.timePassed, now: self.now) }
        case ("deliver", _): deliver(arguments)
        case ("settle", _): settle()
        case ("elect", let replica?): quietly { elect(replica) }
        case ("run", _): quietly { run(for: duration(arguments.first ?? "")) }
        case ("persist", let replica?): act(replica) { $0.completeElectionWrites(now: self.now) }
        case ("flush", let replica?): act(replica) { $0.flush(now: self.now) }
        case ("propose", let replica?):
            act(replica) {
                if !$0.propose(count: arguments.last.flatMap { Int($0) } ?? 1, now: self.now) {
                    self.output.append("refused: \($0.id) does not lead")
                }
            }
        case ("resign", let replica?): act(replica) { $0.step(.resign, now: self.now) }
        case ("lost", let replica?):
            guard let peer = named.last else { return }
            act(replica) { $0.step(.connectionLost(to: peer), now: self.now) }
        case ("kill", let replica?): replica.kill()
        case ("power-off", let replica?):
            replica.losePower(survivors: 0, electionSurvives: false)
        case ("start", let replica?): start(replica)
        case ("cut", _): cut.formUnion(named)
        case ("heal", _): cut = []
        case ("status", _): for id in named.isEmpty ? ids : named { describe(id) }
        case ("log", _): for id in named.isEmpty ? ids : named { describeLog(id) }
        default: output.append("unknown command")
        }
    }

    // MARK: - Commands

    private func makeQuorum(_ arguments: [String]) {
        let options = Dictionary(
            arguments.compactMap { argument -> (String, String)? in
                let parts = argument.split(separator: "=", maxSplits: 1).map(String.init)
                return parts.count == 2 ? (parts[0], parts[1]) : nil
            }, uniquingKeysWith: { $1 })
        let voterIDs = list(options["voters"])
        guard let voters = VoterSet(keys: voterIDs.map { ReplicaKey(id: $0) }) else {
            output.append("bad voters")
            return
        }
        for id in voterIDs + list(options["observers"]) {
            let replica = SimulatedReplica(
                key: ReplicaKey(id: id), voters: voters, config: RaftConfig()
            ) { [unowned self] in
                lastPayload += 1
                return lastPayload
            }
            if let epoch = options["epoch"].flatMap({ Int32($0) }) {
                replica.disk.election = ElectionState(epoch: LeaderEpoch(epoch))
            }
            replica.maxBatchesPerFetch = options["batches"].flatMap { Int($0) } ?? 8
            replicas[id] = replica
        }
        for log in (options["logs"] ?? "").split(separator: ";") {
            let parts = log.split(separator: ":").map(String.init)
            guard parts.count == 2, let id = Int32(parts[0]) else { continue }
            // Records of one epoch at one offset are the same record everywhere.
            let entries = list(parts[1]).enumerated().map { index, epoch in
                Entry(
                    epoch: LeaderEpoch(epoch.rawValue),
                    payload: UInt64(1_000_000) + UInt64(epoch.rawValue) * 1_000 + UInt64(index),
                    batchBase: Offset(Int64(index)))
            }
            replicas[NodeID(id)]?.disk.entries = entries
        }
        for id in ids {
            if let replica = replicas[id] { start(replica) }
        }
    }

    private func start(_ replica: SimulatedReplica) {
        starts += 1
        replica.start(seed: UInt64(replica.id.rawValue) * 1_000 + starts, now: now)
        report(replica)
    }

    private func quietly(_ body: () -> Void) {
        isQuiet = true
        body()
        isQuiet = false
    }

    private func say(_ packet: Packet, _ fate: String = "") {
        if !isQuiet { output.append(fate + Describe.packet(packet)) }
    }

    private func run(for duration: Duration) {
        let end = now + duration
        settle()
        while let replica = nextReplica(), let deadline = replica.node?.nextDeadline,
            deadline <= end
        {
            now = max(now, deadline)
            act(replica) { $0.step(.timePassed, now: self.now) }
            settle()
        }
        now = end
    }

    /// The one whose deadline is next.
    private func nextReplica() -> SimulatedReplica? {
        ids.compactMap { replicas[$0] }.filter(\.isUp).min {
            ($0.node?.nextDeadline ?? .distantFuture) < ($1.node?.nextDeadline ?? .distantFuture)
        }
    }

    private func elect(_ replica: SimulatedReplica) {
        for _ in 0..<20 {
            if case .leader = replica.node?.role { return }
            perform("timer", ["\(replica.id)"])
            settle()
        }
        output.append("\(replica.id) is not elected")
    }

    private func act(_ replica: SimulatedReplica, _ body: (SimulatedReplica) -> Void) {
        guard replica.isUp else {
            output.append("\(replica.id) is down")
            return
        }
        body(replica)
        report(replica)
    }

    private func deliver(_ arguments: [String]) {
        let link = arguments.first { $0.contains("->") }
        let fate = arguments.last
        let chosen = packets.filter { link == nil || "\($0.from)->\($0.to)" == link }
        packets.removeAll { link == nil || "\($0.from)->\($0.to)" == link }
        if chosen.isEmpty { output.append("nothing on its way") }
        for packet in chosen {
            switch fate {
            case "drop":
                say(packet, "lost ")
            case "fail":
                fail(packet)
            case "repeat":
                arrive(packet)
                arrive(packet)
            default:
                arrive(packet)
            }
        }
    }

    private func arrive(_ packet: Packet) {
        guard !cut.contains(packet.from), !cut.contains(packet.to) else {
            say(packet, "lost ")
            return
        }
        guard let replica = replicas[packet.to], replica.isUp else {
            fail(packet)
            return
        }
        say(packet)
        replica.receive(packet, now: now)
        report(replica)
    }

    private func fail(_ packet: Packet) {
        guard case .request(_, let id) = packet.content, let sender = replicas[packet.from] else {
            return
        }
        say(packet, "refused ")
        var failure = packet
        (failure.from, failure.to) = (packet.to, packet.from)
        failure.content = .failure(id)
        sender.receive(failure, now: now)
        report(sender)
    }

    private func settle() {
        for _ in 0..<maxSteps {
            if let packet = packets.first {
                packets.removeFirst()
                arrive(packet)
            } else if let replica = ids.lazy.compactMap({ self.replicas[$0] }).first(where: {
                !$0.electionWrites.isEmpty
            }) {
                act(replica) { $0.completeElectionWrites(now: self.now) }
            } else if let replica = ids.lazy.compactMap({ self.replicas[$0] }).first(where: {
                ($0.node.map { $0.log.durableEnd < $0.log.endOffset }) ?? false
            }) {
                act(replica) { $0.flush(now: self.now) }
            } else {
                return
            }
        }
        output.append("does not settle")
    }

    // MARK: - Telling

    /// Notes what the last step did, and takes what it sent.
    private func report(_ replica: SimulatedReplica) {
        for effect in replica.effectsOfLastStep {
            if let text = Describe.effect(effect) { output.append("  \(replica.id) \(text)") }
        }
        packets += replica.takeOutbox()
    }

    private func describe(_ id: NodeID) {
        guard let replica = replicas[id], let node = replica.node else {
            output.append("\(id) down")
            return
        }
        var text = "\(id) \(node.role.name) epoch=\(node.election.epoch)"
        if let leader = node.leader, leader != id { text += " leader=\(leader)" }
        if let voted = node.election.votedFor { text += " voted=\(voted)" }
        text += " end=\(node.log.endOffset)"
        if node.log.durableEnd < node.log.endOffset { text += " durable=\(node.log.durableEnd)" }
        let highWatermark: Offset?
        if case .leader(let leader) = node.role {
            highWatermark = leader.highWatermark
        } else {
            highWatermark = node.highWatermark
        }
        text += " hw=\(highWatermark.map { "\($0)" } ?? "?")"
        if let reason = node.halted { text += " halted: \(reason)" }
        output.append(text)
    }

    private func describeLog(_ id: NodeID) {
        let epochs = replicas[id]?.disk.entries.map { "\($0.epoch)" } ?? []
        output.append("\(id): " + epochs.joined(separator: " "))
    }

    private func list(_ text: String?) -> [NodeID] {
        (text ?? "").split(separator: ",").compactMap { Int32($0) }.map { NodeID($0) }
    }

    private func duration(_ text: String) -> Duration {
        if text.hasSuffix("ms") { return .milliseconds(Int(text.dropLast(2)) ?? 0) }
        return .seconds(Int(text.dropLast(1)) ?? 0)
    }
}

/// Messages and effects as scenario files show them.
enum Describe {
    static func packet(_ packet: Packet) -> String {
        let link = "\(packet.from)->\(packet.to)"
        switch packet.content {
        case .request(let request, _): return "\(link) \(Self.request(request))"
        case .response(let response, _, _): return "\(link) \(Self.response(response))"
        case .failure: return "\(link) failed"
        case .connectionLost: return "\(link) connection lost"
        }
    }

    private static func request(_ request: RaftRequest) -> String {
        switch request {
        case .vote(let vote):
            "\(vote.isPreVote ? "PreVote" : "Vote") epoch=\(vote.epoch) log=\(vote.endOffset)@\(vote.lastEpoch)"
        case .beginQuorumEpoch(let begin):
            "BeginQuorumEpoch epoch=\(begin.epoch)"
        case .endQuorumEpoch(let end):
            "EndQuorumEpoch epoch=\(end.epoch) successors=\(end.preferredSuccessors)"
        case .fetchSnapshot(let fetch):
            "FetchSnapshot epoch=\(fetch.epoch) \(fetch.snapshot) at=\(fetch.position)"
        case .fetch(let fetch):
            "Fetch epoch=\(fetch.epoch) at=\(fetch.fetchOffset)@\(fetch.lastFetchedEpoch)"
                + " hw=\(offset(fetch.highWatermark))"
        }
    }

    private static func response(_ response: RaftResponse) -> String {
        switch response {
        case .vote(let vote):
            (vote.isGranted ? "granted" : "refused") + known(vote.epoch, vote.leader)
        case .beginQuorumEpoch(let answer): "begin noted" + known(answer.epoch, answer.leader)
        case .endQuorumEpoch(let answer): "end noted" + known(answer.epoch, answer.leader)
        case .fetchSnapshot(let fetch): "\(fetch.outcome)" + known(fetch.epoch, fetch.leader)
        case .fetch(let fetch): outcome(fetch.outcome) + known(fetch.epoch, fetch.leader)
        }
    }

    private static func outcome(_ outcome: FetchResponse.Outcome) -> String {
        switch outcome {
        case .records(let batches, let highWatermark, _):
            if let first = batches.first, let last = batches.last {
                "records \(first.baseOffset)...\(last.lastOffset) hw=\(offset(highWatermark))"
            } else {
                "no records hw=\(offset(highWatermark))"
            }
        case .diverging(let end): "diverging, epoch \(end.epoch) ends at \(end.endOffset)"
        case .snapshot(let id): "snapshot \(id)"
        case .notLeader: "not leader"
        case .fencedEpoch: "fenced epoch"
        case .unknownEpoch: "unknown epoch"
        case .offsetOutOfRange: "offset out of range"
        case .unavailable: "unavailable"
        }
    }

    private static func known(_ epoch: LeaderEpoch, _ leader: NodeID?) -> String {
        " epoch=\(epoch)" + (leader.map { " leader=\($0)" } ?? "")
    }

    private static func offset(_ offset: Offset?) -> String {
        offset.map { "\($0)" } ?? "?"
    }

    /// What a step did besides sending; `nil` for what shows up as a message.
    static func effect(_ effect: RaftEffect) -> String? {
        switch effect {
        case .persistElectionState(let state, _):
            "writes epoch=\(state.epoch)" + (state.votedFor.map { " vote=\($0)" } ?? "")
                + (state.leader.map { " leader=\($0)" } ?? "")
        case .send, .answer, .answerFetch, .answerSnapshot: nil
        case .appendVoters(let voters, let offset, _): "appends \(offset): voters \(voters)"
        case .resetLog(let id): "resets the log to \(id)"
        case .loadSnapshot(let id): "loads snapshot \(id)"
        case .advanceLogStart(let id): "moves the log start to \(id)"
        case .appendSnapshotChunk(let id, let position, let isLast):
            "receives \(id) at \(position)" + (isLast ? ", the last of it" : "")
        case .discardSnapshotDownload: "discards a partial snapshot"
        case .votersChanged(let voters): "has voters \(voters.map { "\($0)" } ?? "none")"
        case .readConfirmed: "confirms a read"
        case .readRefused: "refuses a read"
        case .transferred(_, let outcome): "transfer: \(outcome)"
        case .refuse: "refuses a request"
        case .appendLeaderChange(let change):
            "appends \(change.offset): leader change, epoch \(change.epoch)"
        case .appendProposed(let span): "appends \(span.baseOffset)...\(span.lastOffset)"
        case .appendFetched(let spans):
            "appends \(spans.first?.baseOffset ?? -1)...\(spans.last?.lastOffset ?? -1)"
        case .truncateLog(let offset): "truncates to \(offset)"
        case .advanceHighWatermark(let offset): "commits up to \(offset)"
        case .leaderChanged(let leader, let epoch):
            leader.map { "follows \($0) in epoch \(epoch)" } ?? "knows no leader in epoch \(epoch)"
        case .startedLeading(let epoch): "started leading epoch \(epoch)"
        case .stoppedLeading(let epoch): "stopped leading epoch \(epoch)"
        case .halt(let reason): "halts: \(reason)"
        }
    }
}
