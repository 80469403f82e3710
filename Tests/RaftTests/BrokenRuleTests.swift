#if DEBUG
    import Foundation
    import Raft
    import Testing

    /// The simulator is only as good as what it finds: every rule that can be switched off must
    /// be missed within a bounded number of seeds.
    ///
    /// `RAFT_RULE_SEEDS` sets how many, and asks which rules do harm: that is, lead to lost or
    /// differing records or a stale read, not just to a step that must not be taken.
    @Suite(.serialized) struct BrokenRuleTests {
        private static let limit =
            ProcessInfo.processInfo.environment["RAFT_RULE_SEEDS"].flatMap { UInt64($0) } ?? 600
        private static var isLong: Bool {
            ProcessInfo.processInfo.environment["RAFT_RULE_SEEDS"] != nil
        }

        @Test(arguments: BrokenRule.allCases) func brokenRuleIsFound(rule: BrokenRule) {
            let seed = firstSeed("broken rule \(rule)") { Simulator(seed: $0, brokenRule: rule) }
            #expect(seed != nil, "\(rule) is not found in \(Self.limit) seeds")
        }

        /// Tells how hard the faults are: whether they bring out what a broken rule leads to.
        @Test(.enabled(if: isLong), arguments: BrokenRule.allCases)
        func brokenRuleDoesHarm(rule: BrokenRule) {
            _ = firstSeed("harm of \(rule)") {
                let simulator = Simulator(seed: $0, brokenRule: rule)
                simulator.checker.judgesHarmOnly = true
                return simulator
            }
        }

        private func firstSeed(
            _ what: String, of make: (UInt64) -> Simulator
        ) -> UInt64? {
            var found: String?
            let seed = (1...Self.limit).first { seed in
                found = make(seed).run().first
                return found != nil
            }
            print("\(what): seed \(seed.map { "\($0)" } ?? "-"): \(found ?? "-")")
            return seed
        }
    }
#endif
