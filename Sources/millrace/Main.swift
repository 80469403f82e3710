import ArgumentParser
import Glibc

/// The one executable: every role of a cluster, and every command of its operators.
struct RootCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "millrace",
        abstract: "A distributed commit log: Raft controllers, brokers, and HTTP/2 clients.",
        groupedSubcommands: [
            CommandGroup(
                name: "Run",
                subcommands: [
                    DevCommand.self, ControllerCommand.self, BrokerCommand.self,
                    StorageCommand.self, ConfigCommand.self,
                ]),
            CommandGroup(
                name: "Use",
                subcommands: [
                    TopicCommand.self, ProduceCommand.self, ConsumeCommand.self,
                    QuorumCommand.self, MetadataCommand.self, ClusterCommand.self,
                    LogCommand.self, BenchCommand.self,
                ]),
        ])
}

/// Exit codes: 0 done, 1 failed, 2 bad usage.
@main
enum Main {
    static func main() async {
        var isParsed = false
        do {
            var command = try RootCommand.parseAsRoot()
            isParsed = true
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            exit(report(error, isParsed: isParsed))
        }
    }

    /// Prints what went wrong, or the help that was asked for; the exit code.
    ///
    /// - Parameter isParsed: whether the command had begun, so that its usage is not known here.
    private static func report(_ error: any Error, isParsed: Bool) -> Int32 {
        let code = RootCommand.exitCode(for: error)
        if code == .success {
            print(RootCommand.fullMessage(for: error))
            return 0
        }
        if code == .validationFailure, !isParsed {
            printError(RootCommand.fullMessage(for: error))
            return 2
        }
        let message = RootCommand.message(for: error)
        if !(error is ExitCode), !message.isEmpty { printError("millrace: \(message)") }
        return code == .validationFailure ? 2 : code.rawValue
    }
}

/// Why a command failed, as one line that says what to do.
struct CommandFailure: Error, CustomStringConvertible {
    var description: String

    init(_ description: String) {
        self.description = description
    }
}

/// Writes a line to standard error, in one call so that lines of several threads stay whole.
func printError(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = bytes.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
