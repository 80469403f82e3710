import Essentials
import Replication
import Testing

@Suite("In-sync replicas")
struct InSyncReplicasTests {
    // MARK: Shrinking

    @Test("L6: a follower silent for just less than the lag time stays, for just more goes")
    func aSilentFollowerLeavesAfterTheLagTime() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        #expect(leader.wait(.seconds(10)) == [])
        #expect(leader.leader.nextDeadline == leader.now + .nanoseconds(1))
        #expect(leader.wait(.nanoseconds(1)) == [leader.proposal([1, 2])])
        // Until the controller has accepted, the HW waits for the silent one.
        #expect(leader.leader.highWatermark == 0)
        let accepted = leader.accepted(1, isr: [1, 2], partitionEpoch: 11)
        // Who left may be eligible to lead until the metadata log says that it is not.
        #expect(accepted == [])
        #expect(
            leader.metadata(isr: [1, 2], partitionEpoch: 11) == [.advanceHighWatermark(to: 5)])
    }

    @Test func aSilentFollowerWithNothingToFetchStays() {
        let leader = LeaderHarness()
        #expect(leader.fetch(by: 2, at: 0).effects == [])
        #expect(leader.fetch(by: 3, at: 0).effects == [])
        #expect(leader.wait(.seconds(3600)) == [])
        #expect(leader.leader.nextDeadline == nil)
    }

    @Test func aFollowerAlwaysAMomentBehindABusyLeaderStays() {
        let leader = LeaderHarness(replicas: [1, 2], isr: [1, 2])
        var end: Offset = 0
        var follower: Offset = 0
        for _ in 0..<200 {
            end += 10
            leader.now = leader.now + .milliseconds(100)
            let proposals = leader.write(to: end).filter(isProposal)
            let fetched = leader.fetch(by: 2, at: follower).effects.filter(isProposal)
            #expect(proposals == [] && fetched == [])
            follower = end
        }
    }

    @Test func aFollowerThatFetchesButFallsEverFurtherBehindLeaves() {
        let leader = LeaderHarness(replicas: [1, 2, 3], isr: [1, 2, 3])
        var proposed = false
        for step in 1...600 where !proposed {
            let end = Offset(Int64(step) * 10)
            leader.now = leader.now + .milliseconds(100)
            let written = leader.write(to: end)
            let two = leader.fetch(by: 2, at: end).effects
            let three = leader.fetch(by: 3, at: Offset(Int64(step) * 5)).effects
            proposed = (written + two + three).contains(leader.proposal([1, 2]))
        }
        #expect(proposed)
    }

    @Test("D12: a follower that appends but does not get it to its disk leaves, too")
    func aFollowerWithASlowDiskLeaves() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        #expect(leader.fetch(by: 3, at: 5, durable: 0).effects == [])
        leader.now = leader.now + .seconds(11)
        #expect(leader.fetch(by: 2, at: 5).effects == [leader.proposal([1, 2])])
    }

    // MARK: Growing

    @Test("P11, P12: a follower at the HW and the epoch's start joins, and counts at once")
    func aCaughtUpFollowerJoinsAndCountsAtOnce() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [.advanceHighWatermark(to: 5)])
        #expect(leader.fetch(by: 3, at: 4).effects == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.write(to: 8) == [])
        #expect(leader.fetch(by: 2, at: 8).effects == [])
        #expect(leader.leader.highWatermark == 5)
        #expect(leader.fetch(by: 3, at: 8).effects == [.advanceHighWatermark(to: 8)])
    }

    @Test func whatIsNotDurableDoesNotCountForJoining() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [.advanceHighWatermark(to: 5)])
        #expect(leader.fetch(by: 3, at: 5, durable: 4).effects == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [leader.proposal([1, 2, 3])])
    }

    @Test(
        "P11: a replica that the controller calls offline does not join, and is then heard from anew"
    )
    func anOfflineReplicaDoesNotJoin() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [.advanceHighWatermark(to: 5)])
        #expect(leader.metadata(isr: [1, 2], offline: [3]) == [])
        // Nor when it still fetches.
        #expect(leader.fetch(by: 3, at: 5).effects == [])
        #expect(leader.wait(.seconds(1)) == [])
        // It is cut back, and back in use: what it had is not what it has.
        #expect(leader.metadata(isr: [1, 2]) == [])
        #expect(leader.wait(.seconds(1)) == [])
        #expect(leader.fetch(by: 3, at: 2).effects == [])
        let joins = leader.proposal([1, 2, 3], partitionEpoch: 12)
        #expect(leader.fetch(by: 3, at: 5).effects == [joins])
    }

    @Test("P11: who leaves the ISR by another's decision joins only with what it has afterwards")
    func whoIsRemovedIsHeardFromAnew() {
        let leader = LeaderHarness()
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [.advanceHighWatermark(to: 5)])
        #expect(leader.metadata(isr: [1, 2]) == [])
        #expect(leader.wait(.seconds(1)) == [])
        #expect(leader.fetch(by: 3, at: 2).effects == [])
        let joins = leader.proposal([1, 2, 3], partitionEpoch: 11)
        #expect(leader.fetch(by: 3, at: 5).effects == [joins])
    }

    @Test(
        "L7, B2: a crashed follower's new incarnation joins with what it has, not with what it had")
    func aNewIncarnationIsMeasuredAnew() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.settled(1, .refused) == [])
        // The unsynced suffix is gone; the registration under epoch 301 is known.
        #expect(leader.broker(3, epoch: 301) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [.advanceHighWatermark(to: 5)])
        #expect(leader.wait(.seconds(1)) == [])
        #expect(leader.fetch(by: 3, at: 2).effects == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [leader.proposal([1, 2, 3], attempt: 2)])
    }

    @Test("B3: a late fetch of an older incarnation counts for nothing")
    func aStaleIncarnationsFetchIsRefused() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.broker(3, epoch: 301) == [])
        let late = leader.fetch(by: 3, at: 0, brokerEpoch: 300)
        #expect(late.verdict == .refused(.staleBrokerEpoch))
        #expect(late.effects == [])
        // The newer one has been heard before its registration was.
        #expect(leader.fetch(by: 3, at: 0, brokerEpoch: 302).effects == [])
        #expect(leader.fetch(by: 3, at: 0).verdict == .refused(.staleBrokerEpoch))
    }

    @Test func aFencedOrDepartingBrokerDoesNotJoin() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.broker(3, active: false) == [])
        #expect(leader.fetch(by: 3, at: 0).effects == [])
        #expect(leader.broker(3) == [leader.proposal([1, 2, 3])])
    }

    @Test("L14: a follower at the HW but below the epoch's start is not admitted")
    func aFollowerBelowTheEpochStartIsNotAdmitted() {
        let leader = LeaderHarness(isr: [1, 2], logEnd: 8, highWatermark: 3)
        for _ in 0..<20 {
            leader.now = leader.now + .milliseconds(100)
            #expect(leader.fetch(by: 3, at: 4).effects == [])
        }
        #expect(leader.fetch(by: 3, at: 8).effects == [leader.proposal([1, 2, 3])])
    }

    @Test(
        "L11, L12: what a follower said in an earlier epoch, or before it was removed, is forgotten"
    )
    func nothingOfAnEarlierEpochCounts() {
        let before = LeaderHarness(isr: [1, 2], epoch: 5)
        #expect(before.fetch(by: 3, at: 0).effects == [before.proposal([1, 2, 3])])
        // Re-elected with nothing appended; removing a replica raises the leader epoch as well.
        let after = LeaderHarness(isr: [1, 2], epoch: 6)
        #expect(after.start() == [])
        #expect(after.wait(.seconds(1)) == [])
        #expect(
            after.fetch(by: 3, at: 0, leaderEpoch: 5).verdict == .refused(.fencedLeaderEpoch))
        #expect(after.wait(.seconds(1)) == [])
        #expect(after.fetch(by: 3, at: 0).effects == [after.proposal([1, 2, 3])])
    }

    // MARK: One change in flight

    @Test("L13: growth sent and unanswered; the newcomer holds all that is committed meanwhile")
    func unansweredGrowthKeepsCounting() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        #expect(leader.settled(1, .unknown) == [])
        #expect(leader.leader.highWatermark == 0)
        #expect(leader.leader.awaitedReplicas == [1, 2, 3])
        #expect(leader.metadata(isr: [1, 2, 3]) == [])
        #expect(leader.fetch(by: 3, at: 5).effects == [.advanceHighWatermark(to: 5)])
    }

    @Test func onlyOneProposalIsInFlight() {
        let leader = LeaderHarness(replicas: [1, 2, 3, 4], isr: [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.fetch(by: 4, at: 0).effects == [])
        let next = leader.accepted(1, isr: [1, 2, 3], partitionEpoch: 11)
        #expect(next == [leader.proposal([1, 2, 3, 4], attempt: 2, partitionEpoch: 11)])
    }

    @Test(
        "B11: the controller fenced a member first; the larger set stays until metadata settles it")
    func anOutdatedProposalKeepsTheLargerSet() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.write(to: 5) == [])
        #expect(leader.fetch(by: 2, at: 5).effects == [])
        #expect(leader.settled(1, .outdated) == [])
        #expect(leader.leader.awaitedReplicas == [1, 2, 3])
        #expect(leader.broker(3, active: false) == [])
        #expect(leader.metadata(isr: [1, 2]) == [.advanceHighWatermark(to: 5)])
    }

    @Test("B12: applied, the answer lost: metadata tells, and the late answer changes nothing")
    func aLostAnswerIsLearntFromMetadata() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.settled(1, .unknown) == [])
        #expect(leader.metadata(isr: [1, 2, 3]) == [])
        #expect(leader.metadata(isr: [1, 2]) == [])
        #expect(
            leader.fetch(by: 3, at: 0).effects == [
                leader.proposal([1, 2, 3], attempt: 2, partitionEpoch: 12)
            ])
        #expect(leader.accepted(1, isr: [1, 2, 3], partitionEpoch: 11) == [])
        #expect(leader.leader.assignment.isr == [1, 2])
        #expect(leader.settled(1, .refused) == [])
        #expect(leader.leader.awaitedReplicas == [1, 2, 3])
    }

    @Test("B12: a refusal of the second attempt says nothing of the first, whose answer is missing")
    func anEarlierAttemptStaysOpenUntilThePartitionEpochMoves() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.settled(1, .unknown) == [])
        #expect(leader.wait(.milliseconds(100)) == [leader.proposal([1, 2, 3], attempt: 2)])
        #expect(leader.settled(2, .refused) == [])
        #expect(leader.leader.awaitedReplicas == [1, 2, 3])
        // Even the plain old set is asked for again, to close the first attempt.
        #expect(leader.broker(3, active: false) == [])
        #expect(leader.wait(.milliseconds(100)) == [leader.proposal([1, 2], attempt: 3)])
        #expect(leader.accepted(3, isr: [1, 2], partitionEpoch: 11) == [])
        #expect(leader.leader.awaitedReplicas == [1, 2])
    }

    @Test func aRefusedProposalIsOverAndIsRepeatedAfterAWhile() {
        let leader = LeaderHarness(isr: [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [leader.proposal([1, 2, 3])])
        #expect(leader.settled(1, .refused) == [])
        #expect(leader.leader.awaitedReplicas == [1, 2])
        #expect(leader.fetch(by: 3, at: 0).effects == [])
        #expect(leader.leader.nextDeadline == leader.now + .milliseconds(100))
        #expect(leader.wait(.milliseconds(100)) == [leader.proposal([1, 2, 3], attempt: 2)])
    }

    private func isProposal(_ effect: PartitionLeader.Effect) -> Bool {
        switch effect {
        case .propose: true
        case .advanceHighWatermark, .fellBelowMinISR: false
        }
    }
}
