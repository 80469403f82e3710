import Synchronization

/// Counts the logs that are being opened or deleted, so that a stop can wait for them; any thread.
final class ReplicaOpenings: Sendable {
    private struct State {
        var count = 0
        var isStopping = false
        var waiter: CheckedContinuation<Void, Never>?
    }

    // A lock, because logs are opened on several threads and handed to several loops.
    private let state = Mutex(State())

    var isStopping: Bool { state.withLock { $0.isStopping } }

    /// Counts one more; `false` if none is to be opened any more.
    func begin() -> Bool {
        state.withLock { state in
            guard !state.isStopping else { return false }
            state.count += 1
            return true
        }
    }

    /// The log is open and somebody's, or closed again, or gone.
    func end() {
        let waiter = state.withLock { state -> CheckedContinuation<Void, Never>? in
            state.count -= 1
            guard state.count == 0 else { return nil }
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    /// From here on none is begun.
    func stop() {
        state.withLock { $0.isStopping = true }
    }

    /// Returns once none is under way; for the one who has called `stop`.
    func ended() async {
        await withCheckedContinuation { continuation in
            let isIdle = state.withLock { state in
                if state.count > 0 { state.waiter = continuation }
                return state.count == 0
            }
            if isIdle { continuation.resume() }
        }
    }
}
