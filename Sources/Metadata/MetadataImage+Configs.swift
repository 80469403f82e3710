package import Essentials
internal import HashTreeCollections

extension MetadataImage {
    /// The value in force for a topic: its own, or the cluster's default for all topics.
    package func topicConfig(_ topic: String, key: String) -> String? {
        configs[.topic(topic)]?[key] ?? configs[.clusterDefault]?[key]
    }

    package func topicConfig(_ topic: String, key: TopicConfigKey) -> String? {
        topicConfig(topic, key: key.rawValue)
    }

    /// The topic's own configs, without defaults.
    package func ownConfigs(ofTopic topic: String) -> [String: String] {
        var own: [String: String] = [:]
        for (key, value) in configs[.topic(topic)] ?? [:] { own[key] = value }
        return own
    }

    /// How many in-sync replicas an `acks=all` write needs, for a partition with `replicas` of
    /// them: never more than there are.
    ///
    /// Without a config 2 where there are 3, else 1.
    package func minInSyncReplicas(topic: String, replicas: Int) -> Int {
        let configured = integer(topic, .minInSyncReplicas).map { Int(clamping: $0) }
        return min(configured ?? Self.minInSyncReplicas(forReplicas: replicas), replicas)
    }

    static func minInSyncReplicas(forReplicas replicas: Int) -> Int { replicas >= 3 ? 2 : 1 }

    /// `fallback` is what the node itself is configured with.
    package func flushPolicy(
        topic: String, default fallback: TopicFlushPolicy = .commit
    ) -> TopicFlushPolicy {
        topicConfig(topic, key: .flushPolicy).flatMap(TopicFlushPolicy.init) ?? fallback
    }

    /// The longest an append stays unflushed under `flush.policy=interval`.
    package func flushInterval(topic: String, default fallback: Duration) -> Duration {
        integer(topic, .flushMs).map { .milliseconds($0) } ?? fallback
    }

    /// How many records may be appended unflushed under `flush.policy=interval`.
    package func flushMessages(topic: String) -> Int64 {
        integerOrDefault(topic, .flushMessages)
    }

    /// How long records are kept; `nil` for ever.
    package func retention(
        topic: String, default fallback: Duration? = .seconds(7 * 24 * 3600)
    ) -> Duration? {
        guard let milliseconds = integer(topic, .retentionMs) else { return fallback }
        return milliseconds < 0 ? nil : .milliseconds(milliseconds)
    }

    /// The age at which a segment is closed.
    package func segmentAge(
        topic: String, default fallback: Duration = .seconds(7 * 24 * 3600)
    ) -> Duration {
        integer(topic, .segmentMs).map { .milliseconds($0) } ?? fallback
    }

    /// How many bytes a partition keeps at least; `nil` without a limit, which is the default.
    package func retentionBytes(topic: String, default fallback: Int64? = nil) -> Int64? {
        guard let bytes = integer(topic, .retentionBytes) else { return fallback }
        return bytes < 0 ? nil : bytes
    }

    /// How long the files of removed records stay.
    package func fileDeleteDelay(topic: String, default fallback: Duration) -> Duration {
        integer(topic, .fileDeleteDelayMs).map { .milliseconds($0) } ?? fallback
    }

    /// The size of an index at which its segment is closed.
    package func segmentIndexBytes(topic: String, default fallback: Int) -> Int {
        integer(topic, .segmentIndexBytes).map { Int(clamping: $0) } ?? fallback
    }

    /// The bytes between two entries of an index.
    package func indexIntervalBytes(topic: String, default fallback: Int) -> Int {
        integer(topic, .indexIntervalBytes).map { Int(clamping: $0) } ?? fallback
    }

    package func timestampType(
        topic: String, default fallback: TopicTimestampType = .create
    ) -> TopicTimestampType {
        topicConfig(topic, key: .messageTimestampType).flatMap(TopicTimestampType.init) ?? fallback
    }

