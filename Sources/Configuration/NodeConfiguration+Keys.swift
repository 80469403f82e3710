import Essentials

extension NodeConfiguration {
    /// Every key a node knows, in the order in which `millrace config` prints them.
    package static let keys: [ConfigurationKey] =
        identityKeys + quorumKeys + replicationKeys + topicKeys + logKeys + cleanerKeys
        + processKeys

    private static let identityKeys: [ConfigurationKey] = [
        .text(
            "node.id", \.nodeID, form: "a whole number of at least 0", default: "required",
            parse: { Int32($0).flatMap { $0 >= 0 ? NodeID($0) : nil } },
            show: { String($0.rawValue) },
            "The node's id, unique in the cluster over brokers and controllers."),
        .choice(
            "process.roles", \.role, default: "required",
            "What this process is. One process has one role."),
        .text(
            "listeners", \.listener, form: "one address such as PLAINTEXT://0.0.0.0:9092",
            default: "PLAINTEXT://:9092 for a broker, required for a controller",
            parse: { parseListener($0) }, show: { "PLAINTEXT://\($0)" },
            "The address to listen on; no host means every interface."),
        .text(
            "advertised.listeners", \.advertisedListener,
            form: "one address such as PLAINTEXT://broker1.example.com:9092",
            default: "listeners, with this machine's name for every interface",
            parse: { parseListener($0) }, show: { "PLAINTEXT://\($0)" },
            "The address that clients and other nodes are told to use."),
        .text(
            "log.dirs", \.logDirectories, form: "directories, separated by commas",
            parse: { text in
                let directories = text.split(separator: ",").map { $0.trimmingBlanks }
                return directories.isEmpty || directories.contains("") ? nil : directories
            },
            show: { $0.joined(separator: ",") },
            "The directories that hold the logs; 'millrace storage format' prepares them."),
        .text(
            "metadata.log.dir", \.metadataLogDirectory, form: "a directory",
            default: "the first of log.dirs", parse: { $0.isEmpty ? nil : $0 }, show: { $0 },
            "The directory that holds the metadata log."),
        .text(
            "broker.rack", \.rack, form: "a name", default: "none",
            parse: { $0.isEmpty ? .some(nil) : $0 }, show: { $0 ?? "" },
            "Where the broker stands. The replicas of a partition are spread over racks."),
    ]

    private static let quorumKeys: [ConfigurationKey] = [
        .text(
            "controller.quorum.bootstrap.servers", \.bootstrapServers,
            form: "host:port of some controllers, separated by commas", default: "required",
            parse: { text in
                let parts = text.split(separator: ",", omittingEmptySubsequences: false)
                let servers = parts.compactMap { part in
                    Endpoint(part.trimmingBlanks).flatMap { $0.isReachable ? $0 : nil }
                }
                return servers.count == parts.count ? servers : nil
            },
            show: { $0.map(\.description).joined(separator: ",") },
            "Some controllers, through which a node finds the metadata quorum, whoever its voters "
                + "are; the same on every node."),
        .milliseconds(
            "controller.quorum.election.timeout.ms", \.quorumElectionTimeout, 50...3_600_000,
            "The longest a candidate waits for votes before it tries again."),
        .milliseconds(
            "controller.quorum.fetch.timeout.ms", \.quorumFetchTimeout, 50...3_600_000,
            "A voter that has not reached the leader for this long stands for election; a leader "
                + "that has not heard from a majority for this long steps down."),
        .integer(
            "metadata.log.max.record.bytes.between.snapshots", \.metadataSnapshotBytes,
            65_536...1 << 40, unit: "bytes",
            "A snapshot of the metadata is written when its log has grown by this since the last."),
        .milliseconds(
            "metadata.log.max.snapshot.interval.ms", \.metadataSnapshotInterval, 0...1 << 40,
            "A snapshot of the metadata is written when the last is this old and its log has grown; "
                + "0 for never."),
        .milliseconds(
            "broker.session.timeout.ms", \.brokerSessionTimeout, 100...3_600_000,
            "A broker that has been silent for this long is fenced."),
        .milliseconds(
            "broker.heartbeat.interval.ms", \.brokerHeartbeatInterval, 10...3_600_000,
            "How often a broker tells the active controller that it is alive."),
    ]

