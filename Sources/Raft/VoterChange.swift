package import Essentials

/// A change of the voter set: of one voter, through the log.
package enum VoterChange: Hashable, Sendable {
    /// The replica has to observe the log, and to hold what the leader does.
    case add(Voter)
    /// Without a directory: whichever has this id.
    case remove(id: NodeID, directory: DirectoryID?)
    /// The same replica listens elsewhere.
    case update(Voter)
}

/// Why the voter set can't be changed, or not yet.
package enum VoterChangeError: Error, Hashable, Sendable {
    /// This replica does not lead; it says what it knows of the present epoch.
    case notLeader(NodeID?, epoch: LeaderEpoch)
    /// The last change, at this offset, is not committed yet.
    case pending(offset: Offset)
    /// Nothing of this leader's epoch is committed yet.
    case notReady
    /// The id is taken, by this voter.
    case alreadyVoter(Voter)
    case notVoter
    /// No replica with exactly this id and directory has fetched of late.
    case notObserving
    /// The replica keeps nothing on stable storage: its votes and fetches prove nothing.
    case notDurable
    /// The replica lacks so many records that it would hold up commits.
    case behind(records: Int64)
    /// Nobody would be left.
    case lastVoter
}
