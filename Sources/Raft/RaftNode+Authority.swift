import Essentials

/// What only a leader can do: hand its leadership over, and say what is committed right now.
extension RaftNode {
    mutating func transfer(to successor: NodeID?, _ token: RequestToken, _ now: MonotonicTime) {
        effects.append(.transferred(token, .notLeader(leader, epoch: election.epoch)))
    }

    mutating func read(_ token: RequestToken, _ now: MonotonicTime) {
        effects.append(.readRefused(token))
    }
}
