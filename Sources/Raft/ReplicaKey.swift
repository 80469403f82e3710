package import Essentials

/// One replica of the metadata log: a node together with the log directory it keeps it in.
///
/// A node that comes back with another disk is another replica (KIP-853). The directory is `nil`
/// where it is not known.
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
