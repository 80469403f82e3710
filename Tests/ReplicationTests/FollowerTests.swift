import Essentials
import Replication
import Testing

/// A follower of leader 1 with the epochs of its log, behind a reference.
private final class FollowerHarness {
    private(set) var follower: PartitionFollower
    var epochs: [(epoch: LeaderEpoch, start: Offset)]

    init(
        epochs: [(epoch: LeaderEpoch, start: Offset)], logStart: Offset = 0, logEnd: Offset,
        durable: Offset? = nil, highWatermark: Offset = 0, leaderEpoch: LeaderEpoch = 9
    ) {
        self.epochs = epochs
        follower = PartitionFollower(
            leader: 1, leaderEpoch: leaderEpoch, logStartOffset: logStart, logEndOffset: logEnd,
            durableEnd: durable ?? logEnd, lastEpoch: epochs.last?.epoch ?? .none,
            highWatermark: highWatermark)
    }

    private func epochEnd(_ epoch: LeaderEpoch, of follower: PartitionFollower) -> EpochEnd {
        guard let index = epochs.lastIndex(where: { $0.epoch <= epoch }) else {
            return EpochEnd(epoch: .none, endOffset: follower.logStartOffset)
        }
        let end = index + 1 < epochs.count ? epochs[index + 1].start : follower.logEndOffset
        return EpochEnd(epoch: epochs[index].epoch, endOffset: end)
    }

    func receive(
        _ content: PartitionFollower.Answer.Content, at offset: Offset? = nil,
        epoch: LeaderEpoch? = nil, lastFetched: LeaderEpoch? = nil, highWatermark: Offset = 0,
        logStart: Offset = 0
    ) -> PartitionFollower.Action {
        let before = follower
        let action = follower.received(
            .init(
                leaderEpoch: epoch ?? follower.leaderEpoch,
                fetchOffset: offset ?? follower.logEndOffset,
                lastFetchedEpoch: lastFetched ?? follower.lastEpoch, highWatermark: highWatermark,
                logStartOffset: logStart, content: content), epochEnd: { epochEnd($0, of: before) })
        follower.checkInvariants()
        return action
    }

    func batches(_ base: Offset, _ end: Offset, _ epoch: LeaderEpoch, to last: LeaderEpoch? = nil)
        -> PartitionFollower.Answer.Content
    {
        .batches(
            .init(baseOffset: base, endOffset: end, firstEpoch: epoch, lastEpoch: last ?? epoch))
    }

    func append(to end: Offset, epoch: LeaderEpoch) {
        if epochs.last?.epoch != epoch { epochs.append((epoch, follower.logEndOffset)) }
        follower.appended(to: end, lastEpoch: epoch)
        follower.checkInvariants()
    }

    func truncate(to end: Offset) {
        epochs.removeAll { $0.start >= end }
        follower.truncated(to: end, durableEnd: end, lastEpoch: epochs.last?.epoch ?? .none)
        follower.checkInvariants()
    }

    func diverging(_ epoch: LeaderEpoch, _ end: Offset) -> PartitionFollower.Answer.Content {
        .diverging(EpochEnd(epoch: epoch, endOffset: end))
    }
}

