/// The term of one leader, of a partition or of the metadata quorum; rises with each election.
///
/// `LeaderEpoch.none` (-1) stands for "no epoch yet", as in Kafka.
package struct LeaderEpoch: RawRepresentable, Hashable, Sendable {
    package var rawValue: Int32

    @inlinable
    package init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    @inlinable
    package init(_ rawValue: Int32) {
        self.rawValue = rawValue
    }

    package static let none = LeaderEpoch(-1)

    /// The epoch after this one.
    @inlinable
    package var next: LeaderEpoch { LeaderEpoch(rawValue + 1) }
}

/// The version of a partition's state in the metadata log; rises by one with each change (KIP-497).
package struct PartitionEpoch: RawRepresentable, Hashable, Sendable {
    package var rawValue: Int32

    @inlinable
    package init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    @inlinable
    package init(_ rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// The epoch after this one.
    @inlinable
    package var next: PartitionEpoch { PartitionEpoch(rawValue + 1) }
}

/// One registration of a broker: the offset of its registration record in the metadata log.
///
/// `BrokerEpoch.none` (-1) stands for "not registered".
package struct BrokerEpoch: RawRepresentable, Hashable, Sendable {
    package var rawValue: Int64

    @inlinable
    package init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    @inlinable
    package init(_ rawValue: Int64) {
        self.rawValue = rawValue
    }

    package static let none = BrokerEpoch(-1)
}

extension LeaderEpoch: Comparable, ExpressibleByIntegerLiteral, CustomStringConvertible {
    @inlinable
    package static func < (left: LeaderEpoch, right: LeaderEpoch) -> Bool {
        left.rawValue < right.rawValue
    }

    @inlinable
    package init(integerLiteral value: Int32) {
        self.init(value)
    }

    package var description: String { String(rawValue) }
}

extension PartitionEpoch: Comparable, ExpressibleByIntegerLiteral, CustomStringConvertible {
    @inlinable
    package static func < (left: PartitionEpoch, right: PartitionEpoch) -> Bool {
        left.rawValue < right.rawValue
    }

    @inlinable
    package init(integerLiteral value: Int32) {
        self.init(value)
    }

    package var description: String { String(rawValue) }
}

extension BrokerEpoch: Comparable, ExpressibleByIntegerLiteral, CustomStringConvertible {
    @inlinable
    package static func < (left: BrokerEpoch, right: BrokerEpoch) -> Bool {
        left.rawValue < right.rawValue
    }

    @inlinable
    package init(integerLiteral value: Int64) {
        self.init(value)
    }

    package var description: String { String(rawValue) }
}
