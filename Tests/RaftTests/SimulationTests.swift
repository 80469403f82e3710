import Essentials
import Foundation
import Raft
import Testing

/// The whole quorum under faults.
///
/// `RAFT_SEEDS=20000` runs more, `RAFT_FIRST_SEED` starts elsewhere;
/// `RAFT_TRACE=1` with one seed prints what happened, `RAFT_TABLE=1` the seeds that broken rules need.
struct SimulationTests {
    private static let seedCount = environment("RAFT_SEEDS") ?? 200
    private static let firstSeed = environment("RAFT_FIRST_SEED") ?? 1

    private static func environment(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }

    @Test(arguments: 0..<8) func quorumIsSafeUnderFaultsAndHeals(part: UInt64) {
        for seed in stride(from: Self.firstSeed + part, to: Self.firstSeed + Self.seedCount, by: 8)
        {
            let simulator = Simulator(seed: seed)
            if Self.environment("RAFT_TRACE") != nil { simulator.log = { print($0) } }
            let violations = simulator.run()
            #expect(violations == [], "seed \(seed)")
        }
    }

    @Test func sameSeedGivesTheSameTrace() {
        for seed in Self.firstSeed..<(Self.firstSeed + 3) {
            let first = Simulator(seed: seed)
            let second = Simulator(seed: seed)
            _ = first.run()
            _ = second.run()
            #expect(first.trace == second.trace, "seed \(seed)")
            #expect(first.steps == second.steps, "seed \(seed)")
        }
    }

    /// Faults must not be so heavy that nothing ever happens.
    @Test func simulationElectsAndCommits() {
        var epochs = 0
        var records = 0
        for seed in 1...10 as ClosedRange<UInt64> {
            let simulator = Simulator(seed: seed)
            _ = simulator.run()
            epochs += simulator.checker.epochsLed
            records += simulator.checker.committed.count
        }
        #expect(epochs >= 20)
        #expect(records >= 1_000)
    }

    #if DEBUG
        /// The simulator is only as good as what it finds.
        @Test(arguments: BrokenRule.allCases) func brokenRuleIsFound(rule: BrokenRule) {
            // The one rule that takes hundreds of seeds is left to the long mode.
            if rule == .acceptStaleFetch, Self.environment("RAFT_TABLE") == nil { return }
            let limit: UInt64 = 600
            var found: String?
            let seed = (1...limit).first { seed in
                found = Simulator(seed: seed, brokenRule: rule).run().first
                return found != nil
            }
            if Self.environment("RAFT_TABLE") != nil {
                print("\(rule): seed \(seed ?? 0): \(found ?? "-")")
            }
            #expect(seed != nil, "\(rule) not found in \(limit) seeds")
        }
    #endif
}
