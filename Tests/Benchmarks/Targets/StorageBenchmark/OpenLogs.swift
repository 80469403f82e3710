internal import Essentials
internal import Foundation
internal import Glibc
internal import Storage

/// How long it takes to open many logs after a clean stop, one after the other, and in how much memory.
struct OpenLogs {
    private let directory: String
    private let count: Int
    private let isAgain: Bool

    init(_ options: Options, in directory: String) {
        self.directory = directory
        count = options.count("logs", 10_000)
        isAgain = options.count("again", 0) == 1
    }

    func run() throws {
        // Opened by another process, whose memory is not that of making them.
        if isAgain { return try openAgain() }
        try make()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = ["open", directory, "logs=\(count)", "again=1"]
        try process.run()
        process.waitUntilExit()
    }

    private var folders: [PartitionFolder] {
        (0..<count).map { PartitionFolder(topic: "t", partition: Int32($0)) }
    }

    private func make() throws {
        let content = try Content(bytes: 1_024)
        let start = now()
        let volume = try LocalFileSystem().volume(of: directory)
        let all = try LogDirectory.open("\(directory)/logs")
        var logs: [Log] = []
        for folder in folders {
            let log = try all.createLog(folder, topicID: .random())
            try content.append(to: log)
            logs.append(log)
        }
        if let volume {
            let tickets = logs.map { $0.prepareFlush() }
            try FlushTicket.perform(tickets, on: volume)
            for (log, ticket) in zip(logs, tickets) { log.completeFlush(ticket) }
        }
        for log in logs { try all.closeLog(log) }
        try all.close(clean: true)
        print("making and closing \(count) logs took \(text(now() - start, 2)) s")
        fflush(nil)
    }

    private func openAgain() throws {
        let before = Self.residentBytes
        let start = now()
        let all = try LogDirectory.open("\(directory)/logs")
        let logs = try folders.map { try all.openLog($0.name).0 }
        let time = now() - start
        print("opening them took \(text(time, 2)) s")
        let bytes = Self.residentBytes - before
        print("open, they take \(bytes >> 20) MB, \(bytes / max(1, count)) bytes each")
        for log in logs { try log.close(clean: false) }
        try all.close(clean: false)
    }

    private static var residentBytes: Int {
        let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
        let fields = text.split(separator: " ")
        return fields.count > 1 ? (Int(fields[1]) ?? 0) * Int(getpagesize()) : 0
    }
}