@Suite("Follower")
struct FollowerTests {
    @Test func asksForItsEndWithItsNewestEpochAndTellsItsDurableEnd() {
        let harness = FollowerHarness(
            epochs: [(2, 0), (3, 5)], logEnd: 8, durable: 6, highWatermark: 4)
        #expect(
            harness.follower.position
                == .init(
                    leaderEpoch: 9, offset: 8, lastFetchedEpoch: 3, durableEnd: 6,
                    logStartOffset: 0, highWatermark: 4))
    }

    @Test func carriesTheHighWatermarkUpToItsOwnEnd() {
        let harness = FollowerHarness(epochs: [], logEnd: 0)
        #expect(harness.receive(harness.batches(0, 5, 9), highWatermark: 8) == .append)
        harness.append(to: 5, epoch: 9)
        #expect(harness.follower.highWatermark == 5)
        #expect(harness.receive(harness.batches(5, 10, 9), highWatermark: 8) == .append)
        harness.append(to: 10, epoch: 9)
        #expect(harness.follower.highWatermark == 8)
        // It does not fall with an answer that was built earlier.
        #expect(harness.receive(.batches(nil), highWatermark: 6) == .nothingNew)
        #expect(harness.follower.highWatermark == 8)
    }

    @Test("P7, L8: a record above the HW survives becoming a follower, and is not cut by the HW")
    func nothingIsTruncatedByHighWatermark() {
        let harness = FollowerHarness(epochs: [(8, 0)], logEnd: 6, highWatermark: 5)
        #expect(harness.follower.position.offset == 6)
        #expect(harness.receive(.batches(nil), highWatermark: 5) == .nothingNew)
        #expect(harness.follower.logEndOffset == 6)
    }

    @Test("L9: the suffix of an epoch that the leader ended earlier goes")
    func aDivergingSuffixOfACommonEpochIsCutAtTheLeadersEnd() {
        let harness = FollowerHarness(epochs: [(4, 0), (5, 3)], logEnd: 9, highWatermark: 3)
        #expect(harness.receive(harness.diverging(5, 6)) == .truncate(to: 6))
        harness.truncate(to: 6)
        #expect(harness.follower.position.offset == 6)
        #expect(harness.follower.position.lastFetchedEpoch == 5)
    }

    @Test("L10: an epoch unknown to the leader goes, and the one before is compared next")
    func anEpochTheLeaderLacksIsCutInSteps() {
        // Epoch 6 was led without the leader's knowledge; the leader has 5 up to 4, we up to 6.
        let harness = FollowerHarness(epochs: [(3, 0), (5, 2), (6, 6)], logEnd: 9)
        #expect(harness.receive(harness.diverging(5, 4)) == .truncate(to: 4))
        // A leader that lacks 5 as well names 4, which we never saw: our 3 ends at 2.
        let other = FollowerHarness(epochs: [(3, 0), (5, 2), (6, 6)], logEnd: 9)
        #expect(other.receive(other.diverging(4, 7)) == .truncate(to: 2))
    }

    @Test("L10: an epoch without records is cut as well, or the two would argue for ever")
    func anEmptyEpochIsCut() {
        let harness = FollowerHarness(epochs: [(3, 0), (5, 4)], logEnd: 4)
        #expect(harness.follower.position.lastFetchedEpoch == 5)
        #expect(harness.receive(harness.diverging(3, 4)) == .truncate(to: 4))
        harness.truncate(to: 4)
        #expect(harness.follower.position.lastFetchedEpoch == 3)
    }

    @Test("P8: a diverging answer moves neither HW nor log start")
    func aDivergingAnswerMovesNothingElse() {
        let harness = FollowerHarness(epochs: [(4, 0)], logEnd: 9, highWatermark: 2)
        #expect(
            harness.receive(harness.diverging(4, 6), highWatermark: 6, logStart: 5)
                == .truncate(to: 6))
        #expect(harness.follower.highWatermark == 2)
        #expect(harness.follower.logStartOffset == 0)
    }

    @Test("P9, L21: a late or repeated answer is ignored")
    func onlyTheAnswerToTheCurrentQuestionCounts() {
        let harness = FollowerHarness(epochs: [(9, 0)], logEnd: 5)
        #expect(harness.receive(harness.batches(5, 8, 9)) == .append)
        harness.append(to: 8, epoch: 9)
        #expect(harness.receive(harness.batches(5, 8, 9), at: 5) == .ignore)
        #expect(harness.receive(harness.diverging(8, 2), at: 5) == .ignore)
        #expect(harness.receive(harness.batches(8, 9, 8), epoch: 8) == .ignore)
        #expect(harness.receive(.batches(nil), epoch: 10, highWatermark: 8) == .ignore)
        #expect(harness.follower.highWatermark == 0)
    }

    @Test("L21: a late divergence is ignored though the log has its old length again")
    func aLateDivergenceIsIgnored() {
        let harness = FollowerHarness(epochs: [(3, 0)], logEnd: 8)
        #expect(harness.receive(harness.diverging(3, 4)) == .truncate(to: 4))
        harness.truncate(to: 4)
        #expect(harness.receive(harness.batches(4, 8, 9)) == .append)
        harness.append(to: 8, epoch: 9)
        #expect(harness.receive(harness.diverging(3, 4), lastFetched: 3) == .ignore)
    }

    @Test("P10, L22: batches that break a rule are refused")
    func impossibleBatchesAreRefused() {
        let harness = FollowerHarness(epochs: [(4, 0), (6, 3)], logEnd: 5)
        #expect(harness.receive(harness.batches(4, 8, 9), at: 5) == .refuse(.notContiguous))
        #expect(harness.receive(harness.batches(5, 5, 9)) == .refuse(.notContiguous))
        #expect(harness.receive(harness.batches(5, 8, 5)) == .refuse(.impossibleEpoch(5)))
        #expect(harness.receive(harness.batches(5, 8, 9, to: 10)) == .refuse(.impossibleEpoch(10)))
        #expect(harness.receive(harness.batches(5, 8, 8, to: 7)) == .refuse(.impossibleEpoch(7)))
        // Compaction leaves gaps.
        #expect(harness.receive(harness.batches(7, 8, 8)) == .append)
    }

    @Test("L23: an end below the leader's start restarts there, and the HW follows")
    func anEndBelowTheLeadersStartRestartsThere() {
        let harness = FollowerHarness(epochs: [(4, 0)], logEnd: 5, highWatermark: 5)
        #expect(harness.receive(.outOfRange, logStart: 40) == .restart(at: 40))
        harness.follower.checkInvariants()
        harness.epochs = []
        var follower = harness.follower
        follower.restarted(at: 40, durableEnd: 40)
        #expect(follower.position.offset == 40)
        #expect(follower.position.lastFetchedEpoch == .none)
        #expect(follower.highWatermark == 40)
    }

    @Test("A log that starts anew may start within the leader's batch")
    func aRestartedLogMayStartWithinABatch() {
        var follower = PartitionFollower(
            leader: 1, leaderEpoch: 9, logStartOffset: 0, logEndOffset: 5, durableEnd: 5,
            lastEpoch: 4, highWatermark: 5)
        follower.restarted(at: 40, durableEnd: 40)
        func receive(_ base: Offset, _ end: Offset) -> PartitionFollower.Action {
            follower.received(
                PartitionFollower.Answer(
                    leaderEpoch: 9, fetchOffset: follower.logEndOffset,
                    lastFetchedEpoch: follower.lastEpoch, highWatermark: 50, logStartOffset: 40,
                    content: .batches(
                        PartitionFollower.Batches(
                            baseOffset: base, endOffset: end, firstEpoch: 9, lastEpoch: 9))),
                epochEnd: { _ in EpochEnd(epoch: .none, endOffset: 0) })
        }
        #expect(receive(36, 40) == .refuse(.notContiguous))
        #expect(receive(36, 44) == .append)
        follower.appended(to: 44, lastEpoch: 9)
        #expect(receive(36, 48) == .refuse(.notContiguous))
    }

    @Test func aFlushThatEndsAfterATruncationCountsForNothing() {
        let harness = FollowerHarness(epochs: [(4, 0)], logEnd: 9, durable: 3)
        #expect(harness.receive(harness.diverging(4, 6)) == .truncate(to: 6))
        harness.truncate(to: 6)
        var follower = harness.follower
        follower.madeDurable(to: 9)
        #expect(follower.durableEnd == 3)
        follower.madeDurable(to: 6)
        #expect(follower.durableEnd == 6)
    }

    @Test func aLogWithNothingInCommonStartsAnewAtItsOwnStart() {
        let harness = FollowerHarness(epochs: [(7, 0)], logEnd: 5)
        #expect(harness.receive(harness.diverging(6, 3)) == .restart(at: 0))
    }
}

