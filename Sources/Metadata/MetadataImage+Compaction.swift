internal import Essentials

/// What topics say about compaction.
extension MetadataImage {
    /// The share of a log that must be uncompacted before compaction is worth it.
    package func minCleanableDirtyRatio(topic: String) -> Double {
        value(topic, .minCleanableDirtyRatio) { Double($0) } ?? 0.5
    }

    /// How long a record is safe from compaction.
    package func minCompactionLag(topic: String) -> Duration {
        .milliseconds(value(topic, .minCompactionLagMs) { Int64($0) } ?? 0)
    }

    /// How long a record may wait for compaction, whatever the ratio; `nil` for ever.
    package func maxCompactionLag(topic: String) -> Duration? {
        guard let lag = value(topic, .maxCompactionLagMs, { Int64($0) }), lag < .max else {
            return nil
        }
        return .milliseconds(lag)
    }

    /// How long compaction keeps the record that says a key is deleted.
    package func deleteRetention(topic: String) -> Duration {
        .milliseconds(value(topic, .deleteRetentionMs) { Int64($0) } ?? 0)
    }

    private func value<Value>(
        _ topic: String, _ key: TopicConfigKey, _ parse: (String) -> Value?
    ) -> Value? {
        topicConfig(topic, key: key).flatMap(parse) ?? parse(key.definition.defaultValue)
    }
}
