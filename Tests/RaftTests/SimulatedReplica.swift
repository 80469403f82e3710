import Essentials
import Raft

/// A record as tests know it; records that are equal in everything are the same record.
struct Entry: Hashable, Sendable {
    var epoch: LeaderEpoch
    /// Unique to one append by one leader.
    var payload: UInt64
    /// The first offset of the batch that it is part of.
    var batchBase: Offset
}

/// A message on its way, with what only tests need: the run of the process it belongs to.
struct Packet: Hashable, Sendable {
    enum Content: Hashable, Sendable {
        case request(RaftRequest, RequestID)
        case response(RaftResponse, RequestID, entries: [Entry])
        case failure(RequestID)
        case connectionLost
    }

    var from: NodeID
    var to: NodeID
    /// Which run of the requesting process this belongs to: connections die with a process.
    var run: Int
    var content: Content
}

/// A driver around one `RaftNode`, with a disk in memory that can lose what was not synced.
final class SimulatedReplica {
    /// What survives the process: page cache and stable storage.
    struct Disk {
        var entries: [Entry] = []
        /// So many entries are on stable storage.
        var durableCount = 0
        var election: ElectionState?
    }

    struct PendingAnswer {
        var to: NodeID
        var run: Int
        var id: RequestID
    }

    let key: ReplicaKey
    let voters: VoterSet
    let config: RaftConfig
    var disk = Disk()
    private(set) var node: RaftNode?
    /// Counts the process's starts.
    private(set) var run = 0
    private(set) var outbox: [Packet] = []
    /// Asked for, not yet durable.
    private(set) var electionWrites: [(state: ElectionState, write: UInt64)] = []
    private(set) var answers: [RequestToken: PendingAnswer] = [:]
    private(set) var committed: Offset = 0
    private(set) var effectsOfLastStep: [RaftEffect] = []
    private(set) var lastStep = MonotonicTime.zero
    private var lastToken: UInt64 = 0
    /// Batches a fetch answer holds at most.
    var maxBatchesPerFetch = 8
    var nextPayload: () -> UInt64
    var onAppend: (Offset, Entry) -> Void = { _, _ in }

    init(
        key: ReplicaKey, voters: VoterSet, config: RaftConfig,
        nextPayload: @escaping () -> UInt64
    ) {
        self.key = key
        self.voters = voters
        self.config = config
        self.nextPayload = nextPayload
    }

    var id: NodeID { key.id }
    var isUp: Bool { node != nil }

    func takeOutbox() -> [Packet] {
        defer { outbox = [] }
        return outbox
    }

    // MARK: - Process life

    func start(seed: UInt64, now: MonotonicTime) {
        run += 1
        committed = 0
        // Like the real driver: what was found is made durable before it is relied on.
        disk.durableCount = disk.entries.count
        var epochs: [EpochStart] = []
        for (index, entry) in disk.entries.enumerated() where entry.epoch != epochs.last?.epoch {
            epochs.append(EpochStart(epoch: entry.epoch, startOffset: Offset(Int64(index))))
        }
        guard
            let log = LogState(
                startOffset: 0, endOffset: Offset(Int64(disk.entries.count)), epochs: epochs)
        else { return }
        node = RaftNode(
            local: key, voters: VoterHistory(base: voters, baseOffset: 0), config: config,
            election: disk.election ?? .initial, log: log, generator: SeededGenerator(seed: seed), now: now)
        step(.timePassed, now: now)
    }

    /// The process dies; what it wrote stays in the page cache.
    func kill() {
        node = nil
        outbox = []
        answers = [:]
        electionWrites = []
    }

    /// The machine dies: of what was not synced, `survivors` entries happen to be on disk, and
    /// perhaps the election state that was being written.
    func losePower(survivors: Int, electionSurvives: Bool) {
        if electionSurvives, let pending = electionWrites.last { disk.election = pending.state }
        disk.entries.removeLast(disk.entries.count - disk.durableCount - survivors)
        kill()
    }

    // MARK: - Driving

    func step(_ input: RaftInput, entries: [Entry] = [], now: MonotonicTime) {
        guard var stepping = node else { return }
        let effects = stepping.step(input, now: now)
        lastStep = now
        stepping.checkInvariants()
        node = stepping
        perform(effects, fetched: entries)
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
        perform(effects, fetched: [])
        return true
    }

