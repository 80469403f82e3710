internal import Essentials
package import NIOCore

extension TimeAmount {
    /// A year: longer than anything here waits, and safe to add to any moment of NIO's clock.
    private static let longest: Int64 = 365 * 24 * 3600 * 1_000_000_000

    /// The duration, held between nothing and a year.
    package init(bounded duration: Duration) {
        self = .nanoseconds(max(0, min(duration.nanoseconds, Self.longest)))
    }
}
