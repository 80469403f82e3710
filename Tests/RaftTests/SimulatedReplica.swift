import Essentials
import Raft

/// A driver around one `RaftNode`, with a disk in memory that can lose what was not synced.
final class SimulatedReplica {
    struct PendingAnswer {
        var to: NodeID
        var run: Int
        var id: RequestID
    }

    /// A file that is on its way to the disk.
    struct SnapshotWrite {
        var snapshot: SnapshotFile
        var isDownload: Bool
        /// A download whose pieces do not fit together, as its checksums will tell.
        var isTorn = false
    }

    /// The partial file of a snapshot that is being fetched.
    struct Download {
        var id: SnapshotID
        var end: Int64
        var snapshot: SnapshotFile
        var isTorn: Bool
    }

    let id: NodeID
    let config: RaftConfig
    /// The bootstrap servers, as pseudo ids.
    let bootstrap: [NodeID]
    var disk: SimulatedDisk
    private(set) var node: RaftNode?
    /// Counts the process's starts.
    private(set) var run = 0
    private(set) var outbox: [Packet] = []
    private(set) var events: [ReplicaEvent] = []
    /// Asked for, not yet durable.
    private(set) var electionWrites: [(state: ElectionState, write: UInt64)] = []
    private(set) var answers: [RequestToken: PendingAnswer] = [:]
    private(set) var effectsOfLastStep: [RaftEffect] = []
    private(set) var lastStep = MonotonicTime.zero
    /// What it was as a leader when the voters were last changed; it may have resigned at once.
    private(set) var leadingBefore: Leader?
    var snapshotWrites: [SnapshotWrite] = []
    var download: Download?
    /// The state machine: everything below `committed` is applied to `state`.
    private(set) var committed: Offset = 0
    private(set) var state = Entry.initialState
    private var lastToken: UInt64 = 0
    /// Where the voters that the disk was formatted with are taken to be written already, if so.
    var bootstrapOffset: Offset?
    /// Where the log counts as starting, and whether the epoch before that is known.
    var logStart = 0
    var knowsEpochBeforeStart = true
    /// Whether the disk can't be read just now.
    var readFails: () -> Bool = { false }
    /// Batches a fetch answer holds at most.
    var maxBatchesPerFetch = 8
    /// Bytes a piece of a snapshot holds at most.
    var maxPiece: Int64 = 10
    /// The process dies after so many effects of the next step.
    var effectsUntilCrash: Int?
    let nextNumber: () -> UInt64

    init(
        id: NodeID, disk: SimulatedDisk, config: RaftConfig, bootstrap: [NodeID],
        nextNumber: @escaping () -> UInt64
    ) {
        self.id = id
        self.disk = disk
        self.config = config
        self.bootstrap = bootstrap
        self.nextNumber = nextNumber
    }

    var key: ReplicaKey { ReplicaKey(id: id, directory: disk.directory) }
    var isUp: Bool { node != nil }

    var leading: Leader? {
        if case .leader(let leader) = node?.role { leader } else { nil }
    }

    func takeOutbox() -> [Packet] {
        defer { outbox = [] }
        return outbox
    }

    func takeEvents() -> [ReplicaEvent] {
        defer { events = [] }
        return events
    }

    // MARK: - Process life

    func start(seed: UInt64, now: MonotonicTime) {
        run += 1
        committed = 0
        state = Entry.initialState
        // Like the real driver: what was found is made durable before it is relied on.
        disk.markDurable(to: disk.endOffset)
        guard let log = disk.logState else {
            events.append(.broke("a log that can't be"))
            return
        }
        logStart = disk.startOffset
        knowsEpochBeforeStart = disk.knowsEpochBeforeStart
        node = RaftNode(
            local: key, voters: voterHistory(), bootstrap: bootstrap, config: config,
            election: disk.election ?? .initial, log: log, snapshot: disk.snapshots.last?.id,
            generator: SeededGenerator(seed: seed), now: now)
        step(.timePassed, now: now)
    }

