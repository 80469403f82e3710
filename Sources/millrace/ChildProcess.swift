import Glibc

/// Starting other processes and learning of their end.
enum ChildProcess {
    /// How a process ended.
    struct Exit: Sendable, Hashable, CustomStringConvertible {
        /// As `waitpid` reports it.
        var status: Int32

        var signal: Int32? { status & 0x7f == 0 ? nil : status & 0x7f }
        var code: Int32? { signal == nil ? (status >> 8) & 0xff : nil }

        var description: String {
            guard let signal else { return "ended with exit code \(code ?? 0)" }
            let names = [
                SIGABRT: "SIGABRT", SIGBUS: "SIGBUS", SIGFPE: "SIGFPE", SIGHUP: "SIGHUP",
                SIGILL: "SIGILL", SIGINT: "SIGINT", SIGKILL: "SIGKILL", SIGSEGV: "SIGSEGV",
                SIGTERM: "SIGTERM", SIGTRAP: "SIGTRAP",
            ]
            return "was ended by signal \(signal)" + (names[signal].map { " (\($0))" } ?? "")
        }
    }

    /// The file descriptor at which a child finds the read end of its parent's pipe.
    static let parentPipe: Int32 = 3

    /// Starts a process in a group of its own, so that Ctrl-C reaches the parent alone.
    ///
    /// Its standard output and error are appended to `logPath`.
    static func spawn(
        executable: String, arguments: [String], logPath: String, pipe: Int32
    ) throws(CommandFailure) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(
            &actions, STDOUT_FILENO, logPath, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        posix_spawn_file_actions_adddup2(&actions, pipe, parentPipe)

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // We block and ignore signals that the child must see.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        var ignored = none
        sigaddset(&ignored, SIGPIPE)
        posix_spawnattr_setsigdefault(&attributes, &ignored)
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(
            &attributes,
            Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        var words: [UnsafeMutablePointer<CChar>?] = ([executable] + arguments).map { strdup($0) }
        defer { words.forEach { free($0) } }
        words.append(nil)
        var pid: pid_t = 0
        let result = posix_spawn(&pid, executable, &actions, &attributes, words, environ)
        guard result == 0 else {
            throw CommandFailure("cannot start \(executable): \(systemMessage(result))")
        }
        return pid
    }

    /// Calls `onExit` on a thread of its own when the child `pid` has ended; to be called once a child.
    static func watch(_ pid: pid_t, onExit: @escaping @Sendable (Exit) -> Void) {
        detachThread {
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
            onExit(Exit(status: status))
        }
    }

    /// A path at which this very program can be started again.
    static func ownExecutable() -> String {
        var bytes = [CChar](repeating: 0, count: 4_096)
        let count = readlink("/proc/self/exe", &bytes, bytes.count)
        guard count > 0 else { return "/proc/self/exe" }
        let path = String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // A program that was rebuilt meanwhile is gone under its old path.
        return access(path, X_OK) == 0 ? path : "/proc/self/exe"
    }
}
