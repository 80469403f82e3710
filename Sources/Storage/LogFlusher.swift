import Glibc

/// Syncs the logs of one directory on threads of its own, together where many wait (group commit).
///
/// All tickets for one log that wait when a thread gets to it cost one sync of each of its files. Of
/// the logs that wait each thread takes the next, or one thread takes all of them and syncs the whole
/// volume: whatever has lately been cheaper. When the volume takes long, because others have written
/// much to it, other threads take from that thread what they can sync on their own.
package final class LogFlusher: @unchecked Sendable {
    // `state` is only touched between `lock` and `unlock` of `condition`.
    private let condition = Condition()
    private var state: State
    private let volume: (any Volume)?
    private var threads: [pthread_t] = []

    package typealias Completion = @Sendable (Result<Void, LogError>) -> Void

    private struct Waiting {
        var ticket: FlushTicket
        var completions: [Completion]
    }

    /// A sync of the volume that is going on, one at a time.
    private struct Together {
        /// The logs it is for, but for those that were taken from it.
        var logs: [(folder: ObjectIdentifier, waiting: Waiting)]
        /// From when on it takes too long.
        var limit: Double
    }

    private struct State {
        /// The logs that wait and are not being synced, in order; their tickets keep them alive.
        var order: ArraySlice<ObjectIdentifier> = []
        var waiting: [ObjectIdentifier: Waiting] = [:]
        /// The logs that a thread is syncing now.
        var busy: Set<ObjectIdentifier> = []
        var together: Together?
        var costs: FlushCosts
        /// The threads that wait for something to do, and those of them that also look at the time.
        var sleepers = 0
        var watchers = 0
        var isStopping = false
        var counts = Counts()
    }

    /// What was done so far.
    package struct Counts: Sendable {
        /// Logs that were synced, each on its own.
        package var alone = 0
        /// Syncs of the volume, and the logs that these were for.
        package var together = 0
        package var logsTogether = 0
    }

    private enum Step {
        case one(ObjectIdentifier, Waiting)
        case together([Waiting])
        case sleep(until: Double?)
    }

    /// - Parameter volume: what the directory is on, if that may be synced as a whole; opened before
    ///   anything is written that is to be flushed.
    package init(volume: (any Volume)? = nil, threads count: Int = 2) {
        self.volume = volume
        state = State(costs: FlushCosts(threads: count))
        for _ in 0..<max(1, count) {
            let argument = Unmanaged.passRetained(self)
            var thread = pthread_t()
            let code = pthread_create(
                &thread, nil,
                { argument in
                    guard let argument else { return nil }
                    Unmanaged<LogFlusher>.fromOpaque(argument).takeRetainedValue().run()
                    return nil
                }, argument.toOpaque())
            guard code == 0 else {
                argument.release()
                break
            }
            threads.append(thread)
        }
    }

    package var counts: Counts {
        condition.lock()
        defer { condition.unlock() }
        return state.counts
    }

    /// Performs `ticket` and then calls `completion` on a thread of the flusher.
    ///
    /// Once a sync has failed, all that follow in the same log directory fail with the same error.
    package func submit(_ ticket: FlushTicket, completion: @escaping Completion) {
        condition.lock()
        guard !state.isStopping, !threads.isEmpty else {
            condition.unlock()
            return completion(.failure(.closed))
        }
        let folder = ObjectIdentifier(ticket.folder)
        if state.waiting[folder] != nil {
            var merged = ticket
            if let older = state.waiting[folder]?.ticket { merged.merge(older) }
            state.waiting[folder]?.ticket = merged
            state.waiting[folder]?.completions.append(completion)
        } else {
            state.waiting[folder] = Waiting(ticket: ticket, completions: [completion])
            if !state.busy.contains(folder) {
                state.order.append(folder)
                // While the volume is being synced, this waits for the next time.
                let mayGo = state.together.map { Condition.now >= $0.limit } ?? true
                if mayGo, state.sleepers > 0 { condition.wakeOne() }
            }
        }
        condition.unlock()
    }

    /// Ends the threads once all that was submitted is done; blocks until then.
    package func stop() {
        condition.lock()
        let wasStopping = state.isStopping
        state.isStopping = true
        condition.wakeAll()
        condition.unlock()
        guard !wasStopping else { return }
        for thread in threads { pthread_join(thread, nil) }
    }

    private func run() {
        condition.lock()
        loop: while true {
            switch nextStep() {
            case .one(let folder, let waiting): flush(folder, waiting)
            case .together(let all): flush(all)
            case .sleep(let limit):
                if state.isStopping, state.busy.isEmpty { break loop }
                state.sleepers += 1
                if let limit {
                    state.watchers += 1
                    condition.wait(until: limit)
                    state.watchers -= 1
                } else {
                    // Not for ever: until 2.41 the C library loses a signal in rare cases.
                    condition.wait(until: Condition.now + 1)
                }
                state.sleepers -= 1
            }
        }
        condition.unlock()
    }

    private func nextStep() -> Step {
        if let together = state.together {
            // What comes meanwhile is best left to the next, unless there is no telling when.
            guard Condition.now >= together.limit else { return .sleep(until: together.limit) }
            guard let next = takeNext() ?? state.together?.logs.popLast() else {
                return .sleep(until: nil)
            }
            return .one(next.folder, next.waiting)
        }
        let count = state.order.count
        if volume != nil, count > 1, state.costs.prefersTogether(count, at: Condition.now) {
            return takeAll()
        }
        guard let next = takeNext() else { return .sleep(until: nil) }
        // One thread is woken for each that is submitted, but not for those that a thread hands back.
        if !state.order.isEmpty, state.sleepers > 0 { condition.wakeOne() }
        return .one(next.folder, next.waiting)
    }

    private func takeNext() -> (folder: ObjectIdentifier, waiting: Waiting)? {
        while let folder = state.order.popFirst() {
            guard let waiting = state.waiting.removeValue(forKey: folder) else { continue }
            state.busy.insert(folder)
            return (folder, waiting)
        }
        return nil
    }

    private func takeAll() -> Step {
        var together = Together(logs: [], limit: 0)
        while let next = takeNext() { together.logs.append(next) }
        together.limit = Condition.now + state.costs.limit(together.logs.count)
        state.together = together
        // Somebody has to watch the time.
        if state.watchers == 0, state.sleepers > 0 { condition.wakeOne() }
        return .together(together.logs.map(\.waiting))
    }

    /// Syncs one log; the lock is held before and after.
    private func flush(_ folder: ObjectIdentifier, _ waiting: Waiting) {
        condition.unlock()
        let start = Condition.now
        let result = Self.result { () throws(LogError) in try waiting.ticket.perform() }
        let seconds = Condition.now - start
        for completion in waiting.completions { completion(result) }
        condition.lock()
        if !waiting.ticket.isEmpty { state.costs.noteAlone(seconds) }
        state.counts.alone += 1
        release(folder)
        // Others may wait for the end of the last one.
        if state.isStopping { condition.wakeAll() }
    }

    /// Syncs the volume for many logs; the lock is held before and after.
    private func flush(_ all: [Waiting]) {
        guard let volume else { return }
        condition.unlock()
        let start = Condition.now
        let result = Self.result { () throws(LogError) in
            try FlushTicket.perform(all.map(\.ticket), on: volume)
        }
        let end = Condition.now
        condition.lock()
        state.costs.noteTogether(all.count, end - start, at: end)
        state.counts.together += 1
        state.counts.logsTogether += all.count
        let left = state.together?.logs ?? []
        state.together = nil
        condition.unlock()
        for (_, waiting) in left {
            for completion in waiting.completions { completion(result) }
        }
        condition.lock()
        for (folder, _) in left { release(folder) }
        if state.isStopping { condition.wakeAll() }
    }

    /// The log may be synced again, and is if something came meanwhile.
    private func release(_ folder: ObjectIdentifier) {
        state.busy.remove(folder)
        if state.waiting[folder] != nil { state.order.append(folder) }
    }

    private static func result(_ body: () throws(LogError) -> Void) -> Result<Void, LogError> {
        do throws(LogError) {
            return .success(try body())
        } catch {
            return .failure(error)
        }
    }
}
