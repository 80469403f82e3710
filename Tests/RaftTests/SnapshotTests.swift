import Essentials
import Raft
import Testing

struct SnapshotTests {
    private typealias Replica = SingleReplica
    private let wanted = SnapshotID(endOffset: 50, epoch: 3)

    /// Replica 1 of three, leading epoch 1, with ten records and more committed.
    private func leader(brokenRule: BrokenRule? = nil) throws -> SingleReplica {
        var replica = SingleReplica(
            Replica.key(1), voters: try Replica.set(1, 2, 3), brokenRule: brokenRule)
        _ = replica.becomeLeader()
        for _ in 0..<4 {
            _ = try replica.node.propose(recordCount: 5, epoch: 1, now: replica.now)
        }
        replica.sync()
        replica.fetch(by: Replica.key(2), at: 16)
        #expect(replica.node.highWatermark == 16)
        return replica
    }

    /// Replica 2, which follows replica 1 in epoch 3 and was told to fetch a snapshot.
    private func downloader(
        log: LogState = .empty
    ) throws -> (SingleReplica, [RaftEffect]) {
        var replica = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2, 3), epoch: 3, leader: 1, log: log)
        let effects = try replica.answer(replica.step(.timePassed), .snapshot(wanted))
        #expect(replica.node.download?.snapshot == wanted)
        return (replica, effects)
    }

    private func position(_ effects: [RaftEffect]) -> Int64? {
        for case .send(.fetchSnapshot(let request), _, _) in effects { return request.position }
        return nil
    }

    // MARK: - Taking

    @Test func logStartFollowsTheOlderOfTwoSnapshots() throws {
        var replica = try leader()
        let first = SnapshotID(endOffset: 6, epoch: 1)
        #expect(replica.node.nextSnapshot == SnapshotID(endOffset: 16, epoch: 1))
        for case .advanceLogStart in replica.step(.snapshotTaken(first)) {
            Issue.record("records were removed that a replica a little behind needs")
        }
        let second = SnapshotID(endOffset: 16, epoch: 1)
        let effects = replica.step(.snapshotTaken(second))
        #expect(effects.contains(.advanceLogStart(to: first)))
        #expect(replica.node.log.startOffset == 6)
        #expect(replica.node.log.epochBeforeStart == 1)
        #expect(replica.node.snapshot == second)
        #expect(replica.node.nextSnapshot == nil)
    }

    @Test func snapshotOfUncommittedRecordsIsNotTaken() throws {
        var replica = try leader()
        replica.step(.snapshotTaken(SnapshotID(endOffset: 17, epoch: 1)))
        replica.step(.snapshotTaken(SnapshotID(endOffset: 6, epoch: 0)))
        #expect(replica.node.snapshot == nil)
    }

    // MARK: - Serving

    @Test func replicaWhoseRecordsAreGoneIsSentToTheSnapshot() throws {
        var replica = try leader()
        let first = SnapshotID(endOffset: 6, epoch: 1)
        let second = SnapshotID(endOffset: 16, epoch: 1)
        replica.step(.snapshotTaken(first))
        replica.step(.snapshotTaken(second))
        let gone = replica.fetch(by: Replica.key(3), at: 5, lastEpoch: 1)
        #expect(gone.fetchOutcomes == [.snapshot(second)])
        // Where its log parts from ours can't be told any more.
        let divergent = replica.fetch(by: Replica.key(3), at: 6, lastEpoch: 0)
        #expect(divergent.fetchOutcomes == [.snapshot(second)])
        let atStart = replica.fetch(by: Replica.key(3), at: 6)
        #expect(atStart.fetchOutcomes.isEmpty)
        for id in [first, second] {
            let effects = replica.step(fetchSnapshot(id, by: 3, token: 90))
            #expect(
                effects.contains(
                    .answerSnapshot(
                        RequestToken(rawValue: 90), id, position: 7, maxBytes: 1 << 20)))
        }
        let unknown = SnapshotID(endOffset: 9, epoch: 1)
        guard
            case .fetchSnapshot(let response)? = replica.step(
                fetchSnapshot(unknown, by: 3, token: 91)
            ).answers.first
        else {
            Issue.record("no answer")
            return
        }
        #expect(response.outcome == .notFound)
    }

    @Test func voterThatFetchesASnapshotKeepsTheLeaderInOffice() throws {
        var replica = try leader()
        for _ in 0..<4 {
            replica.pass(.seconds(1))
            replica.step(
                fetchSnapshot(SnapshotID(endOffset: 6, epoch: 1), by: 3, token: 90))
        }
        #expect(replica.node.leader == 1)
        replica.pass(.seconds(4))
        #expect(replica.node.leader == nil)
    }

    private func fetchSnapshot(_ id: SnapshotID, by voter: Int32, token: UInt64) -> RaftInput {
        .request(
            .fetchSnapshot(
                FetchSnapshotRequest(
                    replica: Replica.key(voter), epoch: 1, snapshot: id, position: 7)),
            token: RequestToken(rawValue: token))
    }

    // MARK: - Fetching

    @Test func snapshotIsFetchedInPiecesAndTakesThePlaceOfTheLog() throws {
        var (replica, effects) = try downloader()
        #expect(position(effects) == 0)
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 40, size: 100))
        #expect(effects.contains(.appendSnapshotChunk(wanted, position: 0, isLast: false)))
        #expect(position(effects) == 40)
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 40, count: 60, size: 100))
        #expect(effects.contains(.appendSnapshotChunk(wanted, position: 40, isLast: true)))
        #expect(effects.sentFetch == nil)
        let voters = try Replica.set(1, 2)
        effects = replica.step(.snapshotInstalled(wanted, voters: voters))
        let steps = effects.filter {
            if case .send = $0 { false } else { true }
        }
        #expect(
            steps == [
                .resetLog(to: wanted), .loadSnapshot(wanted), .advanceHighWatermark(to: 50),
                .votersChanged(voters),
            ])
        #expect(replica.node.log.endOffset == 50)
        #expect(replica.node.log.lastEpoch == 3)
        #expect(replica.node.voterSet == voters)
        guard case .send(.fetch(let request), _, _)? = effects.last else {
            Issue.record("the log is not fetched on")
            return
        }
        #expect(request.fetchOffset == 50)
        #expect(request.lastFetchedEpoch == 3)
    }

    @Test func pieceThatFailedIsAskedForAgain() throws {
        var (replica, effects) = try downloader()
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 40, size: 100))
        let (id, _) = try #require(effects.sentFetch)
        replica.step(.requestFailed(id))
        #expect(position(replica.pass(.milliseconds(100))) == 40)
    }

    @Test func progressCountsAsHearingFromTheLeader() throws {
        var (replica, effects) = try downloader()
        for piece in 0..<10 as Range<Int64> {
            replica.pass(.milliseconds(900))
            effects = try replica.answer(
                effects, snapshot: .chunk(position: piece, count: 1, size: 100))
        }
        #expect(replica.node.leader == 1)
        #expect(replica.node.download?.position == 10)
    }

    @Test func leaderIsStillAskedWhileASnapshotIsVerified() throws {
        var (replica, effects) = try downloader()
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 9, size: 9))
        for _ in 0..<10 {
            effects = replica.pass(.milliseconds(600))
            effects = try replica.answer(effects, .snapshot(wanted))
        }
        #expect(replica.node.leader == 1)
        effects = replica.step(.snapshotInstalled(wanted, voters: try Replica.set(1, 2, 3)))
        #expect(effects.contains(.resetLog(to: wanted)))
    }

    @Test func anotherSnapshotOrLeaderStartsAgain() throws {
        var (replica, effects) = try downloader()
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 40, size: 100))
        effects = try replica.answer(effects, snapshot: .notFound)
        #expect(effects.contains(.discardSnapshotDownload))
        effects = replica.pass(.milliseconds(100))
        let newer = SnapshotID(endOffset: 80, epoch: 3)
        effects = try replica.answer(effects, .snapshot(newer))
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 40, size: 100))
        let begin = BeginQuorumEpochRequest(leader: 3, epoch: 4, voter: Replica.key(2))
        effects = replica.step(
            .request(.beginQuorumEpoch(begin), token: replica.newToken()))
        #expect(effects.contains(.discardSnapshotDownload))
        effects = try replica.answer(effects, .snapshot(newer))
        #expect(position(effects) == 0)
    }

    @Test func piecesThatDoNotFitAreNotTaken() throws {
        let bad: [FetchSnapshotResponse.Outcome] = [
            .chunk(position: 1, count: 5, size: 100), .chunk(position: 0, count: 101, size: 100),
            .chunk(position: 0, count: -1, size: 100), .chunk(position: 0, count: 5, size: -9),
            .chunk(position: 0, count: .max, size: .min),
        ]
        for outcome in bad {
            var (replica, effects) = try downloader()
            effects = try replica.answer(effects, snapshot: outcome)
            #expect(effects.contains(.discardSnapshotDownload))
        }
    }

    @Test func snapshotThatCannotBeWrittenIsFetchedFromTheStart() throws {
        var (replica, effects) = try downloader()
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 9, size: 9))
        effects = replica.step(.snapshotFailed(wanted))
        #expect(effects.contains(.discardSnapshotDownload))
        effects = try replica.answer(replica.pass(.milliseconds(100)), .snapshot(wanted))
        #expect(position(effects) == 0)
    }

    @Test func snapshotOfWhatIsKnownIsIgnored() throws {
        var replica = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2, 3), epoch: 3, leader: 1,
            log: try Replica.log(1, 1, 3))
        var effects = try replica.answer(
            replica.step(.timePassed), .records([], highWatermark: 3, logStartOffset: 0))
        let old = SnapshotID(endOffset: 3, epoch: 3)
        effects = try replica.answer(effects, .snapshot(old))
        #expect(replica.node.download == nil)
        for case .resetLog in replica.step(.snapshotInstalled(old, voters: nil)) {
            Issue.record("committed records dropped")
        }
        #expect(replica.node.voterSet?.count == 3)
    }

    /// What was acknowledged to a later leader meanwhile must not go.
    @Test func logThatReachedTheSnapshotMeanwhileIsKept() throws {
        var (replica, effects) = try downloader()
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 9, size: 9))
        let begin = BeginQuorumEpochRequest(leader: 3, epoch: 4, voter: Replica.key(2))
        effects = replica.step(
            .request(.beginQuorumEpoch(begin), token: replica.newToken()))
        effects = try replica.answer(
            effects,
            .records(
                [
                    BatchSpan(baseOffset: 0, lastOffset: 49, epoch: 3),
                    BatchSpan(baseOffset: 50, lastOffset: 59, epoch: 4),
                ], highWatermark: nil, logStartOffset: 0))
        replica.sync()
        effects = replica.step(.snapshotInstalled(wanted, voters: try Replica.set(1)))
        #expect(effects.contains(.advanceHighWatermark(to: 50)))
        #expect(replica.node.log.endOffset == 60)
        #expect(replica.node.voterSet?.count == 3)
    }

    @Test func reportFromBeforeTheResetIsIgnored() throws {
        var (replica, effects) = try downloader(log: Replica.log(1, 1))
        let truncations = replica.node.log.truncations
        effects = try replica.answer(
            effects, snapshot: .chunk(position: 0, count: 9, size: 9))
        replica.step(.snapshotInstalled(wanted, voters: try Replica.set(1, 2, 3)))
        replica.step(.logDurable(end: 2, truncations: truncations))
        #expect(replica.node.log.durableEnd == 50)
        #expect(replica.node.log.truncations == truncations + 1)
    }

    // MARK: - Restarting

    @Test func restartBetweenInstallationAndResetFinishesIt() throws {
        var replica = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2), epoch: 3, leader: 1,
            log: try Replica.log(1, 1, 2), snapshot: wanted)
        let effects = replica.step(.timePassed)
        #expect(
            Array(effects.prefix(3)) == [
                .resetLog(to: wanted), .loadSnapshot(wanted), .advanceHighWatermark(to: 50),
            ])
        #expect(replica.node.log.startOffset == 50)
        #expect(replica.node.voterSet?.count == 2)
    }

    @Test func restartWithinTheLogKeepsIt() throws {
        let id = SnapshotID(endOffset: 2, epoch: 1)
        var replica = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2), epoch: 3, leader: 1,
            log: try Replica.log(1, 1, 2), snapshot: id)
        let effects = replica.step(.timePassed)
        #expect(Array(effects.prefix(2)) == [.loadSnapshot(id), .advanceHighWatermark(to: 2)])
        #expect(replica.node.log.endOffset == 3)
        // A log that starts where the snapshot ends learns its last epoch from it.
        let cut = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2), epoch: 3, leader: 1,
            log: try Replica.log(2, from: 2), snapshot: id)
        #expect(cut.node.log.epochBeforeStart == 1)
        #expect(cut.node.log.endOffset == 3)
    }

    @Test func logStartMovesAcrossEpochs() throws {
        var replica = SingleReplica(
            Replica.key(1), voters: try Replica.set(1), epoch: 4,
            log: try Replica.log(1, 1, 2, 2, 4, 4))
        _ = replica.becomeLeader()
        replica.sync()
        replica.step(.snapshotTaken(SnapshotID(endOffset: 3, epoch: 2)))
        replica.step(.snapshotTaken(SnapshotID(endOffset: 6, epoch: 4)))
        let log = replica.node.log
        #expect(log.startOffset == 3)
        #expect(log.epochBeforeStart == 2)
        #expect(log.epochs.map(\.startOffset) == [3, 4, 6])
        #expect(log.end(of: 1) == EpochEnd(epoch: .none, endOffset: 3))
    }
}
