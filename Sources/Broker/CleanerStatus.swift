import Essentials
import Storage
import Synchronization

/// What a broker's cleaner does, and has done since the broker started.
struct CleanerStatus: Sendable {
    /// One compaction that went well.
    struct Run: Sendable {
        var partition: TopicPartition
        var summary: CompactionSummary
        var took: Duration
    }

    /// How far the compactions are that are under way, from 0 to 1.
    var running: [TopicPartition: Double] = [:]
    /// What there was to do in each log when it was last looked.
    var needs: [TopicPartition: CompactionNeed] = [:]
    private(set) var last: Run?
    private(set) var runs = 0
    var failedRuns = 0
    private(set) var bytesBefore: Int64 = 0
    private(set) var bytesAfter: Int64 = 0
    private(set) var removedTombstones: Int64 = 0

    mutating func ended(_ partition: TopicPartition, _ summary: CompactionSummary, took: Duration) {
        last = Run(partition: partition, summary: summary, took: took)
        runs += 1
        bytesBefore += Int64(clamping: summary.bytesBefore)
        bytesAfter += Int64(clamping: summary.bytesAfter)
        removedTombstones += Int64(clamping: summary.removedTombstones)
    }
}

/// The logs that are to be compacted in one round, for the threads that share them.
final class CleanerQueue: Sendable {
    let workers: Int
    private let state: Mutex<(waiting: [CompactionCandidate], workers: Int)>

    /// - Parameter candidates: the most urgent first.
    init(_ candidates: [CompactionCandidate], workers: Int) {
        self.workers = workers
        state = Mutex((candidates.reversed(), workers))
    }

    func next() -> CompactionCandidate? { state.withLock { $0.waiting.popLast() } }

    /// Returns whether it was the last.
    func workerEnded() -> Bool {
        state.withLock { state in
            state.workers -= 1
            return state.workers == 0
        }
    }
}
