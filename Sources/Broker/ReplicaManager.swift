import Essentials
import HashTreeCollections
import Logging
import Metadata
import NIOCore
import NIOPosix
import RPC
import Records
import Replication
import Storage
import Synchronization

/// All replicas of this broker: finds them for services, and keeps them as the metadata says.
///
/// `replica` and `registerReplicaService` may be called from any thread; all else belongs to the control
/// loop. A replica that the metadata assigns here exists at once and serves when its log is open.
final class ReplicaManager: @unchecked Sendable {
    // Sendable: what is not constant is touched on `controlLoop` only, or guarded by `index`.

    struct Options: Sendable {
        var clusterID: String
        var nodeID: NodeID
        /// The `log.dirs`: new partitions go to the one with the fewest.
        var logDirectories: [String]
        /// Others that are configured and can't be used.
        var unusableDirectories: [LogDirectorySurvey.Unusable] = []
        /// The one of them that the broker can't do without.
        var requiredDirectory: String?
        /// How long a follower may lag (`replica.lag.time.max.ms`).
        var maxReplicaLag = Duration.seconds(30)
        /// How long a fetch waits for news (`replica.fetch.wait.max.ms`).
        var maxFetchWait = Duration.milliseconds(500)
        /// The most in one answer (`replica.fetch.response.max.bytes`).
        var maxFetchBytes = 10 << 20
        /// The memory for answers to consumers (`queued.max.response.bytes`).
        var maxAnswerBytes = 128 << 20
        /// How often logs under `flush.policy=interval` are flushed.
        var flushInterval = Duration.seconds(1)
        /// For topics without one of their own (`flush.policy`).
        var flushPolicy = TopicFlushPolicy.commit
        /// For topics without one of their own (`log.segment.bytes`).
        var segmentBytes = 1 << 30
        /// For topics without one of their own (`log.roll.ms`).
        var segmentAge = Duration.seconds(7 * 24 * 3600)
        /// For topics without one of their own (`log.index.size.max.bytes`).
        var segmentIndexBytes = 10 << 20
        /// For topics without one of their own (`log.index.interval.bytes`).
        var indexIntervalBytes = 4_096
        /// For topics without one of their own (`log.cleanup.policy`).
        var cleanupPolicy = "delete"
        /// For topics without one of their own (`log.retention.ms`); `nil` for ever.
        var retention: Duration? = .seconds(7 * 24 * 3600)
        /// For topics without one of their own (`log.retention.bytes`); `nil` for no limit.
        var retentionBytes: Int64?
        /// For topics without one of their own (`log.message.timestamp...`).
        var timestamps = TimestampSettings()
        /// For topics without one of their own (`message.max.bytes`).
        var maxMessageBytes = 1_048_588
        /// How often high watermarks are noted (`replica.high.watermark.checkpoint.interval.ms`).
        var checkpointInterval = Duration.seconds(5)
        /// How often leaders look for records to remove (`log.retention.check.interval.ms`).
        var retentionCheckInterval = Duration.seconds(300)
        /// For topics without one of their own (`log.segment.delete.delay.ms`).
        var fileDeleteDelay = Duration.seconds(60)
        /// How long partitions know a producer that sends nothing.
        var producerExpiration = Duration.seconds(86_400)
        /// Milliseconds since 1970.
        var wallClock: @Sendable () -> Int64 = ReplicaEnvironment.systemWallClock
        /// Compaction (`log.cleaner...`).
        var cleaner = LogCleaner.Options()
        /// Threads that open, close and delete logs (`num.recovery.threads.per.data.dir`).
        var storageThreads = 2
        /// The most segment files that are open (`log.max.open.files`); `nil` for half of what the system
        /// allows.
        var maxOpenFiles: Int?
    }

    let options: Options
    let controlLoop: any EventLoop
    let shards: [ReplicaShard]
    let disks: ReplicaDisks
    let pool: NIOThreadPool
    let environment: ReplicaEnvironment
    let cleaner: LogCleaner
    let logger: Logger
    private let brokerEpochBox: BrokerEpochBox
    private let service: ReplicaFetchService

    private struct Index {
        var byID: [TopicPartition: Replica] = [:]
        var byName: [String: [Int32: Replica]] = [:]
    }

    // A lock, because every connection's loop looks replicas up; held for the look-up only.
    private let index: IndexBox

