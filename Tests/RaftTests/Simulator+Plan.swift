import Essentials
import Raft

extension Simulator {
    /// What the seed decides before anything runs.
    struct Plan {
        /// What most of a run is about; all the rest happens as well, but less.
        enum Focus: CaseIterable {
            case elections
            case voterChanges
            case snapshots
            case everything
        }

        var focus: Focus
        var voterCount: Int
        /// Controllers that are no voters at first.
        var joiningCount: Int
        var observerCount: Int
        var dropRate: Double
        var repeatRate: Double
        var longDelayRate: Double
        /// Faults of the heavier kinds come this often, on average.
        var meanTimeBetweenFaults: Duration
        var meanTimeBetweenProposals: Duration
        /// `nil` for never.
        var meanTimeBetweenVoterChanges: Duration?
        var meanTimeBetweenSnapshots: Duration?
        var meanTimeBetweenReads: Duration
        var slowDiskRate: Double
        var wipeRate: Double
        var badFileRate: Double
        var snapshotSize: Int64
        var faultTime: Duration

        init(using generator: inout SeededGenerator) {
            func pick<Value>(_ values: [Value], _ fallback: Value) -> Value {
                values.randomElement(using: &generator) ?? fallback
            }
            let focus = pick(Focus.allCases, .everything)
            self.focus = focus
            voterCount = pick([1, 2, 3, 3, 3, 4, 5, 5], 3)
            joiningCount =
                focus == .elections ? 0 : Int.random(in: 0...2, using: &generator)
            observerCount = Int.random(in: 0...(focus == .elections ? 2 : 1), using: &generator)
            dropRate = pick([0, 0.01, 0.1, 0.3], 0)
            repeatRate = pick([0, 0.05, 0.5], 0)
            longDelayRate = pick([0, 0.01, 0.1], 0)
            meanTimeBetweenFaults = .milliseconds(pick([300, 1_000, 3_000], 1_000))
            meanTimeBetweenProposals = .milliseconds(pick([40, 150, 500], 150))
            meanTimeBetweenVoterChanges =
                focus == .elections
                ? nil : .milliseconds(focus == .voterChanges ? pick([80, 300], 300) : 2_000)
            meanTimeBetweenSnapshots =
                focus == .elections
                ? nil : .milliseconds(focus == .snapshots ? pick([100, 500], 500) : 2_000)
            meanTimeBetweenReads = .milliseconds(pick([100, 700], 700))
            slowDiskRate = pick([0, 0.05, 0.3], 0)
            wipeRate = focus == .elections ? 0 : pick([0, 0.1, 0.3], 0.1)
            badFileRate = pick([0, 0.2], 0)
            snapshotSize = pick([1, 30, 100], 30)
            faultTime = .seconds(Int.random(in: 6...16, using: &generator))
        }
    }
}
