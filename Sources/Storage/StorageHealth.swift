import Synchronization

/// Whether a log directory can still be relied on; shared by its logs and its flusher.
///
/// It only ever turns bad: after a failed sync the kernel may have dropped what it could not write,
/// so that a later sync which succeeds proves nothing.
package final class StorageHealth: Sendable {
    private let isFailed = Atomic<Bool>(false)
    private let state = Mutex<(failure: LogError?, observers: [@Sendable (LogError) -> Void])>(
        (nil, []))

    package init() {}

    /// What went wrong first; `nil` while all is well.
    package var failure: LogError? {
        guard isFailed.load(ordering: .acquiring) else { return nil }
        return state.withLock { $0.failure }
    }

    /// Throws once the directory has failed.
    package func check() throws(LogError) {
        if let failure { throw failure }
    }

    /// Takes the directory offline for good; the first reason stays.
    package func fail(_ reason: String) {
        let observers = state.withLock { state -> [@Sendable (LogError) -> Void] in
            guard state.failure == nil else { return [] }
            state.failure = .offline(reason)
            isFailed.store(true, ordering: .releasing)
            defer { state.observers = [] }
            return state.observers
        }
        for observer in observers { observer(.offline(reason)) }
    }

    /// Takes the directory offline if `error` is a failed sync, and returns what to throw then.
    func noting(_ error: LogError) -> LogError {
        guard case .io(let cause) = error, cause.isFailedSync else { return error }
        fail("\(cause)")
        return failure ?? error
    }

    /// Runs `body`, lets its failure appear as a log's, and takes note of it.
    func watch<T>(_ body: () throws(FileError) -> T) throws(LogError) -> T {
        do throws(FileError) {
            return try body()
        } catch {
            throw noting(.io(error))
        }
    }

    /// Calls `body` once, on the thread that finds it out, when the directory fails.
    package func onFailure(_ body: @escaping @Sendable (LogError) -> Void) {
        let failure = state.withLock { state -> LogError? in
            if state.failure == nil { state.observers.append(body) }
            return state.failure
        }
        if let failure { body(failure) }
    }
}
