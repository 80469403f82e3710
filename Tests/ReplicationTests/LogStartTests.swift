import Essentials
import Replication
import Testing

/// P18: log starts never fall, never pass the high watermark, and reach every replica.
@Suite("Log start")
struct LogStartTests {
    private func leader(
        isr: [NodeID] = [1, 2, 3], eligible: [NodeID] = []
    ) -> PartitionLeader {
        var assignment = PartitionAssignment(
            replicas: [1, 2, 3], isr: isr, leader: 1, leaderEpoch: 5, partitionEpoch: 10)
        assignment.eligibleLeaderReplicas = eligible
        var brokers: [NodeID: BrokerStatus] = [:]
        for id: NodeID in [1, 2, 3] { brokers[id] = BrokerStatus(epoch: 7, isActive: true) }
        return PartitionLeader(
            id: 1, assignment: assignment, configuration: .init(minInSyncReplicas: 1),
            brokers: brokers, logStartOffset: 0, logEndOffset: 10, durableEnd: 10,
            highWatermark: 10, now: .zero)
    }

    private func fetch(
        by follower: NodeID, at position: Offset = 10, start: Offset?
    ) -> FollowerFetch {
        FollowerFetch(
            follower: follower, brokerEpoch: 7, leaderEpoch: 5, position: position,
            lastFetchedEpoch: .none, durableEnd: position, logStartOffset: start,
            highWatermark: position)
    }

    @Test("A follower that starts lower has something to hear, as far as it can follow")
    func news() {
        var leader = leader()
        #expect(!leader.hasNews(for: fetch(by: 2, start: 0)))
        leader.startMoved(to: 6)
        #expect(leader.hasNews(for: fetch(by: 2, start: 0)))
        #expect(leader.hasNews(for: fetch(by: 2, start: 5)))
        #expect(!leader.hasNews(for: fetch(by: 2, start: 6)))
        #expect(!leader.hasNews(for: fetch(by: 2, start: 8)))
        #expect(!leader.hasNews(for: fetch(by: 2, start: nil)))
        leader.startMoved(to: 3)
        #expect(leader.logStartOffset == 6)
    }

    @Test("The least start in the ISR is known once all have told theirs")
    func least() {
        var leader = leader()
        leader.startMoved(to: 6)
        let epochEnd: (LeaderEpoch) -> EpochEnd = { EpochEnd(epoch: $0, endOffset: 10) }
        #expect(leader.leastLogStart == 0)
        _ = leader.fetched(fetch(by: 2, start: 6), epochEnd: epochEnd, now: .zero)
        #expect(leader.leastLogStart == 0)
        _ = leader.fetched(fetch(by: 3, start: 4), epochEnd: epochEnd, now: .zero)
        #expect(leader.leastLogStart == 4)
        _ = leader.fetched(fetch(by: 3, start: 9), epochEnd: epochEnd, now: .zero)
        #expect(leader.leastLogStart == 6)
    }

    @Test(
        "Whoever may be in the ISR by now, or may lead though it isn't, counts for the least start")
    func leastOfAllThatMayLead() {
        var leader = leader(isr: [1, 2], eligible: [])
        leader.startMoved(to: 6)
        let epochEnd: (LeaderEpoch) -> EpochEnd = { EpochEnd(epoch: $0, endOffset: 10) }
        _ = leader.fetched(fetch(by: 2, start: 6), epochEnd: epochEnd, now: .zero)
        #expect(leader.leastLogStart == 6)
        // It has caught up, and is proposed: the controller may have it in the ISR before we hear of it.
        let (_, effects) = leader.fetched(
            fetch(by: 3, start: 0), epochEnd: epochEnd, now: .zero)
        #expect(effects.contains { if case .propose = $0 { true } else { false } })
        #expect(leader.leastLogStart == 0)
        var alone = self.leader(isr: [1], eligible: [2])
        alone.startMoved(to: 6)
        #expect(alone.leastLogStart == 0)
    }

    @Test("A follower's start neither falls nor passes the end of its log")
    func follower() {
        var follower = PartitionFollower(
            leader: 1, leaderEpoch: 5, logStartOffset: 2, logEndOffset: 10, durableEnd: 10,
            lastEpoch: 5, highWatermark: 8)
        follower.startMoved(to: 6)
        #expect(follower.logStartOffset == 6 && follower.position.logStartOffset == 6)
        follower.startMoved(to: 4)
        #expect(follower.logStartOffset == 6)
        follower.startMoved(to: 99)
        #expect(follower.logStartOffset == 10 && follower.highWatermark == 10)
        follower.checkInvariants()
    }
}
