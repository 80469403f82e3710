import Glibc
import Synchronization

/// A terminal's other screen, which a live view draws on; the usual one comes back in the end.
enum Terminal {
    /// Set while the other screen is shown, and never again once the process is about to end.
    private static let isOpen = Mutex(false)
    /// The other screen, without a cursor.
    private static let enter: StaticString = "\u{1b}[?1049h\u{1b}[?25l"
    private static let leave: StaticString = "\u{1b}[?25h\u{1b}[?1049l"

    static var isInteractive: Bool { isatty(STDOUT_FILENO) == 1 }

    /// Columns and rows; 80 and 24 if the terminal does not tell.
    static var size: (columns: Int, rows: Int) {
        var size = winsize()
        guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0
        else { return (80, 24) }
        return (Int(size.ws_col), Int(size.ws_row))
    }

    /// Shows the other screen until the process ends; Ctrl-C and SIGTERM then end it with code 0.
    static func open() {
        isOpen.withLock { isOpen in
            write(enter)
            isOpen = true
        }
        Interruption.listen()
        Interruption.onRequest { end() }
        // Ctrl-Z leaves the shell its screen, and `fg` takes the other one again.
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in
            Terminal.write(Terminal.leave)
            kill(getpid(), SIGSTOP)
            Terminal.write(Terminal.enter)
        }
        sigaction(SIGTSTP, &action, nil)
    }

    /// Shows the usual screen again.
    static func close() {
        isOpen.withLock { isOpen in
            if isOpen { write(leave) }
            isOpen = false
        }
    }

    private static func end() -> Never {
        isOpen.withLock { isOpen in
            if isOpen { write(leave) }
            // Before the lock is let go, so that no frame is drawn on the usual screen.
            _exit(0)
        }
    }

    /// Replaces what is on the other screen; lines that are too long go on in the next.
    static func draw(_ text: [String]) {
        let (columns, rows) = size
        let lines = text.flatMap { wrapped($0, at: columns) }
        var text = "\u{1b}[H"
        for line in lines.prefix(rows) {
            text += line + "\u{1b}[K\n"
        }
        // The last line ends without a line feed, which could scroll.
        if lines.count >= rows { text.removeLast() }
        text += "\u{1b}[J"
        isOpen.withLock { isOpen in
            if isOpen { write(text) }
        }
    }

    private static func wrapped(_ line: String, at columns: Int) -> [Substring] {
        var rest = line[...]
        var parts: [Substring] = []
        repeat {
            parts.append(rest.prefix(columns))
            rest = rest.dropFirst(columns)
        } while !rest.isEmpty
        return parts
    }

    /// Safe in a signal handler.
    private static func write(_ text: StaticString) {
        _ = Glibc.write(STDOUT_FILENO, text.utf8Start, text.utf8CodeUnitCount)
    }

    private static func write(_ text: String) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }
}
