import Essentials
import Replication
import Testing

@Suite("Simulated partition")
struct SimulationTests {
    /// P2, P3, P6, P13, P14, P15 and P17 under loss, delay, repetition, crashes that lose what was not
    /// flushed, false fencing and slow metadata; then everything heals and must converge.
    @Test("Random faults break no invariant, and the partition heals", arguments: 0..<8)
    func randomFaultsBreakNothing(block: Int) throws {
        var elections = 0
        var acknowledged = 0
        for seed in UInt64(block * 25)..<UInt64(block * 25 + 25) {
            let simulation = PartitionSimulation(seed: seed)
            try simulation.run()
            elections += simulation.elections
            acknowledged += simulation.acknowledged.count
        }
        // The runs are worth something only if there was something to lose.
        #expect(elections > 100 && acknowledged > 500)
    }

    @Test("The checks notice each rule that is broken", arguments: BrokenRule.allCases)
    func brokenRulesAreNoticed(rule: BrokenRule) {
        let firstNoticed = (0..<300).first { seed in
            do {
                try PartitionSimulation(seed: UInt64(seed), brokenRule: rule).run()
                return false
            } catch {
                return (error as? PartitionSimulation.Violation)?.isStall == false
            }
        }
        #expect(firstNoticed != nil)
    }
}
