internal import Foundation
internal import Glibc
internal import Storage

/// Appends to one log through all of `Storage`, and lets fio write a file in the same way.
struct AppendRates {
    private let directory: String
    private let rounds: Int
    private let bytes: Int
    private let appendBytes: Int

    init(_ options: Options, in directory: String) {
        self.directory = directory
        rounds = options.count("rounds", 3)
        bytes = options.count("megabytes", 1_024) << 20
        appendBytes = options.count("kilobytes", 1_024) << 10
    }

    /// fio's patterns: through the page cache to a new file, one allocated before, and over an old one;
    /// past the page cache.
    private static let patterns: [(name: String, options: [String])] = [
        ("fio, new file", ["--fallocate=none"]),
        ("fio, allocated", ["--fallocate=native"]),
        ("fio, overwriting", ["--overwrite=1"]),
        ("fio, direct", ["--fallocate=native", "--direct=1"]),
    ]

    func run() throws {
        let content = try Content(bytes: appendBytes)
        print(
            "\(bytes >> 20) MB in appends of \(sizeText(appendBytes)); medians of \(rounds) rounds."
        )
        for isSynced in [false, true] {
            var rates: [String: [Double]] = [:]
            let own = isSynced ? "Log, commit" : "Log, os"
            for _ in 0..<rounds {
                rates[own, default: []].append(try appendRate(content, isSynced: isSynced))
                for (name, options) in Self.patterns {
                    guard let rate = fioRate(options, isSynced: isSynced) else { continue }
                    rates[name, default: []].append(rate)
                }
            }
            print(isSynced ? "\nDurable after each append" : "\nDurable at the end")
            printHeader(["", "MB/s", "the log's share"])
            let ownRate = rates[own]?.median ?? 0
            for name in [own] + Self.patterns.map(\.name) {
                guard let rate = rates[name]?.median else { continue }
                printRow([name, text(rate), text(100 * ownRate / rate) + " %"])
            }
        }
    }

    private func appendRate(_ content: Content, isSynced: Bool) throws -> Double {
        let path = "\(directory)/t-0"
        let (log, _) = try Log.open(at: path, afterCleanShutdown: false)
        let flusher = LogFlusher(volume: try LocalFileSystem().volume(of: path))
        defer { flusher.stop() }
        let start = now()
        var written = 0
        while written < bytes {
            try content.append(to: log)
            if isSynced { try flusher.flush(log) }
            written += content.bytes
        }
        if !isSynced { try log.flush() }
        let rate = Double(written) / (now() - start) / 1e6
        try log.delete()
        sync()
        return rate
    }

    /// MB/s of fio, its last sync included; `nil` where it can't be run.
    private func fioRate(_ options: [String], isSynced: Bool) -> Double? {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments =
            [
                "fio", "--name=fio", "--directory=\(directory)", "--rw=write", "--ioengine=psync",
                "--bs=\(appendBytes)", "--size=\(bytes)", "--output-format=json", "--unlink=1",
            ] + options + (isSynced ? ["--fdatasync=1"] : ["--end_fsync=1"])
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return nil }
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        sync()
        guard process.terminationStatus == 0,
            let report = try? JSONSerialization.jsonObject(with: data) as? [String: Any],
            let job = (report["jobs"] as? [[String: Any]])?.first,
            let rate = (job["write"] as? [String: Any])?["bw_bytes"] as? Double
        else {
            print("fio could not be run, or said something else than expected")
            return nil
        }
        return rate / 1e6
    }
}
