import Glibc
import Synchronization

/// SIGINT and SIGTERM for the client commands, which end well: flush, report, exit.
///
/// The first signal is noted; the second ends the process at once.
enum Interruption {
    /// Both ends of a pipe that a signal writes to, so that `poll` can wait for it.
    private static let pipe = makePipe()
    private static let count = Atomic<Int>(0)

    static var isRequested: Bool { count.load(ordering: .relaxed) > 0 }

    /// Becomes readable with the first signal.
    static var descriptor: Int32 { pipe.reader }

    /// Takes over both signals, and ignores SIGPIPE: a closed pipe is then an error of `write`.
    static func listen() {
        signal(SIGPIPE, SIG_IGN)
        guard pipe.writer >= 0 else { return }  // Made here, before a signal can need it.
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in Interruption.signalled() }
        sigaction(SIGINT, &action, nil)
        sigaction(SIGTERM, &action, nil)
    }

    /// Runs `body` on a thread of its own at the first signal.
    static func onRequest(_ body: @escaping @Sendable () -> Void) {
        detachThread {
            var poll = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            while Glibc.poll(&poll, 1, -1) < 0, errno == EINTR {}
            body()
        }
    }

    /// In a signal handler: an atomic counter, `write` and `_exit` only.
    private static func signalled() {
        if count.add(1, ordering: .relaxed).newValue > 1 { _exit(130) }
        var byte: UInt8 = 1
        _ = write(pipe.writer, &byte, 1)
    }

    private static func makePipe() -> (reader: Int32, writer: Int32) {
        var ends: [Int32] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else { return (-1, -1) }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        return (ends[0], ends[1])
    }
}
