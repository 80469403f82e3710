import Essentials
import Raft
import Testing

/// Single rules that need no quorum around them.
struct RaftNodeTests {
    private static let directories = (1...4 as ClosedRange<UInt64>).map {
        DirectoryID(high: 7, low: $0)
    }

    private func start(
        _ local: ReplicaKey, voters: [ReplicaKey], election: ElectionState = .initial,
        log: LogState = .empty
    ) throws -> RaftNode {
        RaftNode(
            local: local, voters: try .fixed(voters), config: RaftConfig(),
            election: election, log: log, generator: SeededGenerator(seed: 1), now: .zero)
    }

    private func log(_ epochs: [LeaderEpoch]) throws -> LogState {
        var starts: [EpochStart] = []
        for (index, epoch) in epochs.enumerated() where epoch != starts.last?.epoch {
            starts.append(EpochStart(epoch: epoch, startOffset: Offset(Int64(index))))
        }
        return try #require(
            LogState(startOffset: 0, endOffset: Offset(Int64(epochs.count)), epochs: starts))
    }

    private let token = RequestToken(rawValue: 1)

    private func fetch(
        by replica: ReplicaKey, at offset: Offset, lastEpoch: LeaderEpoch, epoch: LeaderEpoch
    ) -> RaftInput {
        .request(
            .fetch(
                FetchRequest(
                    replica: replica, epoch: epoch, fetchOffset: offset,
                    lastFetchedEpoch: lastEpoch, highWatermark: nil, maxWait: .seconds(1))),
            token: token)
    }

    /// Replica 1 of three, elected with the vote of 2, its first record durable.
    private func leader(voters: [ReplicaKey]) throws -> RaftNode {
        var node = try start(voters[0], voters: voters)
        var now = node.nextDeadline
        var effects = node.step(.timePassed, now: now)
        for _ in 0..<2 {
            for case .persistElectionState(_, let write) in effects {
                effects += node.step(.electionStatePersisted(write: write), now: now)
            }
            for case .send(.vote(let request), to: 2, let id) in effects {
                let granted = VoteResponse(epoch: request.epoch, leader: nil, isGranted: true)
                now = now + .milliseconds(1)
                effects = node.step(.response(.vote(granted), to: id), now: now)
            }
        }
        #expect(node.leader == voters[0].id)
        _ = node.step(.logDurable(end: 1, truncations: 0), now: now)
        return node
    }

    @Test func anotherDiskUnderAVotersIDDoesNotCount() throws {
        let keys = (0..<3).map {
            ReplicaKey(id: NodeID(Int32($0 + 1)), directory: Self.directories[$0])
        }
        var node = try leader(voters: keys)
        let now = node.nextDeadline
        let stranger = ReplicaKey(id: 2, directory: Self.directories[3])
        _ = node.step(fetch(by: stranger, at: 1, lastEpoch: 1, epoch: 1), now: now)
        #expect(node.highWatermark == nil)
        _ = node.step(fetch(by: keys[1], at: 1, lastEpoch: 1, epoch: 1), now: now)
        #expect(node.highWatermark == 1)
    }

    @Test func voterOfUnknownDirectoryIsPinnedToTheFirstOneSeen() throws {
        let keys = (1...3).map { ReplicaKey(id: NodeID($0)) }
        var node = try leader(voters: keys)
        let now = node.nextDeadline
        let first = ReplicaKey(id: 2, directory: Self.directories[0])
        let other = ReplicaKey(id: 2, directory: Self.directories[1])
        _ = node.step(fetch(by: first, at: 0, lastEpoch: .none, epoch: 1), now: now)
        _ = node.step(fetch(by: other, at: 1, lastEpoch: 1, epoch: 1), now: now)
        #expect(node.highWatermark == nil)
        _ = node.step(fetch(by: first, at: 1, lastEpoch: 1, epoch: 1), now: now)
        #expect(node.highWatermark == 1)
    }

    @Test func replicaStartsNoLowerThanItsLog() throws {
        let keys = (1...3).map { ReplicaKey(id: NodeID($0)) }
        var node = try start(keys[0], voters: keys, log: log([1, 4]))
        #expect(node.election.epoch == 4)
        // It can't know whom it voted for in epoch 4, so nobody gets its vote there.
        let request = VoteRequest(
            candidate: keys[1], epoch: 4, lastEpoch: 4, endOffset: 9, isPreVote: false,
            voter: ReplicaKey(id: 1))
        let effects = node.step(.request(.vote(request), token: token), now: .zero)
        #expect(node.election.votedFor != keys[1])
        for case .answer(_, .vote(let response)) in effects { #expect(!response.isGranted) }
    }

    @Test func malformedRequestsAreRefused() throws {
        let keys = (1...3).map { ReplicaKey(id: NodeID($0)) }
        var node = try start(keys[0], voters: keys)
        let votes = [
            VoteRequest(
                candidate: keys[1], epoch: -5, lastEpoch: -9, endOffset: 0, isPreVote: false,
                voter: ReplicaKey(id: 1)),
            VoteRequest(
                candidate: keys[1], epoch: LeaderEpoch(.max), lastEpoch: 0, endOffset: 0,
                isPreVote: false, voter: ReplicaKey(id: 1)),
            VoteRequest(
                candidate: keys[1], epoch: 1, lastEpoch: 0, endOffset: -1, isPreVote: true,
                voter: ReplicaKey(id: 1)),
            VoteRequest(
                candidate: keys[0], epoch: 1, lastEpoch: 0, endOffset: 0, isPreVote: false,
                voter: ReplicaKey(id: 1)),
            VoteRequest(
                candidate: keys[1], epoch: 1, lastEpoch: 0, endOffset: 0, isPreVote: false,
                voter: ReplicaKey(id: 3)),
            VoteRequest(
                candidate: ReplicaKey(id: -1), epoch: 1, lastEpoch: 0, endOffset: 0,
                isPreVote: false, voter: ReplicaKey(id: 1)),
        ]
        for vote in votes {
            let effects = node.step(.request(.vote(vote), token: token), now: .zero)
            #expect(effects.contains(.refuse(token)))
            #expect(node.election.epoch == 0)
        }
        let fetches = [(Offset(-1), LeaderEpoch(0)), (0, -2), (Offset(.max), 7)]
        for (offset, lastEpoch) in fetches {
            let effects = node.step(
                fetch(by: keys[1], at: offset, lastEpoch: lastEpoch, epoch: 0), now: .zero)
            #expect(effects.contains(.refuse(token)))
        }
        let begin = BeginQuorumEpochRequest(
            leader: 99, epoch: LeaderEpoch(.max), voter: keys[0])
        _ = node.step(.request(.beginQuorumEpoch(begin), token: token), now: .zero)
        #expect(node.election.epoch == 0)
    }

    @Test func epochsFarAheadAreNotBelieved() throws {
        let keys = (1...3).map { ReplicaKey(id: NodeID($0)) }
        var node = try start(keys[0], voters: keys, election: ElectionState(epoch: 5))
        func vote(_ epoch: LeaderEpoch) -> RaftInput {
            .request(
                .vote(
                    VoteRequest(
                        candidate: keys[1], epoch: epoch, lastEpoch: 0, endOffset: 0,
                        isPreVote: false, voter: ReplicaKey(id: 1))), token: token)
        }
        let most = LeaderEpoch(5 + ElectionState.maxEpochJump)
        #expect(node.step(vote(most.next), now: .zero).contains(.refuse(token)))
        let begin = BeginQuorumEpochRequest(leader: 2, epoch: most.next, voter: keys[0])
        _ = node.step(.request(.beginQuorumEpoch(begin), token: token), now: .zero)
        #expect(node.election.epoch == 5)
        _ = node.step(vote(most), now: .zero)
        #expect(node.election.epoch == most)
        // One that is new has to believe the others.
        var new = try start(keys[0], voters: keys)
        _ = new.step(vote(most.next), now: .zero)
        #expect(new.election.epoch == most.next)
    }

    @Test func answersWaitForAFullQueueOnly() throws {
        let keys = (1...3).map { ReplicaKey(id: NodeID($0)) }
        var node = try start(keys[0], voters: keys)
        var refused = 0
        for number in 1...2_000 as ClosedRange<UInt64> {
            let request = VoteRequest(
                candidate: keys[1], epoch: 3, lastEpoch: 0, endOffset: 0, isPreVote: false,
                voter: ReplicaKey(id: 1))
            let effects = node.step(
                .request(.vote(request), token: RequestToken(rawValue: number)), now: .zero)
            for case .refuse in effects { refused += 1 }
            for case .answer in effects {
                Issue.record("an answer left before the vote is durable")
            }
        }
        #expect(refused == 2_000 - RaftConfig().maxHeldAnswers)
        let effects = node.step(.electionStatePersisted(write: 2), now: .zero)
        let answered = effects.count { if case .answer = $0 { true } else { false } }
        #expect(answered == RaftConfig().maxHeldAnswers)
    }

    @Test func replicaStopsRatherThanTruncateCommittedRecords() throws {
        let keys = (1...3).map { ReplicaKey(id: NodeID($0)) }
        var node = try start(
            keys[0], voters: keys, election: ElectionState(epoch: 2, leader: 2), log: log([1, 1]))
        func fetchID(_ effects: [RaftEffect]) throws -> RequestID {
            for case .send(.fetch, _, let id) in effects { return id }
            throw RequestID.Missing()
        }
        var id = try fetchID(node.step(.timePassed, now: .zero))
        let known = FetchResponse(
            epoch: 2, leader: 2,
            outcome: .records([], highWatermark: 2, logStartOffset: 0))
        id = try fetchID(node.step(.response(.fetch(known), to: id), now: .zero))
        #expect(node.highWatermark == 2)
        let diverging = FetchResponse(
            epoch: 2, leader: 2, outcome: .diverging(EpochEnd(epoch: 1, endOffset: 1)))
        let effects = node.step(.response(.fetch(diverging), to: id), now: .zero)
        #expect(
            effects.contains(
                .halt(.committedRecordsDiverge(highWatermark: 2, truncation: 1))))
        #expect(node.nextDeadline == .distantFuture)
    }

    @Test func epochEndsAreFoundBetweenEpochs() throws {
        let log = try log([1, 1, 3, 3, 3, 6])
        #expect(log.end(of: 0) == EpochEnd(epoch: .none, endOffset: 0))
        #expect(log.end(of: 1) == EpochEnd(epoch: 1, endOffset: 2))
        #expect(log.end(of: 2) == EpochEnd(epoch: 1, endOffset: 2))
        #expect(log.end(of: 5) == EpochEnd(epoch: 3, endOffset: 5))
        #expect(log.end(of: 9) == EpochEnd(epoch: 6, endOffset: 6))
    }

    @Test func logShapesThatCannotBeAreRejected() {
        let first = EpochStart(epoch: 1, startOffset: 0)
        #expect(LogState(startOffset: 0, endOffset: 2, epochs: []) == nil)
        #expect(LogState(startOffset: 3, endOffset: 2, epochs: []) == nil)
        #expect(
            LogState(
                startOffset: 0, endOffset: 2,
                epochs: [first, EpochStart(epoch: 1, startOffset: 1)]) == nil)
        #expect(
            LogState(
                startOffset: 0, endOffset: 2,
                epochs: [first, EpochStart(epoch: 2, startOffset: 2)]) == nil)
    }

    @Test func votersAreDistinct() {
        #expect(VoterSet([]) == nil)
        #expect(VoterSet(keys: [ReplicaKey(id: 1), ReplicaKey(id: 1)]) == nil)
        #expect(VoterSet(keys: (1...4).map { ReplicaKey(id: NodeID($0)) })?.majority == 3)
    }
}

extension RequestID {
    fileprivate struct Missing: Error {}
}
