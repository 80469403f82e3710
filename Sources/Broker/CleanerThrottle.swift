import Essentials
import Glibc
import Synchronization

/// Keeps what compaction reads and writes below a rate, over all its threads.
final class CleanerThrottle: Sendable {
    private let bytesPerSecond: Int64?
    /// From when on more may be read or written.
    private let free = Mutex(MonotonicTime.zero)
    private let stopping = Atomic<Bool>(false)

    init(bytesPerSecond: Int64?) {
        self.bytesPerSecond = bytesPerSecond
    }

    var isStopping: Bool { stopping.load(ordering: .acquiring) }

    /// Lets nobody wait any more.
    func stop() {
        stopping.store(true, ordering: .releasing)
    }

    /// When `bytes` may be read or written that are asked for at `now`.
    func reserve(_ bytes: Int, now: MonotonicTime) -> MonotonicTime {
        guard let bytesPerSecond else { return now }
        let time = Duration.nanoseconds(
            Int64((Double(bytes) / Double(bytesPerSecond) * 1e9).rounded()))
        return free.withLock { free in
            let start = max(free, now)
            free = start + time
            return start
        }
    }

    /// Waits until `bytes` may be read or written, or for the end.
    func wait(for bytes: Int) {
        let start = reserve(bytes, now: .now)
        // In small pieces, since a broker that stops doesn't wait for it.
        while !isStopping {
            let left = start - .now
            guard left > .zero else { return }
            usleep(UInt32(clamping: min(left.nanoseconds / 1_000, 50_000)))
        }
    }
}
