package import Essentials

/// Every setting of one broker or controller process, checked and in real types.
///
/// `keys` declares how each is written and explains it; the initial values here are the defaults.
package struct NodeConfiguration: Hashable, Sendable {
    // `node.id`
    package var nodeID: NodeID
    // `process.roles`
    package var role: Role
    /// `listeners`: the one address this process listens on.
    package var listener = Endpoint(host: "", port: 9092)
    /// `advertised.listeners`: where others reach this process.
    ///
    /// After `load` never a wildcard; port 0 means "the port that `listener` got".
    package var advertisedListener = Endpoint(host: "", port: 9092)
    /// `log.dirs`; never empty.
    package var logDirectories = ["/var/lib/millrace"]
    /// `metadata.log.dir`: where the metadata log lives; the first of `logDirectories` by default.
    package var metadataLogDirectory = "/var/lib/millrace"
    /// `controller.quorum.bootstrap.servers`: any controllers, through which the others are found.
    package var bootstrapServers: [Endpoint] = []
    // `broker.rack`
    package var rack: String?

    /// `num.network.threads`: event loops that carry connections and partitions.
    package var networkThreads = availableCores()

    // `broker.session.timeout.ms`
    package var brokerSessionTimeout: Duration = .milliseconds(3_000)
    // `broker.heartbeat.interval.ms`
    package var brokerHeartbeatInterval: Duration = .milliseconds(500)
    // `controller.quorum.election.timeout.ms`
    package var quorumElectionTimeout: Duration = .milliseconds(1_000)
    // `controller.quorum.fetch.timeout.ms`
    package var quorumFetchTimeout: Duration = .milliseconds(2_000)
    // `metadata.log.max.record.bytes.between.snapshots`
    package var metadataSnapshotBytes = 20_971_520
    /// `metadata.log.max.snapshot.interval.ms`; zero never takes one only because time has passed.
    package var metadataSnapshotInterval: Duration = .milliseconds(3_600_000)

    /// `replica.lag.time.max.ms`; at least `replicaFetchMaxWait`.
    package var replicaLagTimeMax: Duration = .milliseconds(30_000)
    // `replica.fetch.wait.max.ms`
    package var replicaFetchMaxWait: Duration = .milliseconds(500)
    // `replica.fetch.response.max.bytes`
    package var replicaFetchResponseMaxBytes = 10_485_760
    /// `message.max.bytes`: the largest record batch a producer may send.
    package var messageMaxBytes = 1_048_588
    /// `fetch.max.bytes`: the most a fetch answers, whatever it asks for.
    package var fetchMaxBytes = 57_671_680
    /// `queued.max.request.bytes`: the memory that all requests may take up.
    package var queuedMaxRequestBytes = 536_870_912
    /// `queued.max.response.bytes`: the memory that all answers to fetches may take up.
    package var queuedMaxResponseBytes = 134_217_728
    /// `socket.request.max.bytes`: the largest request.
    package var requestMaxBytes = 67_108_864

    /// `min.insync.replicas`; `nil` means 2 where a topic has 3 replicas or more, else 1.
    package var minInSyncReplicas: Int?
    /// `default.replication.factor`; `nil` means 3, or the number of brokers if there are fewer.
    package var defaultReplicationFactor: Int?
    /// `num.partitions`: the partitions of a topic that is created without a number.
    package var defaultPartitions: Int32 = 1
    // `unclean.leader.election.enable`
    package var uncleanLeaderElection = false
    // `controlled.shutdown.enable`
    package var controlledShutdown = true

    // `flush.policy`
    package var flushPolicy = FlushPolicy.commit
    /// `flush.ms`; used by the `interval` policy.
    package var flushInterval: Duration = .milliseconds(1_000)
    // `log.segment.bytes`
    package var logSegmentBytes = 1_073_741_824
    // `log.index.size.max.bytes`
    package var logIndexMaxBytes = 10_485_760
    // `log.index.interval.bytes`
    package var logIndexIntervalBytes = 4_096
    /// `log.roll.ms`; after `load` what `log.roll.hours` says, unless it is set itself.
    package var logRoll: Duration = .milliseconds(604_800_000)
    // `log.roll.hours`
    package var logRollHours: Int64 = 168
    // `log.cleanup.policy`
    package var logCleanupPolicy: [CleanupPolicy] = [.delete]
    /// `log.retention.ms`, -1 for ever; after `load` what `log.retention.minutes` says, or else
    /// `log.retention.hours`, unless it is set itself.
    package var logRetentionMilliseconds: Int64 = 604_800_000
    // `log.retention.minutes`
    package var logRetentionMinutes: Int64?
    // `log.retention.hours`
    package var logRetentionHours: Int64 = 168
    /// `log.retention.bytes`; -1 for no limit.
    package var logRetentionBytes: Int64 = -1
    // `log.message.timestamp.type`
    package var messageTimestampType = TimestampType.create
    // `log.message.timestamp.before.max.ms`
    package var messageTimestampBeforeMaxMilliseconds = Int64.max
    // `log.message.timestamp.after.max.ms`
    package var messageTimestampAfterMaxMilliseconds: Int64 = 3_600_000
    // `log.retention.check.interval.ms`
    package var logRetentionCheckInterval: Duration = .milliseconds(300_000)
    // `log.segment.delete.delay.ms`
    package var logSegmentDeleteDelay: Duration = .milliseconds(60_000)
    // `producer.id.expiration.ms`
    package var producerIDExpiration: Duration = .milliseconds(86_400_000)
    // `num.recovery.threads.per.data.dir`
    package var recoveryThreads = 2
    // `log.max.open.files`
    package var logMaxOpenFiles: Int?
    // `log.cleaner.enable`
    package var logCleanerEnabled = true
    // `log.cleaner.threads`
    package var logCleanerThreads = 1
    // `log.cleaner.backoff.ms`
    package var logCleanerBackoff: Duration = .milliseconds(15_000)
    // `log.cleaner.dedupe.buffer.size`
    package var logCleanerDedupeBufferSize = 128 << 20
    // `log.cleaner.io.max.bytes.per.second`
    package var logCleanerMaxBytesPerSecond: Int64?

    // `log.level`
    package var logLevel = LogLevel.info

    /// Where each setting that is not a default came from, by key.
    package private(set) var origins: [String: ConfigurationOrigin] = [:]

    /// The defaults, with what has none: for tests and for tools; not validated.
    package init(nodeID: NodeID = NodeID(-1), role: Role = .broker) {
        self.nodeID = nodeID
        self.role = role
    }
}

