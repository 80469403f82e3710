package import Essentials

/// One replica of the metadata log: a node together with the log directory it keeps it in.
///
/// A node that comes back with another disk is another replica (KIP-853). The directory is `nil`
/// where it is not known, as for voters that were only configured by node id.
package struct ReplicaKey: Hashable, Sendable {
    package var id: NodeID
    package var directory: DirectoryID?

    package init(id: NodeID, directory: DirectoryID? = nil) {
        self.id = id
        self.directory = directory
    }

    /// Whether both may be the same replica: one node, and no two known directories that differ.
    package func matches(_ other: ReplicaKey) -> Bool {
        guard id == other.id else { return false }
        guard let directory, let otherDirectory = other.directory else { return true }
        return directory == otherDirectory
    }
}

extension ReplicaKey: Comparable, CustomStringConvertible {
    package static func < (left: ReplicaKey, right: ReplicaKey) -> Bool {
        (left.id, left.directory ?? .zero) < (right.id, right.directory ?? .zero)
    }

    package var description: String {
        directory.map { "\(id)/\($0)" } ?? "\(id)"
    }
}

/// The replicas whose votes and durable offsets count: one for each node id, at least one.
package struct VoterSet: Hashable, Sendable {
    /// Sorted by id, so that nothing depends on the order in which voters were listed.
    package let voters: [ReplicaKey]

    /// The set of `voters`; `nil` when it is empty or names a node twice.
    package init?(_ voters: some Sequence<ReplicaKey>) {
        let sorted = voters.sorted()
        guard !sorted.isEmpty, zip(sorted, sorted.dropFirst()).allSatisfy({ $0.id < $1.id })
        else { return nil }
        self.voters = sorted
    }

    package var ids: [NodeID] { voters.map(\.id) }
    package var count: Int { voters.count }
    /// How many voters are more than half.
    package var majority: Int { voters.count / 2 + 1 }

    package func contains(_ id: NodeID) -> Bool {
        voters.contains { $0.id == id }
    }

    /// Whether `replica` is one of the voters, and not just another disk under a voter's id.
    package func isVoter(_ replica: ReplicaKey) -> Bool {
        voters.contains { $0.matches(replica) }
    }
}
