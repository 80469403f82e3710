import Essentials
import Replication
import Testing

@Suite("High watermark")
struct HighWatermarkTests {
    @Test func slowestInSyncReplicaHoldsItBack() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        #expect(leader.fetch(by: 3, at: 3).effects == [.advanceHighWatermark(to: 3)])
        #expect(leader.fetch(by: 3, at: 5).effects == [.advanceHighWatermark(to: 5)])
    }

    @Test func onlyWhatAFollowerHasMadeDurableCounts() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5, durable: 4).effects == [])
        #expect(leader.fetch(by: 3, at: 5, durable: 2).effects == [.advanceHighWatermark(to: 2)])
    }

    @Test func theLeadersOwnAppendCountsOnlyOnceItIsDurable() {
        let leader = LeaderHarness(replicas: [1], isr: [1])
        #expect(leader.append(to: 5) == [])
        #expect(leader.flush(to: 3) == [.advanceHighWatermark(to: 3)])
        #expect(leader.flush(to: 5) == [.advanceHighWatermark(to: 5)])
    }

    @Test func underALazyFlushPolicyTheAppendCounts() {
        let leader = LeaderHarness(replicas: [1, 2], isr: [1, 2], countsDurableOnly: false)
        #expect(leader.append(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5, durable: 0).effects == [.advanceHighWatermark(to: 5)])
    }

    @Test func neverFallsWhenAFollowerReturnsWithLess() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [.advanceHighWatermark(to: 5)])
        #expect(leader.fetch(by: 3, at: 1, brokerEpoch: 301).effects == [])
        #expect(leader.leader.highWatermark == 5)
        #expect(leader.write(to: 9) == [])
    }

    @Test("P5: stands still below the minimum ISR, whoever is eligible to lead")
    func standsStillBelowTheMinimumISR() {
        let leader = LeaderHarness(isr: [1], elr: [2])
        #expect(leader.write(to: 5) == [])
        #expect(leader.metadata(isr: [1, 2]) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [.advanceHighWatermark(to: 5)])
    }

    @Test("P4: waits for the eligible leaders even when the ISR is large enough")
    func waitsForEligibleLeaderReplicas() {
        let leader = LeaderHarness(isr: [1], elr: [2], minISR: 1)
        #expect(leader.write(to: 5) == [])
        #expect(leader.metadata(isr: [1]) == [.advanceHighWatermark(to: 5)])
    }

    @Test("L19: a minimum above the replica count asks for all replicas, and changes at run time")
    func minimumISRIsAtMostTheReplicaCount() {
        let leader = LeaderHarness(replicas: [1, 2], isr: [1, 2], minISR: 3)
        #expect(!leader.leader.isBelowMinISR)
        #expect(leader.metadata(isr: [1], elr: [2]) == [.fellBelowMinISR])
        #expect(leader.leader.isBelowMinISR)
        #expect(leader.write(to: 4) == [])
        // The controller clears the ELR in the decision that lowers the minimum.
        #expect(leader.minISR(1) == [])
        #expect(leader.metadata(isr: [1]) == [.advanceHighWatermark(to: 4)])
    }

    @Test("L20: falling below the minimum with records waiting is reported, once")
    func fallingBelowTheMinimumIsReported() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.metadata(isr: [1], elr: [2, 3]) == [.fellBelowMinISR])
        #expect(leader.metadata(isr: [1], elr: [2]) == [])
    }

    @Test("L29: the latest offset is unknown until the HW reaches the epoch's start")
    func latestOffsetIsUnknownBeforeTheEpochStart() {
        let leader = LeaderHarness(logEnd: 8, highWatermark: 3)
        #expect(leader.start() == [])
        #expect(leader.leader.latestOffset == nil)
        #expect(leader.fetch(by: 2, at: 8).effects == [])
        #expect(leader.fetch(by: 3, at: 7).effects == [.advanceHighWatermark(to: 7)])
        #expect(leader.leader.latestOffset == nil)
        #expect(leader.fetch(by: 3, at: 8).effects == [.advanceHighWatermark(to: 8)])
        #expect(leader.leader.latestOffset == 8)
    }

    @Test func aSoleReplicaCommitsWhatItHoldsAsSoonAsItLeads() {
        let leader = LeaderHarness(replicas: [1], isr: [1], logEnd: 8, highWatermark: 3)
        #expect(leader.start() == [.advanceHighWatermark(to: 8)])
    }

    @Test("L5: a shrink the controller never hears of does not let the HW pass a dead follower")
    func aShrinkThatIsNotAppliedHoldsTheHighWatermark() {
        let leader = LeaderHarness()
        #expect(leader.fetch(by: 2, at: 0).effects == [])
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        leader.now = leader.now + .seconds(11)
        let effects = leader.fetch(by: 2, at: 5).effects
        #expect(effects == [leader.proposal([1, 2])])
        #expect(leader.settled(1, .unknown) == [])
        #expect(leader.leader.highWatermark == 0)
        #expect(leader.wait(.seconds(1)) == [leader.proposal([1, 2], attempt: 2)])
        #expect(leader.leader.highWatermark == 0)
    }
}