    func receive(_ packet: Packet, now: MonotonicTime) {
        switch packet.content {
        case .request(let request, let id):
            lastToken += 1
            let token = RequestToken(rawValue: lastToken)
            answers[token] = PendingAnswer(to: packet.from, run: packet.run, id: id)
            step(.request(request, token: token), now: now)
        case .response(let response, let id, let entries):
            guard packet.run == run else { return }
            step(.response(response, to: id), entries: entries, now: now)
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
        disk.durableCount = max(disk.durableCount, min(Int(end.rawValue), disk.entries.count))
        step(.logDurable(end: end, truncations: truncations), now: now)
    }

    func flush(now: MonotonicTime) {
        guard let log = node?.log else { return }
        completeFlush(end: log.endOffset, truncations: log.truncations, run: run, now: now)
    }

    private func perform(_ effects: [RaftEffect], fetched: [Entry]) {
        effectsOfLastStep = effects
        for effect in effects {
            switch effect {
            case .persistElectionState(let state, let write):
                electionWrites.append((state, write))
            case .send(let request, let peer, let id):
                outbox.append(
                    Packet(from: self.id, to: peer, run: run, content: .request(request, id)))
            case .answer(let token, let response):
                answer(token, .fetchless(response))
            case .answerFetch(let token, let answer):
                self.answer(token, read(answer))
            case .refuse(let token):
                guard let pending = answers.removeValue(forKey: token) else { continue }
                outbox.append(
                    Packet(
                        from: id, to: pending.to, run: pending.run, content: .failure(pending.id)))
            case .appendLeaderChange(let change):
                append(
                    Entry(epoch: change.epoch, payload: nextPayload(), batchBase: change.offset),
                    at: change.offset)
            case .appendProposed(let span):
                for offset in span.baseOffset.rawValue...span.lastOffset.rawValue {
                    append(
                        Entry(
                            epoch: span.epoch, payload: nextPayload(), batchBase: span.baseOffset),
                        at: Offset(offset))
                }
            case .appendFetched:
                for entry in fetched { append(entry, at: Offset(Int64(disk.entries.count))) }
            case .truncateLog(let offset):
                let count = Int(offset.rawValue)
                disk.entries.removeLast(disk.entries.count - count)
                disk.durableCount = min(disk.durableCount, count)
            case .advanceHighWatermark(let offset):
                committed = offset
            case .leaderChanged, .startedLeading, .stoppedLeading, .halt:
                break
            case .resetLog, .loadSnapshot, .advanceLogStart, .appendSnapshotChunk,
                .discardSnapshotDownload, .answerSnapshot, .appendVoters, .votersChanged,
                .readConfirmed, .readRefused, .transferred:
                break
            }
        }
    }

    private func append(_ entry: Entry, at offset: Offset) {
        invariant(Int(offset.rawValue) == disk.entries.count, "append at \(offset)")
        disk.entries.append(entry)
        onAppend(offset, entry)
    }

    private struct Answer {
        var response: RaftResponse
        var entries: [Entry]

        static func fetchless(_ response: RaftResponse) -> Answer {
            Answer(response: response, entries: [])
        }
    }

    private func answer(_ token: RequestToken, _ answer: Answer) {
        guard let pending = answers.removeValue(forKey: token) else { return }
        outbox.append(
            Packet(
                from: id, to: pending.to, run: pending.run,
                content: .response(answer.response, pending.id, entries: answer.entries)))
    }

    /// Whole batches from the disk, as a driver would read them.
    private func read(_ answer: FetchAnswer) -> Answer {
        var spans: [BatchSpan] = []
        var entries: [Entry] = []
        var offset = Int(answer.from.rawValue)
        while offset < Int(answer.below.rawValue) {
            let entry = disk.entries[offset]
            if let last = spans.last, last.epoch == entry.epoch,
                last.baseOffset == entry.batchBase
            {
                spans[spans.count - 1].lastOffset = Offset(Int64(offset))
            } else {
                guard spans.count < maxBatchesPerFetch else { break }
                spans.append(
                    BatchSpan(
                        baseOffset: Offset(Int64(offset)), lastOffset: Offset(Int64(offset)),
                        epoch: entry.epoch))
            }
            entries.append(entry)
            offset += 1
        }
        return Answer(
            response: .fetch(
                FetchResponse(
                    epoch: answer.epoch, leader: answer.leader,
                    outcome: .records(
                        spans, highWatermark: answer.highWatermark,
                        logStartOffset: answer.logStartOffset))),
            entries: entries)
    }
}
