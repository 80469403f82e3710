import Essentials
import Logging
import Synchronization

/// Says every now and then how far a broker has got with opening its logs; any thread.
final class RecoveryProgress: Sendable {
    private struct State {
        /// Logs, and the bytes in them that have to be checked.
        var total = (logs: 0, bytes: 0)
        var done = (logs: 0, bytes: 0)
        var start = MonotonicTime.zero
        var lastLine = MonotonicTime.zero
    }

    private static let pause = Duration.seconds(2)

    private let logger: Logger
    // A lock, because logs are opened on several threads.
    private let state = Mutex(State())

    init(logger: Logger) {
        self.logger = logger
    }

    /// From now on so many logs are opened.
    func begin(logs: Int, bytes: Int, now: MonotonicTime = .now) {
        state.withLock { state in
            state = State(total: (logs, bytes), start: now, lastLine: now)
        }
    }

    /// One more is open, or can't be opened.
    func opened(checkedBytes: Int, now: MonotonicTime = .now) {
        let line = state.withLock { state -> String? in
            guard state.done.logs < state.total.logs else { return nil }
            state.done.logs += 1
            state.done.bytes += checkedBytes
            guard state.done.logs < state.total.logs else {
                // Silent where nobody has seen that it began.
                guard state.lastLine > state.start else { return nil }
                return "recovered \(state.total.logs) logs,"
                    + " \(Self.gigabytes(state.done.bytes)) GB checked,"
                    + " in \((now - state.start).milliseconds) ms"
            }
            guard now - state.lastLine >= Self.pause else { return nil }
            state.lastLine = now
            return Self.line(state, elapsed: now - state.start)
        }
        if let line { logger.info("\(line)") }
    }

    private static func line(_ state: State, elapsed: Duration) -> String {
        let logs = Double(state.done.logs) / Double(state.total.logs)
        // By the bytes, where there are any to speak of.
        let bytes = state.total.bytes > 0 ? Double(state.done.bytes) / Double(state.total.bytes) : 1
        let part = max(0.001, min(logs, bytes))
        let left = Double(elapsed.milliseconds) / 1_000 * (1 - part) / part
        return "recovering logs: \(state.done.logs) of \(state.total.logs),"
            + " \(gigabytes(state.done.bytes)) of \(gigabytes(state.total.bytes)) GB,"
            + " about \(Int(left.rounded(.up))) s left"
    }

    private static func gigabytes(_ bytes: Int) -> String {
        let tenths = bytes / 100_000_000
        return "\(tenths / 10).\(tenths % 10)"
    }
}
