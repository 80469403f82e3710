/// Safety rules that tests can switch off, to show that the simulator notices.
///
/// Only debug builds, which is to say tests, have the switch: `RaftConfig.brokenRule`.
package enum BrokenRule: String, Sendable, CaseIterable {
    /// A vote leaves before it is durable.
    case voteBeforeDurable
    /// A second candidate gets a vote in the same epoch.
    case voteTwice
    /// The candidate's log is not compared.
    case voteForAnyLog
    /// One voter less than a majority elects.
    case electByMinority
    /// One voter less than a majority commits.
    case commitByMinority
    /// Records of older epochs are committed by counting alone (Raft, figure 8).
    case commitOldEpochs
    /// The leader counts its records before they are durable.
    case countBeforeDurable
    /// A follower says that it holds records before they are durable.
    case fetchBeforeDurable
    /// A leader goes on leading its epoch after a restart.
    case leadAfterRestart
    /// A leader does not compare the epochs of a follower's log.
    case ignoreDivergence
    /// Observers count as voters for commits.
    case countObservers
    /// A leader takes fetches of other epochs than its own.
    case acceptStaleFetch
    /// A leader never resigns for want of a majority.
    case leadWithoutMajority
    /// Campaigns start without pre-votes.
    case skipPreVote
}
