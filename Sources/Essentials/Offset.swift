/// A record's position in a log: the first record is 0, and ends are exclusive.
package struct Offset: RawRepresentable, Hashable, Sendable {
    package var rawValue: Int64

    @inlinable
    package init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    @inlinable
    package init(_ rawValue: Int64) {
        self.rawValue = rawValue
    }

    /// The largest offset that fits, for "no upper bound".
    package static let max = Offset(.max)

    /// The number of records from `start` to `end`; negative when `end` lies before `start`.
    @inlinable
    package static func - (end: Offset, start: Offset) -> Int64 {
        end.rawValue - start.rawValue
    }

    /// The offset `count` records after `start`.
    @inlinable
    package static func + (start: Offset, count: Int64) -> Offset {
        Offset(start.rawValue + count)
    }

    @inlinable
    package static func += (start: inout Offset, count: Int64) {
        start.rawValue += count
    }
}

extension Offset: Comparable {
    @inlinable
    package static func < (left: Offset, right: Offset) -> Bool {
        left.rawValue < right.rawValue
    }
}

extension Offset: ExpressibleByIntegerLiteral {
    @inlinable
    package init(integerLiteral value: Int64) {
        self.init(value)
    }
}

extension Offset: CustomStringConvertible {
    package var description: String { String(rawValue) }
}
