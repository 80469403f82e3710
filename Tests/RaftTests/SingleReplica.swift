import Essentials
import Raft
import Testing

/// One replica, driven by hand; its writes of the election state are durable at once.
struct SingleReplica {
    var node: RaftNode
    var now = MonotonicTime.zero
    private var lastToken: UInt64 = 0

    static func key(_ id: Int32, disk: UInt64 = 0) -> ReplicaKey {
        ReplicaKey(id: NodeID(id), directory: DirectoryID(high: disk, low: UInt64(id)))
    }

    static func voter(_ id: Int32, disk: UInt64 = 0, port: Int = 9093) -> Voter {
        Voter(
            id: NodeID(id), directory: key(id, disk: disk).directory, host: "localhost", port: port)
    }

    static func set(_ ids: Int32...) throws -> VoterSet {
        try #require(VoterSet(ids.map { voter($0) }))
    }

    /// - Parameter voters: as if a log held them already.
    init(
        _ local: ReplicaKey, voters: VoterSet?, epoch: LeaderEpoch = 0, leader: NodeID? = nil,
        log: LogState = .empty, snapshot: SnapshotID? = nil, bootstrap: [NodeID] = [],
        isInLog: Bool = true, brokenRule: BrokenRule? = nil
    ) {
        var config = RaftConfig()
        #if DEBUG
            config.brokenRule = brokenRule
        #endif
        node = RaftNode(
            local: local, voters: VoterHistory(base: voters, baseOffset: isInLog ? 0 : nil),
            bootstrap: bootstrap, config: config,
            election: ElectionState(epoch: epoch, leader: leader), log: log, snapshot: snapshot,
            generator: SeededGenerator(seed: 1), now: .zero)
    }

    /// A log of one record an epoch named.
    static func log(_ epochs: LeaderEpoch..., from start: Offset = 0) throws -> LogState {
        var starts: [EpochStart] = []
        for (index, epoch) in epochs.enumerated() where epoch != starts.last?.epoch {
            starts.append(EpochStart(epoch: epoch, startOffset: start + Int64(index)))
        }
        return try #require(
            LogState(
                startOffset: start, endOffset: start + Int64(epochs.count), epochs: starts))
    }

    @discardableResult
    mutating func step(_ input: RaftInput) -> [RaftEffect] {
        var effects = node.step(input, now: now)
        var next = 0
        while next < effects.count {
            if case .persistElectionState(_, let write) = effects[next] {
                effects += node.step(.electionStatePersisted(write: write), now: now)
            }
            next += 1
        }
        node.checkInvariants()
        return effects
    }

    @discardableResult
    mutating func pass(_ duration: Duration) -> [RaftEffect] {
        now = now + duration
        return step(.timePassed)
    }

    /// The log is durable to its end.
    @discardableResult
    mutating func sync() -> [RaftEffect] {
        step(.logDurable(end: node.log.endOffset, truncations: node.log.truncations))
    }

    mutating func newToken() -> RequestToken {
        lastToken += 1
        return RequestToken(rawValue: lastToken)
    }

    /// Campaigns, gets every vote that it asks for, and returns what it did on the way.
    mutating func becomeLeader() -> [RaftEffect] {
        var all: [RaftEffect] = []
        var last: [RaftEffect] = []
        for _ in 0..<10 {
            if case .leader = node.role { return all }
            let asked = last
            last = []
            for case .send(.vote(let request), _, let id) in asked {
                let granted = VoteResponse(epoch: request.epoch, leader: nil, isGranted: true)
                last += step(.response(.vote(granted), to: id))
            }
            if asked.isEmpty {
                now = max(now, node.nextDeadline)
                last = step(.timePassed)
            }
            all += last
        }
        return all
    }

    /// The leader is sent a fetch by a replica that holds everything below `offset`.
    @discardableResult
    mutating func fetch(by replica: ReplicaKey, at offset: Offset) -> [RaftEffect] {
        fetch(by: replica, at: offset, lastEpoch: node.log.epoch(before: offset))
    }

    @discardableResult
    mutating func fetch(
        by replica: ReplicaKey, at offset: Offset, lastEpoch: LeaderEpoch
    ) -> [RaftEffect] {
        step(
            .request(
                .fetch(
                    FetchRequest(
                        replica: replica, epoch: node.election.epoch, fetchOffset: offset,
                        lastFetchedEpoch: lastEpoch, highWatermark: nil,
                        maxWait: .milliseconds(500))),
                token: newToken()))
    }

    /// The leader answers the last request that this follower sent, which is in `effects`.
    mutating func answer(
        _ effects: [RaftEffect], _ outcome: FetchResponse.Outcome
    ) throws -> [RaftEffect] {
        let (id, leader) = try #require(effects.sentFetch)
        return step(
            .response(
                .fetch(
                    FetchResponse(
                        epoch: node.election.epoch, leader: leader, outcome: outcome)), to: id))
    }

    mutating func answer(
        _ effects: [RaftEffect], snapshot outcome: FetchSnapshotResponse.Outcome
    ) throws -> [RaftEffect] {
        let (id, leader) = try #require(effects.sentFetch)
        return step(
            .response(
                .fetchSnapshot(
                    FetchSnapshotResponse(
                        epoch: node.election.epoch, leader: leader, outcome: outcome)), to: id))
    }
}

extension [RaftEffect] {
    /// The last fetch or snapshot fetch sent, and to whom.
    var sentFetch: (id: RequestID, peer: NodeID)? {
        for effect in reversed() {
            switch effect {
            case .send(.fetch, let peer, let id), .send(.fetchSnapshot, let peer, let id):
                return (id, peer)
            default: break
            }
        }
        return nil
    }

    /// The answers to requests, in order.
    var answers: [RaftResponse] {
        compactMap { if case .answer(_, let response) = $0 { response } else { nil } }
    }

    var fetchOutcomes: [FetchResponse.Outcome] {
        answers.compactMap { if case .fetch(let response) = $0 { response.outcome } else { nil } }
    }
}
