internal import Foundation
internal import Glibc

/// Measures how bytes reach the disk and come back from it.
///
/// Files are written below the directory that is given, in one that is removed at the end.
@main
enum StorageBenchmark {
    private static let usage = """
        usage: StorageBenchmark MEASUREMENT DIRECTORY [KEY=VALUE...]

        write-path    ways to write a file: rate, processor time, latency
                      seconds=1 rounds=3 megabytes=1024 (for each cell of the table)
        append        a log that is appended to, beside fio with the same pattern
                      rounds=3 megabytes=1024 kilobytes=1024 (of an append)
        group-commit  acknowledgements of single records, by how many logs are written
                      seconds=3
        read          a log that is read from one end to the other, beside bare loops
                      rounds=3 megabytes=2048
        open          time and memory of logs that are opened after a clean stop
                      logs=10000
        serve         ways to send what is in the page cache over loopback TCP
                      rounds=5 megabytes=512 batch=16384

        """

    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 3 else {
            FileHandle.standardError.write(Data(usage.utf8))
            exit(2)
        }
        let options = Options(arguments[3...])
        if arguments[1] == "open", options.count("again", 0) == 1 {
            return try OpenLogs(options, in: arguments[2]).run()
        }
        let directory = "\(arguments[2])/millrace-benchmark-\(getpid())"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        switch arguments[1] {
        case "write-path": WritePath(options, in: directory).run()
        case "append": try AppendRates(options, in: directory).run()
        case "group-commit": try GroupCommit(options, in: directory).run()
        case "read": try ReadRates(options, in: directory).run()
        case "open": try OpenLogs(options, in: directory).run()
        case "serve": try Serve(options, in: directory).run()
        default:
            FileHandle.standardError.write(Data(usage.utf8))
        }
    }
}

/// Numbers given as `key=value`.
struct Options {
    private var values: [String: Double] = [:]

    init(_ arguments: some Sequence<String>) {
        for argument in arguments {
            let parts = argument.split(separator: "=", maxSplits: 1)
            if parts.count == 2, let value = Double(parts[1]) { values[String(parts[0])] = value }
        }
    }

    func number(_ key: String, _ standard: Double) -> Double { values[key] ?? standard }
    func count(_ key: String, _ standard: Int) -> Int { Int(values[key] ?? Double(standard)) }
}