    // Control loop only.
    var startup = Startup.new
    /// Those of the first image that are still being opened.
    var initialOpenings: Set<TopicPartition> = []
    /// Logs that exist, if perhaps in a directory that can't be used now: they are never made anew.
    var assignedBefore: Set<TopicPartition> = []
    var wasReady = false
    private var settings: BrokerSettings
    /// Which partition a folder belongs to, until it is deleted.
    var folders: [PartitionFolder: TopicPartition] = [:]
    /// Replicas whose folder's name is still in use by a deleted topic's.
    var waitingForFolder: [PartitionFolder: Replica] = [:]
    var checkpointTimer: RepeatedTask?
    var retentionTimer: RepeatedTask?
    var isStopping = false
    let openings = ReplicaOpenings()
    let moves = ReplicaMoves()
    let recoveryProgress: RecoveryProgress

    private final class IndexBox: Sendable {
        let value = Mutex(Index())
    }

    /// The broker epoch, which fetches and proposals carry; set with each registration.
    private final class BrokerEpochBox: Sendable {
        let value = Mutex(BrokerEpoch.none)
    }

    /// Opens the log directories.
    ///
    /// - Throws: `LogError` when a directory is another's, in use, or cannot be used at all.
    /// - Parameters:
    ///   - alterPartition: takes a request to the active controller.
    ///   - reportReplicas: takes another kind there.
    init(
        options: Options, fileSystem: any FileSystem = .local, eventLoops: [any EventLoop],
        controlLoop: any EventLoop, alterPartition: @escaping ReplicaProposals.Send,
        reportReplicas: @escaping ReplicaReports.Send, logger: Logger
    ) throws(LogError) {
        invariant(!eventLoops.isEmpty, "a broker needs a data event loop")
        let brokerEpoch = BrokerEpochBox()
        let index = IndexBox()
        self.options = options
        self.controlLoop = controlLoop
        self.logger = logger
        self.index = index
        settings = BrokerSettings(options)
        brokerEpochBox = brokerEpoch
        let allowed = FileHandles.raiseSystemLimit()
        let maxOpenFiles = min(options.maxOpenFiles ?? .max, max(64, allowed / 2))
        disks = try ReplicaDisks(
            paths: options.logDirectories, unusable: options.unusableDirectories,
            required: options.requiredDirectory,
            fileSystem: LimitedFileSystem(fileSystem, handles: FileHandles(limit: maxOpenFiles)),
            logger: logger)
        recoveryProgress = RecoveryProgress(logger: logger)
        pool = NIOThreadPool(numberOfThreads: max(1, options.storageThreads))
        shards = eventLoops.map {
            ReplicaShard(eventLoop: $0, maxReplicaLag: options.maxReplicaLag)
        }
        cleaner = LogCleaner(
            options: options.cleaner, shards: shards, controlLoop: controlLoop,
            wallClock: options.wallClock, logger: logger)
        let currentEpoch: @Sendable () -> BrokerEpoch = { brokerEpoch.value.withLock { $0 } }
        environment = ReplicaEnvironment(
            nodeID: options.nodeID,
            fetchers: ReplicaFetchers(
                eventLoops: eventLoops,
                options: ReplicaFetcher.Options(
                    clusterID: options.clusterID, nodeID: options.nodeID,
                    maxWait: options.maxFetchWait, maxBytes: options.maxFetchBytes),
                brokerEpoch: currentEpoch, logger: logger),
            proposals: ReplicaProposals(
                nodeID: options.nodeID, brokerEpoch: currentEpoch, send: alterPartition,
                logger: logger),
            reports: ReplicaReports(
                nodeID: options.nodeID, eventLoop: controlLoop, brokerEpoch: currentEpoch,
                send: reportReplicas,
                onDamageKnown: { id in
                    let replica = index.value.withLock { $0.byID[id] }
                    replica?.eventLoop.execute { replica?.damageIsKnown() }
                }, logger: logger),
            fetchMemory: FetchMemory(limit: options.maxAnswerBytes), pool: pool,
            producerExpiration: options.producerExpiration,
            wallClock: options.wallClock, logger: logger)
        service = ReplicaFetchService(clusterID: options.clusterID) { id in
            index.value.withLock { $0.byID[id] }
        }
        pool.start()
        for shard in shards { shard.eventLoop.execute { shard.start() } }
        startCheckpoints()
        startRetention()
        cleaner.start()
    }

    // MARK: Any thread

    /// The replica that this broker hosts; `nil` for none.
    func replica(topic: String, partition: Int32) -> Replica? {
        index.value.withLock { $0.byName[topic]?[partition] }
    }

    func replica(_ id: TopicPartition) -> Replica? {
        index.value.withLock { $0.byID[id] }
    }

    /// Serves followers: `millrace.internal.v1.Replica/Fetch`.
    func registerReplicaService(in router: inout Router) {
        service.register(in: &router)
    }

    /// The epoch of the newest registration, for fetches and proposals.
    func registered(epoch: BrokerEpoch) {
        brokerEpochBox.value.withLock { $0 = epoch }
    }