    /// The sets in the newest snapshot, and in the log from its end on.
    private func voterHistory() -> VoterHistory {
        let snapshot = disk.snapshots.last
        var history = VoterHistory(
            base: snapshot?.voters ?? disk.bootstrapVoters,
            baseOffset: snapshot?.id.endOffset ?? bootstrapOffset)
        for record in disk.voterRecords {
            history.append(record.voters, at: Offset(Int64(record.offset)))
        }
        return history
    }

    /// The process dies; what it wrote stays in the page cache.
    func kill() {
        node = nil
        outbox = []
        answers = [:]
        electionWrites = []
        snapshotWrites = []
        download = nil
        effectsUntilCrash = nil
        effectsOfLastStep = []
    }

    /// The machine dies: of what was not synced, `survivors` entries happen to be on disk, and
    /// perhaps the election state that was being written.
    func losePower(survivors: Int, electionSurvives: Bool) {
        if electionSurvives, let pending = electionWrites.last { disk.election = pending.state }
        disk.losePower(keeping: survivors)
        kill()
    }

    // MARK: - Driving

    func step(
        _ input: RaftInput, payload: Packet.Payload = .none, now: MonotonicTime
    ) {
        guard var stepping = node else { return }
        let effects = stepping.step(input, now: now)
        lastStep = now
        stepping.checkInvariants()
        node = stepping
        perform(effects, payload: payload)
    }

    /// Returns whether the replica took the proposal.
    @discardableResult
    func propose(count: Int, now: MonotonicTime) -> Bool {
        effectsOfLastStep = []
        guard var stepping = node else { return false }
        guard
            let effects = try? stepping.propose(
                recordCount: count, epoch: stepping.election.epoch, now: now)
        else { return false }
        node = stepping
        perform(effects)
        return true
    }

    /// Returns why the replica refused, if it did.
    func change(_ change: VoterChange, now: MonotonicTime) -> VoterChangeError? {
        effectsOfLastStep = []
        guard var stepping = node else { return nil }
        do throws(VoterChangeError) {
            let effects = try stepping.changeVoters(change, now: now).effects
            leadingBefore = leading
            stepping.checkInvariants()
            node = stepping
            perform(effects)
            return nil
        } catch {
            return error
        }
    }

    /// A token for a request that comes from no other replica.
    func newToken() -> RequestToken {
        lastToken += 1
        return RequestToken(rawValue: lastToken)
    }

    func receive(_ packet: Packet, now: MonotonicTime) {
        switch packet.content {
        case .request(let request, let id):
            let token = newToken()
            answers[token] = PendingAnswer(to: packet.from, run: packet.run, id: id)
            step(.request(request, token: token), now: now)
        case .response(let response, let id, let payload):
            guard packet.run == run else { return }
            step(.response(response, to: id), payload: payload, now: now)
        case .failure(let id):
            guard packet.run == run else { return }
            step(.requestFailed(id), now: now)
        case .connectionLost:
            step(.connectionLost(to: packet.from), now: now)
        }
    }

    /// Completes every write of the election state that was asked for.
    func completeElectionWrites(now: MonotonicTime) {
        guard let last = electionWrites.last else { return }
        disk.election = last.state
        electionWrites = []
        step(.electionStatePersisted(write: last.write), now: now)
    }

    /// Completes a sync that was begun when the log ended at `end`.
    func completeFlush(end: Offset, truncations: Int, run: Int, now: MonotonicTime) {
        guard run == self.run, let node, node.log.truncations == truncations else { return }
        disk.markDurable(to: Int(end.rawValue))
        step(.logDurable(end: end, truncations: truncations), now: now)
    }

    func flush(now: MonotonicTime) {
        guard let log = node?.log else { return }
        completeFlush(end: log.endOffset, truncations: log.truncations, run: run, now: now)
    }

    // MARK: - Snapshots

