/// The `node.id` of a broker or a controller: unique in the cluster across both roles, 0 or more.
package struct NodeID: RawRepresentable, Hashable, Sendable {
    package var rawValue: Int32

    @inlinable
    package init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    @inlinable
    package init(_ rawValue: Int32) {
        self.rawValue = rawValue
    }
}

extension NodeID: Comparable, ExpressibleByIntegerLiteral, CustomStringConvertible {
    @inlinable
    package static func < (left: NodeID, right: NodeID) -> Bool {
        left.rawValue < right.rawValue
    }

    @inlinable
    package init(integerLiteral value: Int32) {
        self.init(value)
    }

    package var description: String { String(rawValue) }
}
