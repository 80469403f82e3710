import Essentials
import Raft

/// Watches a whole quorum and notes every rule that is broken; sees what no single replica can.
struct SafetyChecker {
    private(set) var violations: [String] = []
    let config: RaftConfig
    /// Overlooks how something comes about, and sees only what must never come of it.
    var judgesHarmOnly = false
    private static let harm = [
        "R1:", "R5:", "R6:", "R7:", "R10:", "R20:", "R22:", "read:", "halt:",
    ]
    /// The records known to be committed, in order, and what they make of the state.
    var committed: [Entry] = []
    var states: [UInt64] = [Entry.initialState]
    /// In which epoch each was committed.
    var commitEpochs: [LeaderEpoch] = []
    /// The voters records among them.
    var committedVoters: [(offset: Int, voters: VoterSet)] = []
    let bootstrapVoters: VoterSet
    /// Every set that a leader wrote, for what may still come into force.
    var proposedVoters: [(offset: Int, voters: VoterSet)] = []
    /// The last contents of disks that were taken out, for what they vouched for.
    var graveyard: [ReplicaKey: SimulatedDisk] = [:]
    var epochsLed = 0
    var snapshotsLoaded = 0
    var snapshotsTaken = 0
    var readsConfirmed = 0
    var votersChanges = 0

    var leaders: [LeaderEpoch: NodeID] = [:]
    var votes: [VoteKey: ReplicaKey] = [:]
    var preVotes: [VoteKey: Set<ReplicaKey>] = [:]
    var contents: [RecordKey: UInt64] = [:]
    var chains: [RecordKey: UInt64] = [:]
    var runsLeading: [LeaderEpoch: Run] = [:]
    var applied: [Run: Int] = [:]
    var led: [Run: Leadership] = [:]
    var epochsShown: [ReplicaKey: LeaderEpoch] = [:]
    var contacts: [NodeID: [ReplicaKey: MonotonicTime]] = [:]
    var reads: [ClientCall: Int] = [:]
    var openCalls: Set<ClientCall> = []

    struct VoteKey: Hashable {
        var voter: ReplicaKey
        var epoch: LeaderEpoch
    }

    struct RecordKey: Hashable {
        var offset: Offset
        var epoch: LeaderEpoch
    }

    /// One run of one replica's process.
    struct Run: Hashable {
        var replica: ReplicaKey
        var run: Int
    }

    struct ClientCall: Hashable {
        var run: Run
        var token: RequestToken
    }

    /// What a run has come to as a leader.
    struct Leadership {
        var highWatermark: Offset?
        var votersSince = MonotonicTime.zero
        var voters: VoterSet?
        var started: LeaderEpoch?
        var over: LeaderEpoch = .none
    }

    init(voters: VoterSet, config: RaftConfig) {
        bootstrapVoters = voters
        self.config = config
    }

    mutating func fail(_ text: String) {
        guard !judgesHarmOnly || Self.harm.contains(where: { text.hasPrefix($0) }) else { return }
        violations.append(text)
    }

    func run(of replica: SimulatedReplica) -> Run {
        Run(replica: replica.key, run: replica.run)
    }

    /// The voter set that the first `count` committed records end with.
    func voters(after count: Int) -> VoterSet {
        committedVoters.last { $0.offset < count }?.voters ?? bootstrapVoters
    }

    /// Every set that is in force somewhere, or may yet be.
    var possibleVoters: [VoterSet] {
        let last = committedVoters.last
        return [last?.voters ?? bootstrapVoters]
            + proposedVoters.filter { $0.offset > last?.offset ?? -1 }.map(\.voters)
    }

    // MARK: - What happens to logs and state machines

    mutating func note(_ event: ReplicaEvent, of replica: SimulatedReplica) {
        let id = replica.id
        switch event {
        case .appended(let offset, let entry, let previousEpoch):
            appended(entry, at: offset, after: previousEpoch)
        case .proposedVoters(let voters, let offset, let context):
            proposed(voters, at: offset, context, by: id)
        case .truncated(let wasLeading):
            if wasLeading { fail("R4: \(id) shortens its log as leader") }
        case .movedStart(let snapshot):
            movedStart(of: replica, to: snapshot)
        case .loaded(let snapshot):
            snapshotsLoaded += 1
            checkSnapshot(snapshot, of: replica)
            let run = run(of: replica)
            let end = Int(snapshot.id.endOffset.rawValue)
            if end < applied[run] ?? 0 { fail("R10: \(id) loads what is behind its state") }
            applied[run] = end
        case .tookSnapshot(let snapshot):
            snapshotsTaken += 1
            checkSnapshot(snapshot, of: replica)
        case .applied(let from, let entries, let state, let epoch):
            applied(entries, from: from, state, epoch, by: replica)
        case .startedLeading(let epoch):
            startedLeading(epoch, replica)
        case .stoppedLeading(let epoch):
            led[run(of: replica), default: Leadership()].over = epoch
        case .confirmedRead(let token, let answer):
            confirmedRead(ClientCall(run: run(of: replica), token: token), answer)
        case .answeredClient(let token):
            let call = ClientCall(run: run(of: replica), token: token)
            if openCalls.remove(call) == nil { fail("\(id) answers \(token) twice") }
        case .broke(let text):
            fail("\(id): \(text)")
        }
    }

