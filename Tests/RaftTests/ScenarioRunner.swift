import Essentials
import Raft

/// Runs the commands of a scenario file on a small quorum, one at a time, and tells what happened.
///
/// - `quorum voters=1,2,3 [observers=4] [joining=5] [logs=1:1,1,4;2:1,1] [epoch=7] [batches=1]
///   [bytes=25] [piece=10] [format]`: starts it; `observers` are brokers, `joining` controllers that
///   know no voters; `logs` gives the epochs of the records that replicas hold at first, `epoch` the
///   epoch they are in, `batches` how many a fetch answers, `bytes` how large snapshots are and
///   `piece` how much of one an answer holds. With `format` the voters are in no log yet. Random
///   numbers follow from the replica's id.
/// - `timer N`: the clock moves to replica N's next deadline, and N notices.
/// - `time 2s`: the clock moves; nobody notices until the next input.
/// - `deliver [1->2] [drop|repeat|fail]`: delivers what is on its way, or that part of it, in
///   order; what is sent in answer stays on its way.
/// - `settle`: delivers and completes everything until nothing is left to do.
/// - `elect N`: timer and settle until N leads; only what replicas do is told, not what they say.
/// - `run 5s`: as many timers and as much settling as fit into that time, told in the same way.
/// - `persist N`, `flush N`: completes the writes of the election state, or of the log.
/// - `propose N COUNT`, `resign N`, `lost N PEER`: N appends, steps down, loses a connection.
/// - `snapshot N`: N takes a snapshot; `install N [fail|crash]`: the one it fetched is durable, or
///   turns out to be bad, or is durable and the process dies before it goes on.
/// - `add N M`, `remove N M`, `update N M PORT`: N changes the voters; `read N`, `transfer N [M]`.
/// - `kill N`, `power-off N`, `wipe N`, `start N`: the process ends, the machine loses what was not
///   synced, or gets another disk, the process starts. `crash N COUNT`: the process ends after so
///   many effects of its next step.
/// - `cut N...`, `heal`: what these replicas send and what is sent to them is lost.
/// - `status [N...]`, `log [N...]`, `voters [N...]`.
final class ScenarioRunner {
    private var replicas: [NodeID: SimulatedReplica] = [:]
    private var packets: [Packet] = []
    private var cut: Set<NodeID> = []
    private var now = MonotonicTime.zero
    private var lastPayload: UInt64 = 0
    private var output: [String] = []
    private var starts: UInt64 = 0
    private var isQuiet = false
    private var snapshotBytes: Int64 = 25
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
            if let deadline = replica.node?.nextDeadline, deadline < .distantFuture {
                now = max(now, deadline)
            }
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
        case ("snapshot", let replica?):
            act(replica) {
                if !$0.beginSnapshot(size: self.snapshotBytes) { self.output.append("nothing new") }
                $0.completeSnapshotWrite(fails: false, now: self.now)
            }
        case ("install", let replica?):
            act(replica) {
                $0.completeSnapshotWrite(
                    fails: arguments.last == "fail", crashes: arguments.last == "crash",
                    now: self.now)
            }
        case ("add", _), ("remove", _), ("update", _): changeVoters(name, named)
        case ("read", let replica?):
            act(replica) { $0.step(.read($0.newToken()), now: self.now) }
        case ("transfer", let replica?):
            act(replica) {
                $0.step(.transfer(to: named.dropFirst().first, $0.newToken()), now: self.now)
            }
        case ("crash", let replica?):
            replica.effectsUntilCrash = named.last.map { Int($0.rawValue) }
        case ("wipe", let replica?): wipe(replica)
        case ("kill", let replica?): replica.kill()
        case ("power-off", let replica?):
            replica.losePower(survivors: 0, electionSurvives: false)
        case ("start", let replica?): start(replica)
        case ("cut", _): cut.formUnion(named)
        case ("heal", _): cut = []
        case ("status", _): for id in named.isEmpty ? ids : named { describe(id) }
        case ("log", _): for id in named.isEmpty ? ids : named { describeLog(id) }
        case ("voters", _):
            for id in named.isEmpty ? ids : named {
                output.append("\(id): \(Describe.voters(replicas[id]?.node?.voters.current))")
            }
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
        let joining = list(options["joining"])
        guard let voters = VoterSet(voterIDs.map { voter($0, Describe.firstDisk) }) else {
            output.append("bad voters")
            return
        }
        let observers = list(options["observers"])
        for id in voterIDs + joining + observers {
            var config = RaftConfig()
            config.isDurable = !observers.contains(id)
            let replica = SimulatedReplica(
                id: id,
                disk: SimulatedDisk(
                    directory: Describe.firstDisk,
                    bootstrapVoters: joining.contains(id) ? nil : voters),
                config: config, bootstrap: voterIDs.map { NodeID(-$0.rawValue - 1) }
            ) { [unowned self] in
                lastPayload += 1
                return lastPayload
            }
            if !arguments.contains("format") { replica.bootstrapOffset = 0 }
            if let epoch = options["epoch"].flatMap({ Int32($0) }) {
                replica.disk.election = ElectionState(epoch: LeaderEpoch(epoch))
            }
            replica.maxBatchesPerFetch = options["batches"].flatMap { Int($0) } ?? 8
            replica.maxPiece = options["piece"].flatMap { Int64($0) } ?? 10
            replicas[id] = replica
        }
        snapshotBytes = options["bytes"].flatMap { Int64($0) } ?? 25
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
            replicas[NodeID(id)]?.disk.setEntries(entries)
        }
        for id in ids {
            if let replica = replicas[id] { start(replica) }
        }
    }

    private func voter(_ id: NodeID, _ directory: DirectoryID, port: Int = 1) -> Voter {
        Voter(id: id, directory: directory, host: "controller-\(id)", port: port)
    }

    private func changeVoters(_ name: String, _ named: [NodeID]) {
        guard named.count >= 2, let leader = replicas[named[0]], let other = replicas[named[1]]
        else {
            output.append("who?")
            return
        }
        let change: VoterChange =
            switch name {
            case "add": .add(voter(other.id, other.disk.directory))
            case "remove": .remove(id: other.id, directory: nil)
            default:
                .update(
                    voter(other.id, other.disk.directory, port: Int(named.last?.rawValue ?? 1)))
            }
        act(leader) {
            if let error = $0.change(change, now: self.now) {
                self.output.append("refused: \(Describe.refusal(error))")
            }
        }
    }

    private func wipe(_ replica: SimulatedReplica) {
        replica.kill()
        let old = replica.disk.directory
        replica.disk = SimulatedDisk(
            directory: DirectoryID(high: old.high, low: old.low + 1), bootstrapVoters: nil)
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
        var timers = 0
        settle()
        while let replica = nextReplica(), let deadline = replica.node?.nextDeadline,
            deadline <= end
        {
            timers += 1
            if timers > maxSteps {
                output.append("does not come to rest")
                break
            }
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
            } else if let replica = ids.lazy.compactMap({ self.replicas[$0] }).first(where: {
                !$0.snapshotWrites.isEmpty
            }) {
                act(replica) { $0.completeSnapshotWrite(fails: false, now: self.now) }
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
            if isQuiet, case .refuse = effect { continue }
            if let text = Describe.effect(effect) { output.append("  \(replica.id) \(text)") }
        }
        packets += replica.takeOutbox().map { packet in
            var packet = packet
            // A bootstrap server is only an address.
            if packet.to.rawValue < 0 { packet.to = NodeID(-packet.to.rawValue - 1) }
            return packet
        }
        for case .broke(let text) in replica.takeEvents() { output.append("  BROKEN: \(text)") }
        if replica.run > 0, !replica.isUp { output.append("  \(replica.id) is down") }
    }

    private func describe(_ id: NodeID) {
        guard let replica = replicas[id], let node = replica.node else {
            output.append("\(id) down")
            return
        }
        var text = "\(id) \(node.role.name) epoch=\(node.election.epoch)"
        if let leader = node.leader, leader != id { text += " leader=\(leader)" }
        if let voted = node.election.votedFor { text += " voted=\(Describe.replica(voted))" }
        if node.log.startOffset > 0 { text += " start=\(node.log.startOffset)" }
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
        guard let replica = replicas[id] else { return }
        let disk = replica.disk
        let first = max(disk.startOffset, replica.logStart)
        let epoch = disk.epoch(before: first) ?? disk.epochBeforeStart
        let start = first > 0 ? "\(first)@\(epoch)..." : ""
        let epochs = disk.entries.dropFirst(first - disk.startOffset)
            .map { "\($0.epoch)" + ($0.voters == nil ? "" : "v") }
        output.append("\(id): " + ([start].filter { !$0.isEmpty } + epochs).joined(separator: " "))
    }

    private func list(_ text: String?) -> [NodeID] {
        (text ?? "").split(separator: ",").compactMap { Int32($0) }.map { NodeID($0) }
    }

    private func duration(_ text: String) -> Duration {
        if text.hasSuffix("ms") { return .milliseconds(Int(text.dropLast(2)) ?? 0) }
        return .seconds(Int(text.dropLast(1)) ?? 0)
    }
}
