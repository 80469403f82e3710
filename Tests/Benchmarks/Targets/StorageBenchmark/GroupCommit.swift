internal import Essentials
internal import Foundation
internal import Glibc
internal import Storage

/// How many single records a second become durable, and after how long, when so many logs are written
/// at a time: each gets its next record as soon as the last one is durable.
struct GroupCommit {
    private enum Way: String, CaseIterable {
        case alone = "each on its own"
        case together = "always all together"
        case adaptive = "whatever is cheaper"
    }

    private let directory: String
    private let seconds: Double
    private let counts: [Int]

    init(_ options: Options, in directory: String) {
        self.directory = directory
        seconds = options.number("seconds", 3)
        let only = options.count("logs", 0)
        counts = only > 0 ? [only] : [1, 6, 100, 1_000]
    }

    func run() throws {
        printHeader(
            ["logs", "synced", "acks/s", "p50 us", "p99 us", "CPU us/ack", "logs in a sync"])
        for count in counts {
            let logs = try (0..<count).map {
                try Log.open(at: "\(directory)/t-\($0)", afterCleanShutdown: false).0
            }
            for way in Way.allCases { try measure(way, logs) }
            for log in logs { try log.delete() }
        }
    }

    private func measure(_ way: Way, _ logs: [Log]) throws {
        let content = try Content(bytes: 1_024)
        guard let volume = try LocalFileSystem().volume(of: directory) else {
            if way == .alone { print("the file system can't be synced as a whole") }
            return
        }
        for log in logs { try content.append(to: log) }
        // Their first records cost more, and are no part of it.
        try FlushTicket.perform(logs.map { $0.prepareFlush() }, on: volume)

        var latencies: [Double] = []
        let startProcessor = processorTime()
        let start = now()
        var perSync = 0.0
        if way == .together {
            while now() - start < seconds {
                let appended = now()
                for log in logs { try content.append(to: log) }
                let tickets = logs.map { $0.prepareFlush() }
                try FlushTicket.perform(tickets, on: volume)
                for (log, ticket) in zip(logs, tickets) { log.completeFlush(ticket) }
                latencies += Array(repeating: now() - appended, count: logs.count)
            }
            perSync = Double(logs.count)
        } else {
            let flusher = LogFlusher(volume: way == .adaptive ? volume : nil)
            latencies = try keepWriting(content, to: logs, with: flusher)
            flusher.stop()
            let counts = flusher.counts
            perSync =
                Double(counts.alone + counts.logsTogether) / Double(counts.alone + counts.together)
        }
        let time = now() - start
        printRow([
            "\(logs.count)", way.rawValue, text(Double(latencies.count) / time),
            text(latencies.median * 1e6), text(latencies.quantile(0.99) * 1e6),
            text((processorTime() - startProcessor) / Double(latencies.count) * 1e6),
            text(perSync, 1),
        ])
    }

    private func keepWriting(
        _ content: Content, to logs: [Log], with flusher: LogFlusher
    ) throws -> [Double] {
        let durable = Arrivals<(number: Int, ticket: FlushTicket, result: Result<Void, LogError>)>()
        var appended = [Double](repeating: 0, count: logs.count)
        func append(_ number: Int) throws {
            appended[number] = now()
            try content.append(to: logs[number])
            let ticket = logs[number].prepareFlush()
            flusher.submit(ticket) { durable.add((number, ticket, $0)) }
        }
        var latencies: [Double] = []
        let end = now() + seconds
        for number in logs.indices { try append(number) }
        var waiting = logs.count
        while waiting > 0 {
            for (number, ticket, result) in durable.take() {
                try result.get()
                logs[number].completeFlush(ticket)
                let time = now()
                latencies.append(time - appended[number])
                waiting -= 1
                guard time < end else { continue }
                try append(number)
                waiting += 1
            }
        }
        return latencies
    }
}