@Suite("Leader's answer to a fetch")
struct FetchVerdictTests {
    private func leader() -> LeaderHarness {
        // Epochs 4 from 0, 5 from 10, nothing of 6, 7 from 20.
        let harness = LeaderHarness(epoch: 7, logEnd: 20)
        harness.epochs = [(4, 0), (5, 10), (7, 20)]
        return harness
    }

    @Test func agreeingLogsAreServed() {
        #expect(leader().fetch(by: 2, at: 20, lastFetched: 5).verdict == .serve)
        #expect(leader().fetch(by: 2, at: 12, lastFetched: 5).verdict == .serve)
        #expect(leader().fetch(by: 2, at: 10, lastFetched: 4).verdict == .serve)
        #expect(leader().fetch(by: 2, at: 0, lastFetched: LeaderEpoch.none).verdict == .serve)
    }

    @Test func aLongerOrUnknownEpochDiverges() {
        let longer = leader().fetch(by: 2, at: 12, lastFetched: 4)
        #expect(longer.verdict == .diverging(EpochEnd(epoch: 4, endOffset: 10)))
        let unknown = leader().fetch(by: 2, at: 15, lastFetched: 6)
        #expect(unknown.verdict == .diverging(EpochEnd(epoch: 5, endOffset: 20)))
        let beyond = leader().fetch(by: 2, at: 25, lastFetched: 7)
        #expect(beyond.verdict == .diverging(EpochEnd(epoch: 7, endOffset: 20)))
    }

    @Test("P8: a diverging fetch is not counted")
    func aDivergingFetchIsNotCounted() {
        let harness = LeaderHarness(replicas: [1, 2], isr: [1, 2], epoch: 7, logEnd: 20)
        harness.epochs = [(4, 0), (5, 10), (7, 20)]
        #expect(harness.fetch(by: 2, at: 20, lastFetched: 6).effects == [])
        #expect(harness.leader.highWatermark == 0)
        #expect(
            harness.fetch(by: 2, at: 20, lastFetched: 5).effects
                == [.advanceHighWatermark(to: 20)])
    }

    @Test("P9: only the exact leader epoch is served")
    func onlyTheExactLeaderEpochIsServed() {
        #expect(
            leader().fetch(by: 2, at: 0, leaderEpoch: 6).verdict == .refused(.fencedLeaderEpoch))
        #expect(
            leader().fetch(by: 2, at: 0, leaderEpoch: 8).verdict == .refused(.unknownLeaderEpoch))
        #expect(leader().fetch(by: 9, at: 0).verdict == .refused(.notAReplica))
    }

    @Test("L23: positions where nothing can be compared are out of range")
    func positionsWithoutCommonHistoryAreOutOfRange() {
        let harness = LeaderHarness(
            epoch: 7, logEnd: 20, highWatermark: 20, logStart: 10)
        harness.epochs = [(5, 10), (7, 20)]
        #expect(harness.fetch(by: 2, at: 3, lastFetched: 4).verdict == .refused(.offsetOutOfRange))
        #expect(harness.fetch(by: 2, at: 15, lastFetched: 4).verdict == .refused(.offsetOutOfRange))
        #expect(
            harness.fetch(by: 2, at: 30, lastFetched: LeaderEpoch.none).verdict
                == .refused(.offsetOutOfRange))
    }
}