extension NodeConfiguration {
    /// Reads the settings of one node: a file's, then the environment's, then `key=value` overrides,
    /// where a later one wins; then checks them together.
    ///
    /// - Parameter role: what the process was started as; `process.roles` may be left out then.
    package static func load(
        file: String?, environment: [String: String], overrides: [String], role: Role? = nil
    ) throws(ConfigurationError) -> NodeConfiguration {
        var text: String?
        if let file { text = try readFile(file) }
        return try load(
            properties: text, path: file ?? "", environment: environment, overrides: overrides,
            role: role)
    }

    /// `load` for settings already in memory; `path` is the name errors give them.
    package static func load(
        properties: String?, path: String, environment: [String: String], overrides: [String],
        role: Role? = nil
    ) throws(ConfigurationError) -> NodeConfiguration {
        var configuration = NodeConfiguration()
        if let properties {
            var lines: [String: Int] = [:]
            for entry in try PropertiesFile.parse(properties, path: path) {
                let origin = ConfigurationOrigin.file(path: path, line: entry.line)
                if let first = lines.updateValue(entry.line, forKey: entry.key) {
                    throw .duplicateKey(entry.key, at: origin, firstLine: first)
                }
                try configuration.set(entry.key, to: entry.value, from: origin)
            }
        }
        try configuration.apply(environment: environment)
        for argument in overrides {
            let origin = ConfigurationOrigin.commandLine(argument: argument)
            guard let separator = argument.firstIndex(of: "=") else {
                throw .malformed(origin, text: argument)
            }
            try configuration.set(
                argument[..<separator].trimmingBlanks,
                to: argument[argument.index(after: separator)...].trimmingBlanks, from: origin)
        }
        if let role { try configuration.assume(role) }
        configuration.deriveDefaults()
        try configuration.validate()
        return configuration
    }

    /// Every key with its value as text and where it came from, in the order of `keys`.
    package var settings: [(key: ConfigurationKey, value: String, origin: ConfigurationOrigin)] {
        Self.keys.map { ($0, $0.show(self), origin(of: $0.name)) }
    }

    private mutating func assume(_ role: Role) throws(ConfigurationError) {
        guard let origin = origins["process.roles"] else {
            return try set(
                "process.roles", to: role.rawValue,
                from: .commandLine(argument: "process.roles=\(role.rawValue)"))
        }
        guard role == self.role else {
            throw .contradiction(
                at: origin,
                problem: "process.roles is \(self.role.rawValue), but this is a \(role.rawValue)",
                fix: "start it with 'millrace \(self.role.rawValue)'")
        }
    }

    func origin(of key: String) -> ConfigurationOrigin { origins[key] ?? .builtIn }

    private mutating func set(
        _ name: String, to value: String, from origin: ConfigurationOrigin
    ) throws(ConfigurationError) {
        guard let key = Self.keysByName[name] else {
            throw .unknownKey(
                name, at: origin, nearest: nearest(to: name, among: Self.keys.map(\.name)))
        }
        guard key.store(value, &self) else {
            throw .invalidValue(value, key: name, at: origin, expected: key.form)
        }
        origins[name] = origin
    }

    private mutating func apply(environment: [String: String]) throws(ConfigurationError) {
        // Sorted, so that of two mistakes it is always the same one that is reported.
        for (variable, value) in environment.sorted(by: { $0.key < $1.key }) {
            guard variable.hasPrefix("MILLRACE_"), !Self.isForeign(variable) else { continue }
            let origin = ConfigurationOrigin.environment(variable: variable)
            guard let key = Self.keysByVariable[variable] else {
                throw .unknownKey(
                    variable, at: origin,
                    nearest: nearest(to: variable, among: Self.keys.map(\.environmentVariable)))
            }
            try set(key.name, to: value, from: origin)
        }
    }

    /// Variables with our prefix that are no settings of a node.
    ///
    /// Kubernetes sets `…_SERVICE_HOST`, `…_PORT_9092_TCP` and the like in every container when a
    /// service is called "millrace".
    private static func isForeign(_ variable: String) -> Bool {
        ["MILLRACE_BOOTSTRAP", "MILLRACE_DATA", "MILLRACE_PORT"].contains(variable)
            || ["MILLRACE_SERVICE_", "MILLRACE_PORT_", "MILLRACE_TEST_"].contains {
                variable.hasPrefix($0)
            }
    }

    private static let keysByName = Dictionary(
        uniqueKeysWithValues: keys.map { ($0.name, $0) })
    private static let keysByVariable = Dictionary(
        uniqueKeysWithValues: keys.map { ($0.environmentVariable, $0) })
}
