import Glibc
import Logging

/// Writes each message as one line on standard error: time, level, node, message, then metadata.
struct LineLogHandler: LogHandler {
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]
    /// The node's name, such as `broker-1`.
    private let label: String

    init(label: String, level: Logger.Level) {
        self.label = label
        logLevel = level
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var line = "\(timestamp()) \(event.level.rawValue.uppercased()) \(label) \(event.message)"
        let all = metadata.merging(event.metadata ?? [:]) { $1 }
        for (key, value) in all.sorted(by: { $0.key < $1.key }) {
            let text = "\(value)"
            let needsQuotes = text.isEmpty || text.contains { $0.isWhitespace || $0 == "\"" }
            line += needsQuotes ? " \(key)=\(text.debugDescription)" : " \(key)=\(text)"
        }
        // A line break inside a message would forge a line of its own.
        printError(
            line.contains { $0.isNewline }
                ? line.split { $0.isNewline }.joined(separator: " ") : line)
    }

    /// The time in UTC with milliseconds, as in `2026-03-01T12:00:00.000Z`.
    private func timestamp() -> String {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        var parts = tm()
        gmtime_r(&now.tv_sec, &parts)
        let date = [Int(parts.tm_year) + 1900, Int(parts.tm_mon) + 1, Int(parts.tm_mday)]
        let time = [Int(parts.tm_hour), Int(parts.tm_min), Int(parts.tm_sec)]
        return date.map { padded($0, to: 2) }.joined(separator: "-") + "T"
            + time.map { padded($0, to: 2) }.joined(separator: ":") + "."
            + padded(now.tv_nsec / 1_000_000, to: 3) + "Z"
    }

    private func padded(_ number: Int, to width: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
}
