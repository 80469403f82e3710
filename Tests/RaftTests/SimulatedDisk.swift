import Essentials
import Raft

/// A record as tests know it; records that are equal in everything are the same record.
struct Entry: Hashable, Sendable {
    var epoch: LeaderEpoch
    /// Unique to one append by one leader.
    var payload: UInt64
    /// The first offset of the batch that it is part of.
    var batchBase: Offset
    /// Set when this is a voters record.
    var voters: VoterSet?

    /// What the record makes of a state: the simulated state machine, an FNV-1a over the log.
    func applied(to state: UInt64) -> UInt64 {
        var state = (state ^ payload) &* 0x100_0000_01B3
        state = (state ^ UInt64(UInt32(bitPattern: epoch.rawValue))) &* 0x100_0000_01B3
        return state
    }

    static let initialState: UInt64 = 0xCBF2_9CE4_8422_2325
}

/// A snapshot as tests know it: what the records before its end made of the state.
struct SnapshotFile: Hashable, Sendable {
    var id: SnapshotID
    var state: UInt64
    var voters: VoterSet?
    /// How many bytes it pretends to have.
    var size: Int64
    /// Copies of one file have the same number; two replicas' own snapshots never do.
    var file: UInt64
}

/// What survives a process: page cache and stable storage.
struct SimulatedDisk {
    var directory: DirectoryID
    /// What the directory was formatted with; `nil` for a replica that joins later.
    var bootstrapVoters: VoterSet?
    var election: ElectionState?
    /// Whole and durable, oldest first.
    private(set) var snapshots: [SnapshotFile] = []
    /// Where the log's files start; it may count as starting later, until the next restart.
    private(set) var startOffset = 0
    private(set) var epochBeforeStart = LeaderEpoch.none
    private(set) var entries: [Entry] = []
    /// Every record below this offset is on stable storage.
    private(set) var durableEnd = 0
    /// The voters records among `entries`.
    private(set) var voterRecords: [(offset: Int, voters: VoterSet)] = []

    init(directory: DirectoryID, bootstrapVoters: VoterSet?) {
        self.directory = directory
        self.bootstrapVoters = bootstrapVoters
    }

    var endOffset: Int { startOffset + entries.count }
    var lastEpoch: LeaderEpoch { entries.last?.epoch ?? epochBeforeStart }

    func contains(_ offset: Int) -> Bool { offset >= startOffset && offset < endOffset }

    /// The record at `offset`, if the log holds it.
    func entry(at offset: Int) -> Entry? {
        contains(offset) ? entries[offset - startOffset] : nil
    }

    /// The epoch of the record before `offset`, as far as the log tells.
    func epoch(before offset: Int) -> LeaderEpoch? {
        offset == startOffset ? epochBeforeStart : entry(at: offset - 1)?.epoch
    }

    /// The newest voter set of log, snapshots and format: the one in force.
    var votersInForce: VoterSet? {
        voterRecords.last?.voters ?? snapshots.last?.voters ?? bootstrapVoters
    }

    // MARK: - Writing

    mutating func append(_ entry: Entry) {
        if let voters = entry.voters { voterRecords.append((endOffset, voters)) }
        entries.append(entry)
    }

    mutating func truncate(to offset: Int) {
        entries.removeLast(max(0, endOffset - max(offset, startOffset)))
        durableEnd = min(durableEnd, endOffset)
        while let last = voterRecords.last, last.offset >= endOffset { voterRecords.removeLast() }
    }

    mutating func markDurable(to offset: Int) {
        durableEnd = max(durableEnd, min(offset, endOffset))
    }

    mutating func reset(to id: SnapshotID) {
        entries = []
        voterRecords = []
        startOffset = Int(id.endOffset.rawValue)
        epochBeforeStart = id.epoch
        durableEnd = startOffset
    }

    /// Removes records below the snapshot's end as a driver does that deletes whole segments.
    mutating func removePrefix(to id: SnapshotID) {
        snapshots.removeAll { $0.id < id }
        let end = min(Int(id.endOffset.rawValue), endOffset)
        guard end > startOffset else { return }
        // Some batches happen to begin a segment.
        let segment = (startOffset + 1..<end + 1).last { offset in
            guard let entry = entry(at: offset) else { return true }
            return entry.batchBase == Offset(Int64(offset)) && entry.payload % 3 == 0
        }
        guard let segment, let epoch = epoch(before: segment) else { return }
        entries.removeFirst(segment - startOffset)
        voterRecords.removeAll { $0.offset < segment }
        startOffset = segment
        epochBeforeStart = epoch
    }

    /// Whether a process that starts can tell the epoch before the log's start.
    var knowsEpochBeforeStart: Bool {
        startOffset == 0 || snapshots.contains { $0.id.endOffset == Offset(Int64(startOffset)) }
    }

    mutating func add(_ snapshot: SnapshotFile) {
        snapshots.removeAll { $0.id == snapshot.id }
        snapshots.append(snapshot)
        snapshots.sort { $0.id < $1.id }
    }

    mutating func setEntries(_ entries: [Entry]) {
        for entry in entries { append(entry) }
    }

    /// How many entries may vanish with power: whole batches only, as recovery drops torn ones.
    mutating func losePower(keeping survivors: Int) {
        var end = durableEnd + survivors
        while end > durableEnd, end < endOffset, let next = entry(at: end),
            next.batchBase < Offset(Int64(end))
        {
            end -= 1
        }
        truncate(to: end)
    }

    // MARK: - As a driver finds it

    var logState: LogState? {
        var epochs: [EpochStart] = []
        for (index, entry) in entries.enumerated() where entry.epoch != epochs.last?.epoch {
            epochs.append(
                EpochStart(epoch: entry.epoch, startOffset: Offset(Int64(startOffset + index))))
        }
        return LogState(
            startOffset: Offset(Int64(startOffset)),
            epochBeforeStart: knowsEpochBeforeStart ? epochBeforeStart : .none,
            endOffset: Offset(Int64(endOffset)), epochs: epochs)
    }

    func snapshot(_ id: SnapshotID) -> SnapshotFile? {
        snapshots.last { $0.id == id }
    }
}
