import Foundation

/// One process of a test, with its output in files; it is ended when the test lets go of it.
final class RunningProcess {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    /// What a process that has ended left behind.
    struct Result {
        var exitCode: Int32
        var output: String
        var errors: String
    }

    let name: String
    private let process = Process()
    private let input = Pipe()
    private let outputFile: URL
    private let errorFile: URL

    /// - Parameter directory: where its output is kept.
    init(_ executable: String, _ arguments: [String], in directory: URL) throws {
        name = ([executable] + arguments).joined(separator: " ")
        let id = UUID().uuidString.prefix(8)
        outputFile = directory.appendingPathComponent("\(id).out")
        errorFile = directory.appendingPathComponent("\(id).err")
        for file in [outputFile, errorFile] {
            try Data().write(to: file)
        }
        process.executableURL = URL(fileURLWithPath: executable)
        process.arguments = arguments
        process.standardInput = input
        process.standardOutput = try FileHandle(forWritingTo: outputFile)
        process.standardError = try FileHandle(forWritingTo: errorFile)
        try process.run()
    }

    deinit {
        if process.isRunning { Foundation.kill(process.processIdentifier, SIGKILL) }
    }

    var pid: pid_t { process.processIdentifier }
    var isRunning: Bool { process.isRunning }
    var output: String { (try? String(contentsOf: outputFile, encoding: .utf8)) ?? "" }
    var errors: String { (try? String(contentsOf: errorFile, encoding: .utf8)) ?? "" }

    /// Writes to its standard input; waits while it is not reading.
    func write(_ data: Data) throws {
        try input.fileHandleForWriting.write(contentsOf: data)
    }

    func closeInput() throws {
        try input.fileHandleForWriting.close()
    }

    func send(_ signal: Int32) {
        if process.isRunning { Foundation.kill(process.processIdentifier, signal) }
    }

    /// Waits for its end; past the limit it is killed and the test fails.
    @discardableResult
    func wait(within limit: Duration = .seconds(60)) async throws -> Result {
        do {
            try await eventually(within: limit, "\(name) ends") { !self.process.isRunning }
        } catch {
            send(SIGKILL)
            throw Failure(description: "\(error)\n\(output.suffix(2_000))\n\(errors.suffix(2_000))")
        }
        return Result(exitCode: process.terminationStatus, output: output, errors: errors)
    }

    /// Starts a process without input and waits for its end.
    static func run(
        _ executable: String, _ arguments: [String], in directory: URL,
        within limit: Duration = .seconds(60)
    ) async throws -> Result {
        let process = try RunningProcess(executable, arguments, in: directory)
        try process.closeInput()
        return try await process.wait(within: limit)
    }
}

/// Waits until `condition` holds; throws when it does not within the limit.
func eventually(
    within limit: Duration = .seconds(30), _ what: String,
    _ condition: () async throws -> Bool
) async throws {
    let clock = ContinuousClock()
    let deadline = clock.now + limit
    while try await !condition() {
        guard clock.now < deadline else {
            throw RunningProcess.Failure(description: "not within \(limit): \(what)")
        }
        try await Task.sleep(for: .milliseconds(20))
    }
}

/// Whether a process exists and has not ended, whoever its parent is.
func isAlive(_ pid: pid_t) -> Bool {
    guard let stat = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
        let state = stat.split(separator: ")").last?.first(where: { $0 != " " })
    else { return false }
    // A zombie has ended; only its parent has not asked how.
    return state != "Z" && state != "X"
}
