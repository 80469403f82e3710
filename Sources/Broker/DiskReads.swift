import DequeModule
import NIOCore
import NIOPosix
import Storage
import Synchronization

/// Reads that wait for one disk, on threads of its own, so that the event loops don't.
///
/// Partitions take turns, whatever number of readers each has. So many wait at most as there are calls
/// that want them, each of which has one.
final class DiskReads: Sendable {
    /// One read, for whoever may want it no longer.
    final class Ticket: Sendable {
        private let flag = Atomic<Bool>(false)

        /// It isn't begun any more; what has begun is finished.
        func cancel() { flag.store(true, ordering: .relaxed) }

        var isCancelled: Bool { flag.load(ordering: .relaxed) }
    }

    private struct Job: Sendable {
        var ticket: Ticket
        var body: @Sendable () -> Void
    }

    private struct State {
        var waiting: [ObjectIdentifier: Deque<Job>] = [:]
        /// The partitions that have reads waiting, in the order of their turns.
        var turns = Deque<ObjectIdentifier>()
        var idleThreads: Int
        var isStarted = false
        var isStopped = false
    }

    private let pool: NIOThreadPool
    // A lock, because event loops hand in what threads take out; held for that only.
    private let state: Mutex<State>

    init(threads: Int = 4) {
        pool = NIOThreadPool(numberOfThreads: threads)
        state = Mutex(State(idleThreads: threads))
    }

    /// Performs `read` and calls `completion` with the outcome on `eventLoop`, unless it is cancelled, or
    /// the broker stops, before it is begun.
    func perform<Answer>(
        _ read: ColdRead<Answer>, of partition: ObjectIdentifier, on eventLoop: any EventLoop,
        then completion: @escaping @Sendable (ColdRead<Answer>.Outcome) -> Void
    ) -> Ticket {
        let ticket = Ticket()
        let job = Job(ticket: ticket) {
            let outcome = read.perform()
            eventLoop.execute { completion(outcome) }
        }
        let needsThread = state.withLock { state in
            guard !state.isStopped else { return false }
            if !state.isStarted {
                // Many brokers never need them.
                state.isStarted = true
                pool.start()
            }
            let isFirst = state.waiting[partition] == nil
            state.waiting[partition, default: Deque()].append(job)
            if isFirst { state.turns.append(partition) }
            guard state.idleThreads > 0 else { return false }
            state.idleThreads -= 1
            return true
        }
        if needsThread {
            pool.submit { poolState in
                if case .active = poolState { self.work() }
            }
        }
        return ticket
    }

    /// Ends the threads, each after the read that it is at.
    func stop() async {
        let isStarted = state.withLock { state in
            state.waiting = [:]
            state.turns = []
            state.isStopped = true
            return state.isStarted
        }
        if isStarted { try? await pool.shutdownGracefully() }
    }

    private func work() {
        while let job = next() {
            if !job.ticket.isCancelled { job.body() }
        }
    }

    /// The next read, of the partition whose turn it is; without one the thread is idle.
    private func next() -> Job? {
        state.withLock { state in
            guard let partition = state.turns.popFirst(),
                var jobs = state.waiting.removeValue(forKey: partition), let job = jobs.popFirst()
            else {
                state.idleThreads += 1
                return nil
            }
            if !jobs.isEmpty {
                state.waiting[partition] = jobs
                state.turns.append(partition)
            }
            return job
        }
    }
}
