import Essentials
import Replication
import Testing

/// A pacer behind a reference, which the test macros need for mutating calls.
private final class Subject {
    private var pacer = FetchPacer()

    var nextDeadline: MonotonicTime? { pacer.nextDeadline }
    func nextFetch(now: MonotonicTime) -> UInt64? { pacer.nextFetch(now: now) }
    func answered(_ id: UInt64, partitions: Int, leaderHasMore: Bool, now: MonotonicTime) {
        pacer.answered(id, partitions: partitions, leaderHasMore: leaderHasMore, now: now)
    }
    func failed(_ id: UInt64, now: MonotonicTime) { pacer.failed(id, now: now) }
    func appended(partitions: Int, unsynced: Int) {
        pacer.appended(partitions: partitions, unsynced: unsynced)
    }
    func flushed(partitions: Int) { pacer.flushed(partitions: partitions) }
    func partitionsChanged() { pacer.partitionsChanged() }
}

struct FetchPacerTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    @Test func theNextFetchWaitsForTheFlushSoThatItCarriesTheDurableEnd() {
        let pacer = Subject()
        #expect(pacer.nextFetch(now: start) == 1)
        #expect(pacer.nextFetch(now: start) == nil)
        pacer.answered(1, partitions: 2, leaderHasMore: false, now: start)
        #expect(pacer.nextFetch(now: start) == nil)
        pacer.appended(partitions: 2, unsynced: 2)
        #expect(pacer.nextFetch(now: start) == nil)
        pacer.flushed(partitions: 2)
        #expect(pacer.nextFetch(now: start) == 2)
    }

    @Test func whenTheLeaderHasMoreTheNextFetchDoesNotWaitForTheFlush() {
        let pacer = Subject()
        #expect(pacer.nextFetch(now: start) == 1)
        pacer.answered(1, partitions: 1, leaderHasMore: true, now: start)
        pacer.appended(partitions: 1, unsynced: 1)
        #expect(pacer.nextFetch(now: start) == 2)
    }

    @Test func aSlowFlushHoldsTheFetchBackOnlySoLongAndItsEndSupersedesTheParkedFetch() {
        let pacer = Subject()
        #expect(pacer.nextFetch(now: start) == 1)
        pacer.answered(1, partitions: 1, leaderHasMore: false, now: start)
        pacer.appended(partitions: 1, unsynced: 1)
        #expect(pacer.nextDeadline == start + .milliseconds(10))
        let later = start + .milliseconds(10)
        #expect(pacer.nextFetch(now: later) == 2)
        #expect(pacer.nextFetch(now: later + .milliseconds(5)) == nil)
        pacer.flushed(partitions: 1)
        #expect(pacer.nextFetch(now: later + .milliseconds(5)) == 3)
        // The parked one is answered empty, the newer one stays parked.
        pacer.answered(2, partitions: 0, leaderHasMore: false, now: later + .milliseconds(5))
        #expect(pacer.nextFetch(now: later + .milliseconds(50)) == nil)
    }

    @Test func aFetchThatIsAboutToBeAnsweredIsNotSuperseded() {
        let pacer = Subject()
        #expect(pacer.nextFetch(now: start) == 1)
        pacer.partitionsChanged()
        #expect(pacer.nextFetch(now: start) == nil)
        #expect(pacer.nextDeadline == start + .milliseconds(1))
    }

    @Test func failuresBackOffAndASuccessForgetsThem() throws {
        let pacer = Subject()
        var now = start
        for wait in [20, 40, 80, 160, 320, 500, 500] {
            let id = try #require(pacer.nextFetch(now: now))
            pacer.failed(id, now: now)
            #expect(pacer.nextDeadline == now + .milliseconds(wait))
            now = now + .milliseconds(wait)
        }
        let id = try #require(pacer.nextFetch(now: now))
        pacer.answered(id, partitions: 0, leaderHasMore: false, now: now)
        let next = try #require(pacer.nextFetch(now: now))
        pacer.failed(next, now: now)
        #expect(pacer.nextDeadline == now + .milliseconds(20))
    }
}