    /// Log matching: one offset and epoch, one record, and one history before it.
    private mutating func appended(
        _ entry: Entry, at offset: Offset, after previousEpoch: LeaderEpoch?
    ) {
        let key = RecordKey(offset: offset, epoch: entry.epoch)
        let before = previousEpoch.flatMap {
            chains[RecordKey(offset: Offset(offset.rawValue - 1), epoch: $0)]
        }
        var chain = (before ?? 0) &* 0x100_0000_01B3
        chain = (chain ^ entry.payload) &* 0x100_0000_01B3
        if let known = contents[key], known != entry.payload {
            fail("R6: offset \(offset) of epoch \(entry.epoch) names two records")
        } else if let known = chains[key], known != chain {
            fail("R5: logs that share offset \(offset), epoch \(entry.epoch) differ before it")
        }
        contents[key] = entry.payload
        chains[key] = chain
    }

    /// The same records give the same state everywhere, and committed ones never change.
    private mutating func applied(
        _ entries: [Entry], from: Int, _ state: UInt64, _ epoch: LeaderEpoch,
        by replica: SimulatedReplica
    ) {
        let run = run(of: replica)
        if from != applied[run] ?? 0 { fail("R10: \(replica.id) applies from \(from)") }
        applied[run] = from + entries.count
        for (index, entry) in entries.enumerated() {
            let offset = from + index
            if offset == committed.count {
                committed.append(entry)
                commitEpochs.append(epoch)
                states.append(entry.applied(to: states[offset]))
                if let voters = entry.voters {
                    if voters != self.voters(after: offset) { votersChanges += 1 }
                    committedVoters.append((offset, voters))
                }
            } else if offset > committed.count || committed[offset] != entry {
                fail("R7: \(replica.id) commits another record at \(offset)")
                return
            }
        }
        if states[from + entries.count] != state {
            fail("R22: \(replica.id) has another state at \(from + entries.count)")
        }
    }

    // MARK: - Snapshots

    private mutating func checkSnapshot(_ snapshot: SnapshotFile, of replica: SimulatedReplica) {
        let end = Int(snapshot.id.endOffset.rawValue)
        guard end > 0, end <= committed.count else {
            fail("R20: \(replica.id) has a snapshot of \(end), committed are \(committed.count)")
            return
        }
        if committed[end - 1].epoch != snapshot.id.epoch {
            fail("R20: snapshot \(snapshot.id) of \(replica.id) has the wrong epoch")
        }
        if states[end] != snapshot.state {
            fail("R20: snapshot \(snapshot.id) of \(replica.id) holds another state")
        }
        if voters(after: end) != snapshot.voters {
            fail("R20: snapshot \(snapshot.id) of \(replica.id) holds other voters")
        }
    }

    private mutating func movedStart(of replica: SimulatedReplica, to id: SnapshotID) {
        guard replica.disk.snapshot(id) != nil || replica.disk.startOffset > 0 else {
            fail("R21: the log of \(replica.id) starts at \(id), where no snapshot ends")
            return
        }
        let end = Int(id.endOffset.rawValue)
        if end > committed.count || end > 0 && committed[end - 1].epoch != id.epoch {
            fail("R21: the log of \(replica.id) starts at \(id), which is not committed")
        }
    }

    // MARK: - Reads

    /// A client begins to read: it must see everything that anyone has committed by now.
    mutating func began(_ token: RequestToken, isRead: Bool, on replica: SimulatedReplica) {
        let call = ClientCall(run: run(of: replica), token: token)
        openCalls.insert(call)
        if isRead { reads[call] = committed.count }
    }

    private mutating func confirmedRead(_ call: ClientCall, _ answer: Offset) {
        readsConfirmed += 1
        guard let needed = reads[call] else { return }
        if answer < Offset(Int64(needed)) {
            fail("read: one on \(call.run.replica.id) sees \(answer), before it were \(needed)")
        }
    }

    private mutating func startedLeading(_ epoch: LeaderEpoch, _ replica: SimulatedReplica) {
        let run = run(of: replica)
        let record = led[run, default: Leadership()]
        if record.over >= epoch || record.started ?? .none >= epoch {
            fail("R14: \(replica.id) is told twice that it leads \(epoch)")
        }
        led[run, default: Leadership()].started = epoch
    }
}
