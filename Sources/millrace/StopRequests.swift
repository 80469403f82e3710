import Glibc

/// The requests of the outside world that this process end.
///
/// The handler of SIGTERM and SIGINT only writes to a pipe, whose other end a thread reads that does
/// nothing else: so a second signal ends the process at once, whatever the rest of it is doing.
/// (Blocking the signals for `sigwait` is not enough: the first thread of a Swift program with an
/// asynchronous `main` waits in `sigsuspend`, which lets them through.)
enum StopRequests {
    /// Starts listening; `onStop` is called with the reason, on a thread of its own; to be called once.
    ///
    /// - Parameter parentPipe: a pipe whose other end the parent holds: its end of file means that the
    ///   parent is gone.
    static func listen(
        parentPipe: Int32? = nil, onStop: @escaping @Sendable (_ reason: String) -> Void
    ) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else {
            printError("millrace: cannot make a pipe: \(systemMessage(errno))")
            _exit(1)
        }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        signalPipe = ends[1]
        let input = ends[0]
        detachThread {
            onStop("signal \(nextByte(from: input) ?? 0)")
            let second = nextByte(from: input) ?? 0
            printError("millrace: signal \(second) again, ending at once")
            _exit(1)
        }
        // Also where a shell had them ignored, as it has SIGINT for its background jobs.
        for number in [SIGTERM, SIGINT] { signal(number, handleStopSignal) }
        signal(SIGPIPE, SIG_IGN)

        guard let parentPipe else { return }
        _ = fcntl(parentPipe, F_SETFD, FD_CLOEXEC)
        detachThread {
            while nextByte(from: parentPipe) != nil {}
            onStop("its parent ended")
            // Nobody is left who could lose patience with us.
            sleep(parentGoneGrace)
            _exit(1)
        }
    }

    /// Seconds for a clean end after the parent has gone.
    private static let parentGoneGrace: UInt32 = 2

    private static func nextByte(from descriptor: Int32) -> UInt8? {
        var byte: UInt8 = 0
        while true {
            let count = read(descriptor, &byte, 1)
            if count == 1 { return byte }
            if count == 0 || errno != EINTR { return nil }
        }
    }
}

/// Set once, before the handler that reads it is in place.
nonisolated(unsafe) private var signalPipe: Int32 = -1

/// Only what a signal handler may do: one `write`, with `errno` left as it was.
private func handleStopSignal(_ number: Int32) {
    let saved = errno
    var byte = UInt8(truncatingIfNeeded: number)
    _ = write(signalPipe, &byte, 1)
    errno = saved
}
