internal import Essentials

/// A config a topic may have, by Kafka's names.
package enum TopicConfigKey: String, CaseIterable, Sendable {
    case cleanupPolicy = "cleanup.policy"
    case compressionType = "compression.type"
    case deleteRetentionMs = "delete.retention.ms"
    case fileDeleteDelayMs = "file.delete.delay.ms"
    case flushMessages = "flush.messages"
    case flushMs = "flush.ms"
    case flushPolicy = "flush.policy"
    case indexIntervalBytes = "index.interval.bytes"
    case maxCompactionLagMs = "max.compaction.lag.ms"
    case maxMessageBytes = "max.message.bytes"
    case messageTimestampAfterMaxMs = "message.timestamp.after.max.ms"
    case messageTimestampBeforeMaxMs = "message.timestamp.before.max.ms"
    case messageTimestampType = "message.timestamp.type"
    case minCleanableDirtyRatio = "min.cleanable.dirty.ratio"
    case minCompactionLagMs = "min.compaction.lag.ms"
    case minInSyncReplicas = "min.insync.replicas"
    case retentionBytes = "retention.bytes"
    case retentionMs = "retention.ms"
    case segmentBytes = "segment.bytes"
    case segmentIndexBytes = "segment.index.bytes"
    case segmentMs = "segment.ms"
    case uncleanLeaderElection = "unclean.leader.election.enable"

    package var definition: ConfigDefinition { Self.definitions[self] ?? declaration }

    private static let definitions = Dictionary(
        uniqueKeysWithValues: allCases.map { ($0, $0.declaration) })

    private var declaration: ConfigDefinition {
        func topic(
            _ values: ConfigValues, default defaultValue: String, nodeKey: String? = nil,
            _ documentation: String
        ) -> ConfigDefinition {
            ConfigDefinition(
                rawValue, .topics, values, default: defaultValue, nodeKey: nodeKey, documentation)
        }
        let milliseconds = "milliseconds"
        return switch self {
        case .cleanupPolicy:
            topic(
                .listOf(["delete", "compact"]), default: "delete", nodeKey: "log.cleanup.policy",
                "What happens to old records: delete removes them by age and size, compact keeps "
                    + "the last record of each key.")
        case .compressionType:
            topic(
                .oneOf(["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
                default: "producer", "How record batches are stored; producer leaves them as sent.")
        case .deleteRetentionMs:
            topic(
                .integer(0...Int64.max, unit: milliseconds), default: "86400000",
                "How long compaction keeps the record that says a key is deleted; longer than a replica "
                    + "may be away or a reader behind, which would never learn of it.")
        case .flushMessages:
            topic(
                .integer(1...Int64.max), default: "9223372036854775807",
                "How many records may be appended unflushed under flush.policy=interval.")
        case .fileDeleteDelayMs:
            topic(
                .integer(0...86_400_000, unit: milliseconds), default: "60000",
                nodeKey: "log.segment.delete.delay.ms",
                "How long the files of removed records stay, renamed, before they are removed.")
        case .flushMs:
            topic(
                .integer(1...3_600_000, unit: milliseconds), default: "1000", nodeKey: "flush.ms",
                "The longest an append stays unflushed under flush.policy=interval.")
        case .flushPolicy:
            topic(
                .oneOf(TopicFlushPolicy.allCases.map(\.rawValue)), default: "commit",
                nodeKey: "flush.policy",
                "When an append is made durable: commit (before it is acknowledged), interval (by "
                    + "flush.ms and flush.messages) or os (when the system does it).")
        case .indexIntervalBytes:
            topic(
                .integer(1...1 << 30, unit: "bytes"), default: "4096",
                nodeKey: "log.index.interval.bytes",
                "How many bytes of records go between two entries of an index; segments that are "
                    + "there keep theirs.")
        case .maxCompactionLagMs:
            topic(
                .integer(1...Int64.max, unit: milliseconds), default: "9223372036854775807",
                "A record that has waited for longer is compacted whatever the ratio says.")
        case .maxMessageBytes:
            topic(
                .integer(0...Int64(Int32.max), unit: "bytes"), default: "1048588",
                nodeKey: "message.max.bytes", "The largest record batch a producer may send.")
        case .messageTimestampAfterMaxMs:
            topic(
                .integer(0...Int64.max, unit: milliseconds), default: "3600000",
                nodeKey: "log.message.timestamp.after.max.ms",
                "How far a producer's timestamp may be after the broker's time.")
        case .messageTimestampBeforeMaxMs:
            topic(
                .integer(0...Int64.max, unit: milliseconds), default: "9223372036854775807",
                nodeKey: "log.message.timestamp.before.max.ms",
                "How far a producer's timestamp may be before the broker's time.")
        case .messageTimestampType:
            topic(
                .oneOf(TopicTimestampType.allCases.map(\.rawValue)), default: "CreateTime",
                nodeKey: "log.message.timestamp.type",
                "What a record's timestamp is: its producer's (CreateTime), or the time of its append "
                    + "(LogAppendTime).")
        case .minCleanableDirtyRatio:
            topic(
                .ratio, default: "0.5",
                "The share of a log that must be uncompacted before compaction is worth it.")
        case .minCompactionLagMs:
            topic(
                .integer(0...Int64.max, unit: milliseconds), default: "0",
                "How long a record is safe from compaction.")
        case .minInSyncReplicas:
            topic(
                .integer(1...Int64(Int32.max)),
                default: "2 for topics with 3 replicas or more, else 1",
                nodeKey: "min.insync.replicas",
                "An acks=all write is refused while fewer replicas than this are in sync.")
        case .retentionBytes:
            topic(
                .integer(-1...Int64.max, unit: "bytes"), default: "-1",
                nodeKey: "log.retention.bytes",
                "How much of a partition is kept at least; -1 for no limit.")
        case .retentionMs:
            topic(
                .integer(-1...Int64.max, unit: milliseconds), default: "604800000",
                nodeKey: "log.retention.ms",
                "How long records are kept; -1 for ever.")
        case .segmentBytes:
            topic(
                .integer(1024...Int64(Int32.max), unit: "bytes"), default: "1073741824",
                nodeKey: "log.segment.bytes",
                "A log starts a new segment when the current one would outgrow this.")
        case .segmentIndexBytes:
            topic(
                .integer(1024...Int64(Int32.max), unit: "bytes"), default: "10485760",
                nodeKey: "log.index.size.max.bytes",
                "A log starts a new segment when an index of the current one has grown to this.")
        case .segmentMs:
            topic(
                .integer(1...Int64.max, unit: milliseconds), default: "604800000",
                nodeKey: "log.roll.ms",
                "A log starts a new segment when the current one is older than this.")
        case .uncleanLeaderElection:
            topic(
                .flag, default: "false", nodeKey: "unclean.leader.election.enable",
                "Whether a replica that may lack committed records may lead if no other is left.")
        }
    }

    /// Checks configs as a user gave them for a topic.
    ///
    /// - Throws: INVALID_CONFIG with the first problem by name; an unknown name comes with the
    ///   known one that it most resembles.
    package static func validate(_ configs: [String: String]) throws(ControllerError) {
        for (name, value) in configs.sorted(by: { $0.key < $1.key }) {
            guard let key = TopicConfigKey(rawValue: name) else {
                let nearest = nearest(to: name, among: allCases.map(\.rawValue)) ?? ""
                throw ControllerError(
                    .invalidConfig,
                    "there is no topic config '\(name)'; did you mean '\(nearest)'?")
            }
            if let problem = key.definition.problem(with: value) {
                throw ControllerError(.invalidConfig, problem)
            }
        }
    }
}

/// A config of brokers that changes without a restart.
package enum BrokerConfigKey: String, CaseIterable, Sendable {
    case fetchMaxBytes = "fetch.max.bytes"
    case replicaFetchResponseMaxBytes = "replica.fetch.response.max.bytes"
    case replicaFetchWaitMaxMs = "replica.fetch.wait.max.ms"
    case replicaLagTimeMaxMs = "replica.lag.time.max.ms"

    package var definition: ConfigDefinition {
        func broker(
            _ values: ConfigValues, default defaultValue: String, _ documentation: String
        ) -> ConfigDefinition {
            ConfigDefinition(
                rawValue, .brokers, values, default: defaultValue, nodeKey: rawValue, documentation)
        }
        return switch self {
        case .fetchMaxBytes:
            broker(
                .integer(1024...1 << 30, unit: "bytes"), default: "57671680",
                "The most one fetch answers, whatever it asks for.")
        case .replicaFetchResponseMaxBytes:
            broker(
                .integer(1024...1 << 30, unit: "bytes"), default: "10485760",
                "The most one replica fetch answers; a single larger batch still comes through.")
        case .replicaFetchWaitMaxMs:
            broker(
                .integer(1...3_600_000, unit: "milliseconds"), default: "500",
                "The longest a follower's fetch waits for new records.")
        case .replicaLagTimeMaxMs:
            broker(
                .integer(100...3_600_000, unit: "milliseconds"), default: "30000",
                "A follower that has not caught up for this long leaves the in-sync replicas.")
        }
    }
}

/// A config of the active controller that changes without a restart.
package enum ClusterConfigKey: String, CaseIterable, Sendable {
    case defaultReplicationFactor = "default.replication.factor"
    case defaultPartitions = "num.partitions"

    package var definition: ConfigDefinition {
        switch self {
        case .defaultReplicationFactor:
            ConfigDefinition(
                rawValue, .cluster, .integer(1...100),
                default: "3, or the number of brokers if there are fewer", nodeKey: rawValue,
                "The replicas of a topic that is created without a number.")
        case .defaultPartitions:
            ConfigDefinition(
                rawValue, .cluster, .integer(1...Int64(ControllerOptions.maxPartitionsPerCall)),
                default: "1", nodeKey: rawValue,
                "The partitions of a topic that is created without a number.")
        }
    }
}

/// What the timestamps of a topic's records are.
package enum TopicTimestampType: String, CaseIterable, Sendable {
    /// What their producers said.
    case create = "CreateTime"
    /// When they were appended.
    case append = "LogAppendTime"
}

/// When appended records must be on stable storage.
package enum TopicFlushPolicy: String, CaseIterable, Sendable {
    /// Before they are acknowledged: group commit.
    case commit
    /// Every so often.
    case interval
    /// Whenever the operating system likes, as Kafka does by default.
    case os
}