    /// Begins to write what the replica thinks is committed; false if there is nothing new to write.
    func beginSnapshot(size: Int64) -> Bool {
        guard let node, let id = node.nextSnapshot,
            !snapshotWrites.contains(where: { !$0.isDownload })
        else { return false }
        // No further than what has been applied, unless the replica is wrong.
        var state = state
        for offset in Int(
            committed.rawValue)..<max(Int(committed.rawValue), Int(id.endOffset.rawValue))
        {
            state = disk.entry(at: offset)?.applied(to: state) ?? state
        }
        snapshotWrites.append(
            SnapshotWrite(
                snapshot: SnapshotFile(
                    id: id, state: state, voters: node.voters.set(before: id.endOffset),
                    size: size, file: nextNumber()),
                isDownload: false))
        return true
    }

    /// The oldest file that was being written is durable under its name, or turns out to be bad.
    ///
    /// - Parameter fails: The disk or the file is bad.
    /// - Parameter crashes: The process dies before it can go on.
    func completeSnapshotWrite(fails: Bool, crashes: Bool = false, now: MonotonicTime) {
        guard !snapshotWrites.isEmpty else { return }
        let write = snapshotWrites.removeFirst()
        let id = write.snapshot.id
        guard !fails, !write.isTorn else {
            if write.isDownload { step(.snapshotFailed(id), now: now) }
            return
        }
        disk.add(write.snapshot)
        if !write.isDownload { events.append(.tookSnapshot(write.snapshot)) }
        if crashes {
            kill()
        } else if write.isDownload {
            step(.snapshotInstalled(id, voters: write.snapshot.voters), now: now)
        } else {
            step(.snapshotTaken(id), now: now)
        }
    }

    // MARK: - Effects

    func note(_ event: ReplicaEvent) {
        events.append(event)
    }

    private func perform(_ effects: [RaftEffect], payload: Packet.Payload = .none) {
        effectsOfLastStep = effects
        for (index, effect) in effects.enumerated() {
            if let limit = effectsUntilCrash, index >= limit {
                // What was sent before is on its way.
                let sent = outbox
                kill()
                outbox = sent
                effectsOfLastStep = Array(effects.prefix(index))
                return
            }
            perform(effect, payload)
        }
    }

    func append(_ entry: Entry, at offset: Offset) {
        guard Int(offset.rawValue) == disk.endOffset else {
            note(.broke("appends at \(offset) to a log that ends at \(disk.endOffset)"))
            return
        }
        note(.appended(offset, entry, previousEpoch: offset > 0 ? disk.lastEpoch : nil))
        disk.append(entry)
    }

    func post(_ content: Packet.Content, to peer: NodeID, run: Int) {
        outbox.append(Packet(from: id, to: peer, run: run, content: content))
    }

    func answer(_ token: RequestToken, _ response: RaftResponse, _ payload: Packet.Payload) {
        guard let pending = answers.removeValue(forKey: token) else { return }
        post(.response(response, pending.id, payload: payload), to: pending.to, run: pending.run)
    }

    func refuse(_ token: RequestToken) {
        guard let pending = answers.removeValue(forKey: token) else { return }
        post(.failure(pending.id), to: pending.to, run: pending.run)
    }

    func persist(_ state: ElectionState, write: UInt64) {
        electionWrites.append((state, write))
    }

    func apply(to offset: Offset) {
        let from = Int(committed.rawValue)
        let end = Int(offset.rawValue)
        guard from >= disk.startOffset, from <= end, end <= disk.endOffset else {
            note(.broke("R21: commits \(end), has applied \(from), log from \(disk.startOffset)"))
            return
        }
        let entries = Array(
            disk.entries[(from - disk.startOffset)..<(end - disk.startOffset)])
        for entry in entries { state = entry.applied(to: state) }
        committed = offset
        note(
            .applied(
                from: from, entries: entries, state: state, epoch: node?.election.epoch ?? 0))
    }

    func load(_ id: SnapshotID) {
        guard let snapshot = disk.snapshot(id) else {
            note(.broke("R21: is to load a snapshot it does not have, \(id)"))
            return
        }
        state = snapshot.state
        committed = id.endOffset
        note(.loaded(snapshot))
    }
}