    private static let replicationKeys: [ConfigurationKey] = [
        .milliseconds(
            "replica.lag.time.max.ms", \.replicaLagTimeMax, 100...3_600_000,
            "A follower that has not caught up for this long leaves the in-sync replicas."),
        .milliseconds(
            "replica.fetch.wait.max.ms", \.replicaFetchMaxWait, 1...3_600_000,
            "The longest a follower's fetch waits for new records."),
        .integer(
            "replica.fetch.response.max.bytes", \.replicaFetchResponseMaxBytes, 1024...1 << 30,
            unit: "bytes",
            "The most one replica fetch answers; a single larger batch still comes through."),
        .flag(
            "controlled.shutdown.enable", \.controlledShutdown,
            "Whether a broker hands its partitions over before it stops."),
    ]

    private static let topicKeys: [ConfigurationKey] = [
        .integer(
            "num.partitions", \.defaultPartitions, 1...100_000,
            "The partitions of a topic that is created without a number."),
        .integer(
            "default.replication.factor", \.defaultReplicationFactor, 1...100,
            default: "3, or the number of brokers if there are fewer",
            "The replicas of a topic that is created without a number."),
        .integer(
            "min.insync.replicas", \.minInSyncReplicas, 1...100,
            default: "2 for topics with 3 replicas or more, else 1",
            "An acks=all write is refused while fewer replicas than this are in sync."),
        .flag(
            "unclean.leader.election.enable", \.uncleanLeaderElection,
            "Whether a replica that may lack committed records may lead if no other is left."),
        .integer(
            "message.max.bytes", \.messageMaxBytes, 1024...1 << 30, unit: "bytes",
            "The largest record batch a producer may send."),
    ]