    var brokerEpoch: BrokerEpoch { brokerEpochBox.value.withLock { $0 } }

    var allReplicas: [Replica] { index.value.withLock { Array($0.byID.values) } }

    // MARK: Metadata

    /// Brings the replicas in line with the image.
    ///
    /// The first call must come with an image that is caught up: what it does not know is deleted.
    func apply(image: MetadataImage, delta: MetadataDelta) {
        guard !isStopping else { return }
        switch startup {
        case .new: start(with: image)
        case .deletingStrays: startup = .deletingStrays(newest: image)
        case .done: update(to: image, delta, isFirst: false)
        }
    }

    func update(to image: MetadataImage, _ delta: MetadataDelta, isFirst: Bool) {
        var work: [ObjectIdentifier: [@Sendable () -> Void]] = [:]
        if isFirst || !delta.changedConfigs.isEmpty { settingsChanged(image, &work) }
        if isFirst || !delta.changedBrokers.isEmpty { brokersChanged(image, &work) }
        removeUnassigned(image, delta)
        for id in partitionsToUpdate(image, delta, isFirst: isFirst).sorted() {
            guard let topic = image.topics[id.topic], let state = image.partition(id),
                state.replicas.contains(options.nodeID)
            else { continue }
            let settings = ReplicaSettings(
                image: image, topic: topic.name, state: state, defaults: options)
            if isFirst { initialOpenings.insert(id) }
            let replica = replica(id) ?? create(id, topic: topic.name, settings: settings)
            let assignment = PartitionAssignment(state)
            let hasOfflineMarks = image.featureLevel >= MetadataFeatures.offlineReplicas
            work[ObjectIdentifier(replica.shard), default: []].append {
                replica.hasOfflineMarks = hasOfflineMarks
                replica.assign(assignment, settings: settings)
            }
        }
        for shard in shards {
            guard let steps = work[ObjectIdentifier(shard)] else { continue }
            shard.eventLoop.execute { for step in steps { step() } }
        }
    }

    /// This broker's own settings; those of topics go to each replica.
    private func settingsChanged(
        _ image: MetadataImage, _ work: inout [ObjectIdentifier: [@Sendable () -> Void]]
    ) {
        let new = BrokerSettings(image: image, defaults: options)
        guard new != settings else { return }
        logger.info(
            "settings changed",
            metadata: [
                "replica.lag.time.max.ms": "\(new.maxReplicaLag.milliseconds)",
                "replica.fetch.wait.max.ms": "\(new.maxFetchWait.milliseconds)",
                "replica.fetch.response.max.bytes": "\(new.maxFetchBytes)",
            ])
        settings = new
        environment.fetchers.update(maxWait: new.maxFetchWait, maxBytes: new.maxFetchBytes)
        for shard in shards {
            work[ObjectIdentifier(shard), default: []].append {
                shard.update(maxReplicaLag: new.maxReplicaLag)
            }
        }
    }

    private func brokersChanged(
        _ image: MetadataImage, _ work: inout [ObjectIdentifier: [@Sendable () -> Void]]
    ) {
        var statuses: [NodeID: BrokerStatus] = [:]
        var addresses: [NodeID: (host: String, port: Int)] = [:]
        for (id, broker) in image.brokers {
            statuses[id] = BrokerStatus(epoch: broker.epoch, isActive: broker.isActive)
            addresses[id] = (broker.host, broker.port)
        }
        environment.fetchers.update(addresses: addresses)
        for shard in shards {
            work[ObjectIdentifier(shard), default: []].append { [statuses] in
                shard.update(brokers: statuses)
            }
        }
    }

    private func partitionsToUpdate(
        _ image: MetadataImage, _ delta: MetadataDelta, isFirst: Bool
    ) -> Set<TopicPartition> {
        if isFirst { return Set(image.partitions(on: options.nodeID)) }
        var partitions = delta.changedPartitions
        for resource in delta.changedConfigs {
            switch resource {
            case .topic(let name):
                let replicas = index.value.withLock {
                    $0.byName[name].map { Array($0.values) } ?? []
                }
                for replica in replicas { partitions.insert(replica.id) }
            case .broker:
                break
            case .clusterDefault:
                partitions.formUnion(image.partitions(on: options.nodeID))
            }
        }
        return partitions
    }

    private func removeUnassigned(_ image: MetadataImage, _ delta: MetadataDelta) {
        guard !delta.removedTopics.isEmpty || !delta.changedPartitions.isEmpty else { return }
        let gone = allReplicas.filter { replica in
            guard delta.removedTopics[replica.id.topic] == nil else { return true }
            guard delta.changedPartitions.contains(replica.id) else { return false }
            return image.partition(replica.id)?.replicas.contains(options.nodeID) != true
        }
        for replica in gone { remove(replica) }
    }

