package import Essentials

/// A replica that votes and counts for commits, and where the others reach it.
package struct Voter: Hashable, Sendable {
    package var id: NodeID
    /// The log directory it votes with; with another one it is another replica, and no voter.
    ///
    /// `nil`, which only tests use: the first one that is seen.
    package var directory: DirectoryID?
    package var host: String
    package var port: Int

    package init(id: NodeID, directory: DirectoryID?, host: String, port: Int) {
        self.id = id
        self.directory = directory
        self.host = host
        self.port = port
    }

    package var key: ReplicaKey { ReplicaKey(id: id, directory: directory) }

    /// Whether `replica` is this voter, and not just another disk under its id.
    package func isSame(as replica: ReplicaKey) -> Bool {
        id == replica.id && (directory == nil || directory == replica.directory)
    }
}

extension Voter: CustomStringConvertible {
    package var description: String { "\(key)@\(host):\(port)" }
}

/// The replicas whose votes and durable offsets count: one for each node id, at least one.
package struct VoterSet: Hashable, Sendable {
    /// Sorted by id, so that nothing depends on the order in which voters were listed.
    package let voters: [Voter]

    /// The set of `voters`; `nil` when it is empty or names a node twice.
    package init?(_ voters: some Sequence<Voter>) {
        let sorted = voters.sorted { $0.id < $1.id }
        guard !sorted.isEmpty, zip(sorted, sorted.dropFirst()).allSatisfy({ $0.id < $1.id })
        else { return nil }
        self.voters = sorted
    }

    package var ids: [NodeID] { voters.map(\.id) }
    package var count: Int { voters.count }
    /// How many voters are more than half.
    package var majority: Int { voters.count / 2 + 1 }

    package subscript(id: NodeID) -> Voter? {
        voters.first { $0.id == id }
    }

    package func contains(_ id: NodeID) -> Bool {
        self[id] != nil
    }

    /// Whether `replica` is one of the voters, and not just another disk under a voter's id.
    package func isVoter(_ replica: ReplicaKey) -> Bool {
        self[replica.id]?.isSame(as: replica) ?? false
    }

    /// The set with one voter more; `nil` if its id is taken.
    package func adding(_ voter: Voter) -> VoterSet? {
        VoterSet(voters + [voter])
    }

    /// The set with one voter less; `nil` if none would be left.
    package func removing(_ id: NodeID) -> VoterSet? {
        VoterSet(voters.filter { $0.id != id })
    }

    /// The set with this voter in the place of the one with its id; `nil` if there is none.
    package func replacing(_ voter: Voter) -> VoterSet? {
        contains(voter.id) ? VoterSet(voters.map { $0.id == voter.id ? voter : $0 }) : nil
    }
}

extension VoterSet: CustomStringConvertible {
    package var description: String {
        "[" + voters.map { "\($0.key)" }.joined(separator: ", ") + "]"
    }
}
