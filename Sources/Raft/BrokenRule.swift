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
    /// A vote is given and forgotten by the next crash.
    case voteNotPersisted
    /// A pre-vote is written down like a vote.
    case preVoteCastsVote
    /// A replica votes under the id of a voter whose disk was another one.
    case voteForOtherDirectory
    /// A follower keeps what its leader does not have.
    case truncationIgnored
    /// The voter set changes again before the last change is committed.
    case twoVoterChangesAtOnce
    /// A new leader changes the voter set before it has committed anything.
    case changeBeforeEpochCommitted
    /// A voter set stays in force though its record was truncated.
    case ignoreVoterTruncation
    /// The voters before an uncommitted change commit it.
    case countRemovedVoter
    /// A leader outside the voter set counts its own records.
    case leaderCountsItselfAfterRemoval
    /// An installed snapshot's epoch is not taken for that of the log before its start.
    case snapshotWithoutEpoch
    /// Snapshots may hold what is not committed, and take the place of the log.
    case snapshotAboveHighWatermark
    /// A read is answered without asking whether another leader was elected.
    case readWithoutConfirmation
}