    // MARK: Coming and going

    private func create(
        _ id: TopicPartition, topic: String, settings: ReplicaSettings
    ) -> Replica {
        let slot = Int(
            (id.topic.low &+ UInt64(truncatingIfNeeded: id.partition)) % UInt64(shards.count))
        let shard = shards[slot]
        let replica = Replica(
            id: id, topic: topic, shard: shard, environment: environment, settings: settings)
        replica.manager = self
        index.value.withLock { index in
            index.byID[id] = replica
            index.byName[topic, default: [:]][id.partition] = replica
        }
        shard.eventLoop.execute { shard.add(replica) }
        if folders[replica.folder] != nil {
            // The deleted topic of this name is still on its way out.
            waitingForFolder[replica.folder] = replica
        } else {
            open(replica)
        }
        return replica
    }

    private func remove(_ replica: Replica) {
        index.value.withLock { index in
            index.byID[replica.id] = nil
            if index.byName[replica.topic]?[replica.id.partition] === replica {
                index.byName[replica.topic]?[replica.id.partition] = nil
            }
            if index.byName[replica.topic]?.isEmpty == true { index.byName[replica.topic] = nil }
        }
        if waitingForFolder[replica.folder] === replica { waitingForFolder[replica.folder] = nil }
        logger.info("deleting a replica", metadata: ["partition": "\(replica.name)"])
        environment.reports.forget(replica.id)
        moves.cancel(replica.id)
        assignedBefore.remove(replica.id)
        guard openings.begin() else { return }
        replica.eventLoop.execute { [self] in
            replica.isRemoved = true
            if let opened = replica.close() {
                delete(opened, of: replica)
            } else if replica.hasFailedToOpen {
                deleteUnopened(replica)
            } else {
                // Still opening: whoever opens it deletes it then. Or waiting to, and never will.
                openings.end()
            }
        }
    }
}

extension PartitionAssignment {
    init(_ state: PartitionState) {
        self.init(
            replicas: state.replicas, isr: state.isr,
            eligibleLeaderReplicas: state.eligibleLeaderReplicas,
            offlineReplicas: state.offlineReplicas, leader: state.leader,
            leaderEpoch: state.leaderEpoch, partitionEpoch: state.partitionEpoch)
    }
}

extension ReplicaSettings {
    init(
        image: MetadataImage, topic: String, state: PartitionState,
        defaults: ReplicaManager.Options
    ) {
        let policy: FlushPolicy =
            switch image.flushPolicy(topic: topic, default: defaults.flushPolicy) {
            case .commit: .commit
            case .interval: .interval
            case .os: .system
            }
        self.init(
            minInSyncReplicas: image.minInSyncReplicas(
                topic: topic, replicas: state.replicas.count),
            flushPolicy: policy,
            maxMessageBytes: image.maxMessageBytes(
                topic: topic, default: defaults.maxMessageBytes),
            compression: Self.compression(
                image.topicConfig(topic, key: .compressionType) ?? "producer"),
            segmentBytes: image.segmentBytes(topic: topic, default: defaults.segmentBytes),
            flushInterval: image.flushInterval(topic: topic, default: defaults.flushInterval),
            flushMessages: image.flushMessages(topic: topic),
            segmentAge: image.segmentAge(topic: topic, default: defaults.segmentAge),
            segmentIndexBytes: image.segmentIndexBytes(
                topic: topic, default: defaults.segmentIndexBytes),
            indexIntervalBytes: image.indexIntervalBytes(
                topic: topic, default: defaults.indexIntervalBytes),
            fileDeleteDelay: image.fileDeleteDelay(
                topic: topic, default: defaults.fileDeleteDelay),
            timestamps: TimestampSettings(
                type: image.timestampType(topic: topic, default: defaults.timestamps.type),
                beforeMax: image.timestampBeforeMax(
                    topic: topic, default: defaults.timestamps.beforeMax),
                afterMax: image.timestampAfterMax(
                    topic: topic, default: defaults.timestamps.afterMax)),
            retention: image.deletesOldRecords(topic: topic, default: defaults.cleanupPolicy)
                ? RetentionPolicy(
                    maxAge: image.retention(topic: topic, default: defaults.retention),
                    minBytes: image.retentionBytes(
                        topic: topic, default: defaults.retentionBytes)) : nil,
            compaction: image.compacts(topic: topic, default: defaults.cleanupPolicy)
                ? CompactionPolicy(image, topic) : nil)
    }

    /// What `compression.type` stands for; "producer" is none of the codecs.
    private static func compression(_ type: String) -> Compression? {
        type == "uncompressed" ? Compression.none : Compression(name: type)
    }
}
