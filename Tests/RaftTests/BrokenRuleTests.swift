#if DEBUG
    import Foundation
    import Raft
    import Testing

    /// The simulator is only as good as what it finds: every rule that can be switched off must
    /// be missed within a bounded number of seeds.
    ///
    /// `RAFT_RULE_SEEDS` sets how many.
    @Suite(.serialized) struct BrokenRuleTests {
        private static let limit =
            ProcessInfo.processInfo.environment["RAFT_RULE_SEEDS"].flatMap { UInt64($0) } ?? 600

        /// Rules that take hundreds of seeds, and so are left to the long mode.
        private static let rare: Set<BrokenRule> = []

        private static var isLong: Bool {
            ProcessInfo.processInfo.environment["RAFT_RULE_SEEDS"] != nil
        }

        @Test(arguments: BrokenRule.allCases) func brokenRuleIsFound(rule: BrokenRule) {
            if Self.rare.contains(rule), !Self.isLong { return }
            var found: String?
            let seed = (1...Self.limit).first { seed in
                found = Simulator(seed: seed, brokenRule: rule).run().first
                return found != nil
            }
            print("broken rule \(rule): seed \(seed.map { "\($0)" } ?? "-"): \(found ?? "-")")
            #expect(seed != nil, "\(rule) is not found in \(Self.limit) seeds")
        }
    }
#endif
