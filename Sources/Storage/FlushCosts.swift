/// What syncing costs on one disk lately, and what is therefore done when several logs wait.
///
/// One sync of the whole file system may cost hardly more than that of one file, and covers every log.
/// But it waits for all that anyone has written to the file system, so that only the clock tells.
package struct FlushCosts {
    /// How many logs are synced at a time when each is synced on its own.
    private let threads: Int
    /// Seconds for one log on its own; `nil` while none was.
    package private(set) var alone: Double?
    /// Seconds for all together, by the logarithm of how many waited.
    private var together: [Double?] = Array(repeating: nil, count: 24)
    /// When all together is tried again although it was dearer.
    private var nextTry = 0.0
    private var patience = minPatience

    /// So few are done soon by themselves, and wait for nobody else's bytes.
    private static let minTogether = 4
    private static let minPatience = 1.0
    private static let maxPatience = 64.0

    package init(threads: Int) {
        self.threads = max(1, threads)
    }

    /// Whether `count` logs are better synced together.
    package func prefersTogether(_ count: Int, at now: Double) -> Bool {
        guard count >= Self.minTogether, let expected = expectedAlone(count) else { return false }
        guard let estimate = estimate(count) else { return true }
        return estimate <= expected || now >= nextTry
    }

    /// The seconds after which a sync of all together takes suspiciously long.
    package func limit(_ count: Int) -> Double {
        min(1, max(0.01, 4 * max(expectedAlone(count) ?? 0, estimate(count) ?? 0)))
    }

    package mutating func noteAlone(_ seconds: Double) {
        alone = Self.mixed(alone, seconds)
    }

    package mutating func noteTogether(_ count: Int, _ seconds: Double, at now: Double) {
        let bucket = Self.bucket(count)
        // One that went well says more than one in whose way something was.
        together[bucket] = min(seconds, Self.mixed(together[bucket], seconds))
        if seconds <= expectedAlone(count) ?? .infinity {
            patience = Self.minPatience
            nextTry = now + patience
        } else if now >= nextTry {
            patience = min(Self.maxPatience, patience * 2)
            nextTry = now + patience
        }
    }

    private func expectedAlone(_ count: Int) -> Double? {
        alone.map { $0 * Double((count + threads - 1) / threads) }
    }

    /// What so many cost, or so few that it can't be less for more; `nil` if that is not known.
    private func estimate(_ count: Int) -> Double? {
        let bucket = Self.bucket(count)
        return together[bucket] ?? together[..<bucket].last { $0 != nil } ?? nil
    }

    private static func bucket(_ count: Int) -> Int {
        min(23, Int.bitWidth - 1 - max(1, count).leadingZeroBitCount)
    }

    private static func mixed(_ old: Double?, _ new: Double) -> Double {
        guard let old else { return new }
        return old + (new - old) / 8
    }
}
