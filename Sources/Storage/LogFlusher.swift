import Glibc

/// Syncs logs on threads of its own, together where many wait for the same (group commit).
///
/// All tickets for one log that wait when a thread gets to it cost one sync of each of its files.
/// Logs are taken in the order in which they began to wait, one thread each.
package final class LogFlusher: @unchecked Sendable {
    // `state` is only touched between `lock` and `unlock` of `condition`.
    private let condition = Condition()
    private var state = State()
    private var threads: [pthread_t] = []

    package typealias Completion = @Sendable (Result<Void, LogError>) -> Void

    private struct State {
        /// The logs that wait and are not being synced, in order; their tickets keep them alive.
        var order: [ObjectIdentifier] = []
        var waiting: [ObjectIdentifier: (ticket: FlushTicket, completions: [Completion])] = [:]
        /// The logs that a thread is syncing now.
        var busy: Set<ObjectIdentifier> = []
        var isStopping = false
    }

    package init(threads count: Int = 2) {
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
        if let (older, completions) = state.waiting.removeValue(forKey: folder) {
            var merged = ticket
            merged.merge(older)
            state.waiting[folder] = (merged, completions + [completion])
        } else {
            state.waiting[folder] = (ticket, [completion])
            if !state.busy.contains(folder) {
                state.order.append(folder)
                condition.wakeOne()
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
        while true {
            guard !state.order.isEmpty else {
                if state.isStopping, state.busy.isEmpty { break }
                condition.wait()
                continue
            }
            let folder = state.order.removeFirst()
            guard let (ticket, completions) = state.waiting.removeValue(forKey: folder) else {
                continue
            }
            state.busy.insert(folder)
            condition.unlock()
            let result: Result<Void, LogError>
            do throws(LogError) {
                result = .success(try ticket.perform())
            } catch {
                result = .failure(error)
            }
            for completion in completions { completion(result) }
            condition.lock()
            state.busy.remove(folder)
            if state.waiting[folder] != nil { state.order.append(folder) }
            // Others may wait for the end of the last one.
            if state.isStopping { condition.wakeAll() }
        }
        condition.unlock()
    }
}

/// A lock that threads can wait at.
private final class Condition: @unchecked Sendable {
    // Both stay at one address, and are made for use by many threads.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        mutex.initialize(to: pthread_mutex_t())
        condition.initialize(to: pthread_cond_t())
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func lock() { pthread_mutex_lock(mutex) }
    func unlock() { pthread_mutex_unlock(mutex) }
    func wait() { pthread_cond_wait(condition, mutex) }
    func wakeOne() { pthread_cond_signal(condition) }
    func wakeAll() { pthread_cond_broadcast(condition) }
}
