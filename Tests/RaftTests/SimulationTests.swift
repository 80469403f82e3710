import Essentials
import Foundation
import Raft
import Testing

/// The whole quorum under faults.
///
/// `RAFT_SEEDS=20000` runs more, `RAFT_FIRST_SEED` starts elsewhere; `RAFT_TRACE=1` with one seed
/// prints what happened.
struct SimulationTests {
    private static let seedCount = environment("RAFT_SEEDS") ?? 240
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

    /// Nothing may follow from addresses, hash seeds or the order of a set.
    @Test func sameSeedGivesTheSameTraceInAnotherProcess() async throws {
        let other = await #expect(
            processExitsWith: .success, observing: [\.standardOutputContent]
        ) {
            print("traces", SimulationTests.traces())
        }
        let output = try #require(other?.standardOutputContent)
        #expect(String(decoding: output, as: UTF8.self).contains("traces \(Self.traces())\n"))
    }

    private static func traces() -> String {
        (1...8 as ClosedRange<UInt64>).map { seed in
            let simulator = Simulator(seed: seed)
            _ = simulator.run()
            return "\(seed):\(simulator.trace.value):\(simulator.steps)"
        }.joined(separator: " ")
    }

    /// Faults must not be so heavy that nothing ever happens.
    @Test func simulationGetsEverythingDone() {
        var epochs = 0
        var records = 0
        var loaded = 0
        var taken = 0
        var reads = 0
        var changes = 0
        for seed in 1...30 as ClosedRange<UInt64> {
            let simulator = Simulator(seed: seed)
            _ = simulator.run()
            epochs += simulator.checker.epochsLed
            records += simulator.checker.committed.count
            loaded += simulator.checker.snapshotsLoaded
            taken += simulator.checker.snapshotsTaken
            reads += simulator.checker.readsConfirmed
            changes += simulator.checker.votersChanges
        }
        #expect(epochs >= 60)
        #expect(records >= 3_000)
        #expect(loaded >= 12)
        #expect(taken >= 80)
        #expect(reads >= 100)
        #expect(changes >= 40)
    }
}