    /// Of the logs of topics, and defaults of those that say nothing themselves.
    private static let logKeys: [ConfigurationKey] = [
        .text(
            "log.cleanup.policy", \.logCleanupPolicy, form: "delete, compact or both",
            parse: { text in
                let parts = text.split(separator: ",", omittingEmptySubsequences: false)
                let policies = parts.compactMap { CleanupPolicy(rawValue: $0.trimmingBlanks) }
                return policies.count == parts.count ? policies : nil
            },
            show: { $0.map(\.rawValue).joined(separator: ",") },
            "What happens to old records: delete removes them by age and size, compact keeps the last "
                + "record of each key."),
        .integer(
            "log.retention.ms", \.logRetentionMilliseconds, -1...Int64.max, unit: "milliseconds",
            default: "log.retention.minutes", "How long records are kept; -1 for ever."),
        .integer(
            "log.retention.minutes", \.logRetentionMinutes, -1...Int64(Int32.max),
            unit: "minutes", default: "log.retention.hours",
            "How long records are kept, where log.retention.ms is not set; -1 for ever."),
        .integer(
            "log.retention.hours", \.logRetentionHours, -1...Int64(Int32.max), unit: "hours",
            "How long records are kept, where neither log.retention.ms nor log.retention.minutes is "
                + "set; -1 for ever."),
        .integer(
            "log.retention.bytes", \.logRetentionBytes, -1...Int64.max, unit: "bytes",
            "How much of a partition is kept at least; -1 for no limit."),
        .integer(
            "log.segment.bytes", \.logSegmentBytes, 65_536...Int(Int32.max), unit: "bytes",
            "A log starts a new segment when the current one would outgrow this."),
        .milliseconds(
            "log.roll.ms", \.logRoll, 1...Int64(Int32.max) * 3_600_000,
            default: "log.roll.hours",
            "A log starts a new segment when the current one is older than this."),
        .integer(
            "log.roll.hours", \.logRollHours, 1...Int64(Int32.max), unit: "hours",
            "A log starts a new segment when the current one is older than this, where log.roll.ms is "
                + "not set."),
        .integer(
            "log.index.size.max.bytes", \.logIndexMaxBytes, 1024...Int(Int32.max), unit: "bytes",
            "A log starts a new segment when an index of the current one has grown to this."),
        .integer(
            "log.index.interval.bytes", \.logIndexIntervalBytes, 1...1 << 30,
            unit: "bytes", "How many bytes of records go between two entries of an index."),
        .text(
            "log.message.timestamp.type", \.messageTimestampType,
            form: "one of CreateTime, LogAppendTime", parse: { TimestampType(rawValue: $0) },
            show: { $0.rawValue },
            "What a record's timestamp is: its producer's, or the time of its append."),
        .integer(
            "log.message.timestamp.before.max.ms", \.messageTimestampBeforeMaxMilliseconds,
            0...Int64.max, unit: "milliseconds",
            "How far a producer's timestamp may be before the broker's time."),
        .integer(
            "log.message.timestamp.after.max.ms", \.messageTimestampAfterMaxMilliseconds,
            0...Int64.max, unit: "milliseconds",
            "How far a producer's timestamp may be after the broker's time."),
        .milliseconds(
            "log.retention.check.interval.ms", \.logRetentionCheckInterval, 1...86_400_000,
            "How often a broker looks for records that its topics keep no longer."),
        .milliseconds(
            "log.segment.delete.delay.ms", \.logSegmentDeleteDelay, 0...86_400_000,
            "How long the files of such records stay, renamed, before they are removed."),
        .milliseconds(
            "producer.id.expiration.ms", \.producerIDExpiration, 1_000...Int64(Int32.max),
            "How long a partition knows an idempotent producer that sends nothing; repeated batches "
                + "are recognised for at least so long."),
        .choice(
            "flush.policy", \.flushPolicy,
            "When an append is made durable: commit (before it is acknowledged), interval (by "
                + "flush.ms) or os (when the system does it)."),
        .milliseconds(
            "flush.ms", \.flushInterval, 1...Int64(3_600_000),
            "The longest an append stays unflushed under flush.policy=interval."),
    ]

    private static let processKeys: [ConfigurationKey] = [
        .integer(
            "num.recovery.threads.per.data.dir", \.recoveryThreads, 1...1024,
            "The threads for each log directory that open, check and close logs."),
        .integer(
            "log.max.open.files", \.logMaxOpenFiles, 16...1 << 30,
            default: "half of the files that the system lets the process open",
            "The most files of logs that are open at a time; those not used lately are closed."),
        .integer(
            "num.network.threads", \.networkThreads, 1...1024, default: "the number of cores",
            "The event loops that carry connections and partitions."),
        .integer(
            "socket.request.max.bytes", \.requestMaxBytes, 65_536...1 << 30, unit: "bytes",
            "The largest request that is accepted."),
        .integer(
            "fetch.max.bytes", \.fetchMaxBytes, 1024...1 << 30, unit: "bytes",
            "The most one fetch answers, whatever it asks for."),
        .integer(
            "queued.max.request.bytes", \.queuedMaxRequestBytes, 1 << 20...1 << 40, unit: "bytes",
            "The memory for requests until they are answered; connections wait beyond it."),
        .integer(
            "queued.max.response.bytes", \.queuedMaxResponseBytes, 1 << 20...1 << 40,
            unit: "bytes",
            "The memory for answers to consumers until they are sent; fetches wait beyond it."),
        .choice("log.level", \.logLevel, "The least severe message that is logged."),
    ]
}

/// `PLAINTEXT://host:port`, or just `host:port`.
private func parseListener(_ text: String) -> Endpoint? {
    for scheme in ["PLAINTEXT://", "CONTROLLER://"] where text.hasPrefix(scheme) {
        return Endpoint(String(text.dropFirst(scheme.count)))
    }
    return Endpoint(text)
}
