extension NodeConfiguration {
    static let cleanerKeys: [ConfigurationKey] = [
        .flag(
            "log.cleaner.enable", \.logCleanerEnabled,
            "Whether a broker compacts the logs of topics whose cleanup.policy includes compact."),
        .integer(
            "log.cleaner.threads", \.logCleanerThreads, 1...64,
            "The logs that a broker compacts at a time."),
        .milliseconds(
            "log.cleaner.backoff.ms", \.logCleanerBackoff, 1...86_400_000,
            "How often a broker looks for logs to compact."),
        .integer(
            "log.cleaner.dedupe.buffer.size", \.logCleanerDedupeBufferSize, 4_096...1 << 36,
            unit: "bytes",
            "The memory for the keys of the logs that are being compacted, 24 bytes a key; a log with "
                + "more is compacted bit by bit."),
        .integer(
            "log.cleaner.io.max.bytes.per.second", \.logCleanerMaxBytesPerSecond,
            1_024...Int64.max, unit: "bytes", default: "no limit",
            "The most that compaction reads and writes a second."),
    ]
}
