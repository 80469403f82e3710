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

        """

    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 3 else {
            FileHandle.standardError.write(Data(usage.utf8))
            exit(2)
        }
        let options = Options(arguments[3...])
        let directory = "\(arguments[2])/millrace-benchmark-\(getpid())"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        switch arguments[1] {
        case "write-path": WritePath(options, in: directory).run()
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
