internal import FoundationEssentials

/// The time of day, for record timestamps and for people: it may step back.
package enum WallClock {
    /// Milliseconds since 1970.
    package static func milliseconds() -> Int64 {
        Int64(Date().timeIntervalSince1970 * 1000)
    }
}