    /// How many milliseconds before its append a record may claim to be.
    package func timestampBeforeMax(topic: String, default fallback: Int64) -> Int64 {
        integer(topic, .messageTimestampBeforeMaxMs) ?? fallback
    }

    /// How many milliseconds after its append a record may claim to be.
    package func timestampAfterMax(topic: String, default fallback: Int64) -> Int64 {
        integer(topic, .messageTimestampAfterMaxMs) ?? fallback
    }

    /// The size at which a segment is closed; 1 GiB by default.
    package func segmentBytes(topic: String, default fallback: Int = 1 << 30) -> Int {
        integer(topic, .segmentBytes).map { Int(clamping: $0) } ?? fallback
    }

    /// The largest record batch a producer may send; 1 MiB and its header by default, as in Kafka.
    package func maxMessageBytes(topic: String, default fallback: Int = 1_048_588) -> Int {
        integer(topic, .maxMessageBytes).map { Int(clamping: $0) } ?? fallback
    }

    package func allowsUncleanElection(topic: String, default fallback: Bool = false) -> Bool {
        topicConfig(topic, key: .uncleanLeaderElection).map { $0 == "true" } ?? fallback
    }

    /// Whether records go when they are too old or too many; otherwise only compaction removes any.
    package func deletesOldRecords(topic: String, default fallback: String = "delete") -> Bool {
        cleanupPolicies(topic, fallback).contains("delete")
    }

    package func compacts(topic: String, default fallback: String = "delete") -> Bool {
        cleanupPolicies(topic, fallback).contains("compact")
    }

    /// `fallback` is a list too.
    private func cleanupPolicies(_ topic: String, _ fallback: String) -> [String] {
        ConfigValues.items(of: topicConfig(topic, key: .cleanupPolicy) ?? fallback)
    }

    private func integerOrDefault(_ topic: String, _ key: TopicConfigKey) -> Int64 {
        integer(topic, key) ?? Int64(key.definition.defaultValue) ?? 0
    }

    private func integer(_ topic: String, _ key: TopicConfigKey) -> Int64? {
        topicConfig(topic, key: key).flatMap { Int64($0) }
    }

    // MARK: Brokers

    /// The value set for a broker, or for all of them; `nil` where the broker's own file decides.
    package func brokerConfig(_ broker: NodeID, key: BrokerConfigKey) -> String? {
        configs[.broker(broker)]?[key.rawValue] ?? configs[.clusterDefault]?[key.rawValue]
    }

    /// `replica.lag.time.max.ms`; `fallback` is what the broker itself is configured with.
    package func replicaLagTimeMax(
        broker: NodeID, default fallback: Duration
    ) -> Duration {
        integer(broker, .replicaLagTimeMaxMs).map { .milliseconds($0) } ?? fallback
    }

    /// `replica.fetch.wait.max.ms`.
    package func replicaFetchWaitMax(
        broker: NodeID, default fallback: Duration
    ) -> Duration {
        integer(broker, .replicaFetchWaitMaxMs).map { .milliseconds($0) } ?? fallback
    }

    /// `replica.fetch.response.max.bytes`.
    package func replicaFetchResponseMaxBytes(broker: NodeID, default fallback: Int) -> Int {
        integer(broker, .replicaFetchResponseMaxBytes).map { Int(clamping: $0) } ?? fallback
    }

    /// `fetch.max.bytes`.
    package func fetchMaxBytes(broker: NodeID, default fallback: Int) -> Int {
        integer(broker, .fetchMaxBytes).map { Int(clamping: $0) } ?? fallback
    }

    private func integer(_ broker: NodeID, _ key: BrokerConfigKey) -> Int64? {
        brokerConfig(broker, key: key).flatMap { Int64($0) }
    }

    // MARK: The cluster

    func clusterConfig(_ key: ClusterConfigKey) -> Int? {
        configs[.clusterDefault]?[key.rawValue].flatMap { Int($0) }
    }
}
