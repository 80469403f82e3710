/// The timings of the quorum; the same on every voter, or elections favour the impatient.
package struct RaftConfig: Sendable, Hashable {
    /// An election round lasts a random time between this and twice this.
    package var electionTimeout: Duration = .seconds(1)
    /// A follower that has fetched nothing for this long, and up to an eighth of the election
    /// timeout more, looks for a new leader; a leader that a
    /// majority has not fetched from for one and a half times this long resigns.
    package var fetchTimeout: Duration = .seconds(2)
    /// The longest a leader holds a fetch that has nothing to answer yet.
    package var maxFetchWait: Duration = .milliseconds(500)
    /// A request without an answer is sent again after this long: longer than `maxFetchWait`.
    package var requestTimeout: Duration = .seconds(1)
    /// The wait after a request failed; up to half of it is added at random.
    package var retryBackoff: Duration = .milliseconds(40)
    /// A voter that lost its connection to the leader asks for pre-votes after a random time in
    /// this range, unless a fetch succeeds before.
    package var connectionLostDelay: ClosedRange<Duration> =
        .milliseconds(20) ... .milliseconds(100)
    /// How long an observer waits at first for one that it asks who leads, or for the leader, to
    /// answer; doubled with each that does not, up to `requestTimeout`.
    package var firstContactPatience: Duration = .milliseconds(150)
    /// An observer that has not fetched for this long is forgotten.
    package var observerTimeout: Duration = .seconds(300)
    /// Observers beyond this many are served, but not remembered and never made to wait.
    package var maxObservers = 4096
    /// Answers that may wait for the election state to become durable.
    package var maxHeldAnswers = 1024

    /// Whether this replica makes everything durable before it fetches on.
    ///
    /// Every one must that may become a voter; one that does not has no vote to give.
    package var isDurable = true
    /// The most bytes of a snapshot that one answer holds.
    package var maxSnapshotChunkBytes: Int32 = 1 << 20

    #if DEBUG
        package var brokenRule: BrokenRule?
    #endif

    package init() {}

    /// A leader that a majority has not fetched from for this long resigns.
    package var checkQuorumTimeout: Duration { fetchTimeout * 3 / 2 }

    /// What makes these timings unusable, if anything does.
    package var problem: String? {
        if electionTimeout <= .zero || fetchTimeout <= .zero || retryBackoff <= .zero {
            return "election timeout, fetch timeout and retry backoff must be above zero"
        }
        if maxFetchWait >= fetchTimeout || requestTimeout <= maxFetchWait {
            return "a fetch must wait for less than the request timeout and the fetch timeout"
        }
        return nil
    }
}
