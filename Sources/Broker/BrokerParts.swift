internal import Configuration
internal import Essentials
internal import Foundation
internal import Logging
internal import Metadata
internal import NIOCore
internal import Protocol
internal import Quorum
internal import RPC
internal import Storage

/// What a broker is made of.
///
/// `@unchecked Sendable`: constant after `init`, which like `start` runs on the control loop.
final class BrokerParts: @unchecked Sendable {
    let lifecycle: BrokerLifecycle
    private let configuration: NodeConfiguration
    private let properties: MetaProperties
    private let directories: LogDirectorySurvey
    private let control: any EventLoop
    private let metadata: BrokerMetadata
    private let quorum: QuorumNode
    private let controller: ActiveControllerForwarder
    private let peers: BrokerPeers
    private let replicas: ReplicaManager

    init(
        configuration: NodeConfiguration, properties: MetaProperties,
        directories: LogDirectorySurvey, control: any EventLoop, data: [any EventLoop],
        logger: Logger, onFailure: @escaping @Sendable (any Error) -> Void
    ) throws {
        self.configuration = configuration
        self.properties = properties
        self.directories = directories
        self.control = control
        let metadata = BrokerMetadata(logger: logger)
        var options = QuorumNode.Options(configuration, properties: properties)
        options.metadataLevels = MetadataFeatures.supported
        let quorum = QuorumNode(
            options: options, listener: metadata, eventLoop: control, logger: logger)
        metadata.setHighWatermarkSource { [weak quorum] in quorum?.highWatermark ?? .max }
        let controller = ActiveControllerForwarder(eventLoop: control, logger: logger) {
            [weak quorum] in
            guard let quorum, let leader = quorum.leader else { return nil }
            return quorum.address(of: leader).map { .init(host: $0.host, port: $0.port) }
        }
        self.metadata = metadata
        self.quorum = quorum
        self.controller = controller
        peers = BrokerPeers(eventLoop: data[0], logger: logger)
        replicas = try ReplicaManager(
            options: ReplicaManager.Options(
                configuration, clusterID: properties.clusterID, directories: directories),
            eventLoops: data, controlLoop: control,
            alterPartition: { request in
                try await controller.call(
                    "/millrace.internal.v1.Controller/AlterPartition", request,
                    timeout: .seconds(5))
            },
            reportReplicas: { request in
                try await controller.call(
                    "/millrace.internal.v1.Controller/ReportReplicas", request,
                    timeout: .seconds(5))
            }, logger: logger)
        lifecycle = BrokerLifecycle(
            configuration: configuration, eventLoop: control, logger: logger,
            call: { method, request, timeout, completion in
                controller.call(
                    "/millrace.internal.v1.Controller/" + method, request, timeout: timeout,
                    completion: completion)
            },
            appliedOffset: { [replicas] in
                // What is applied counts only with the logs that it is about.
                replicas.isReady ? metadata.appliedOffset : Offset(0)
            })
        let fail: @Sendable (any Error) -> Void = { [lifecycle] error in
            // Silent at once: the process may need a while to stop.
            lifecycle.fail()
            onFailure(error)
        }
        lifecycle.onFailure = onFailure
        metadata.onFailure = fail
        metadata.onLeaderChange = { [weak controller] in controller?.leaderChanged() }
        quorum.onFailure = fail
        replicas.disks.onFailure { [weak replicas] disk, error in
            logger.critical(
                "a log directory failed",
                metadata: ["path": "\(disk.directory.path)", "error": "\(error)"])
            guard let replicas, replicas.disks.canGoOn else { return fail(error) }
            replicas.diskFailed(disk, error)
        }
    }

    /// Everything this broker answers.
    func makeRouter() -> Router {
        var router = Router()
        let local = configuration.nodeID
        MetadataService(
            clusterID: properties.clusterID, metadata: metadata,
            controller: { [control, quorum] in
                (try? await control.submit { quorum.leader }.get()) ?? nil
            }
        ).register(in: &router)
        ProduceService(
            local: local, metadata: metadata, replicas: replicas, peers: peers,
            partitioner: StickyPartitioner()
        ).register(in: &router)
        FetchService(
            local: local, metadata: metadata, replicas: replicas, peers: peers,
            maxBytes: configuration.fetchMaxBytes
        ).register(in: &router)
        replicas.registerReplicaService(in: &router)
        DeleteRecordsService(local: local, metadata: metadata, replicas: replicas, peers: peers)
            .register(in: &router)
        LogDirsService(local: local, replicas: replicas).register(in: &router)
        controller.register(ActiveControllerMethod.allCases.map(\.path), in: &router)
        return router
    }

    func start() throws {
        try quorum.start()
    }

    /// Registers, heartbeats from then on, and, once the metadata holds the registration, brings the replicas to life.
    ///
    /// - Parameter port: where this broker listens, for a listener with port 0.
    func register(port: Int) async throws {
        let request = WireRegisterBrokerRequest(
            configuration, clusterID: properties.clusterID, directories: registeredDirectories,
            port: port, previousEpoch: replicas.disks.previousBrokerEpoch)
        let epoch = try await lifecycle.register(request)
        replicas.registered(epoch: epoch)
        // At once: to catch up and to open logs may take longer than a session.
        try await control.submit { [lifecycle] in lifecycle.startHeartbeats() }.get()
        let applied = control.makePromise(of: Void.self)
        control.execute { [metadata] in
            metadata.whenApplied(below: Offset(epoch.rawValue) + 1) { applied.completeWith($0) }
        }
        try await applied.futureResult.get()
        // What the image does not know is deleted, so it has to be caught up first.
        try await control.submit { [metadata, replicas, lifecycle] in
            metadata.subscribe { image, delta in
                // A later process with this node id leads here now, not this one.
                guard lifecycle.isCurrent(in: image) else { return }
                replicas.apply(image: image, delta: delta)
            }
        }.get()
    }

    private var registeredDirectories: RegisteredDirectories {
        let disks = replicas.disks
        let online = Set(disks.disks.filter { !$0.hasFailed }.map(\.directory.path))
        var ids: [String: DirectoryID] = [:]
        for directory in directories.usable {
            ids[directory.path] = directory.properties.directoryID
        }
        for directory in directories.unusable { ids[directory.path] = directory.directoryID }
        let offline = configuration.logDirectories.filter { !online.contains($0) }
        return RegisteredDirectories(
            online: configuration.logDirectories.filter { online.contains($0) }
                .compactMap { ids[$0] },
            offline: offline.compactMap { ids[$0] },
            missing: offline.count { ids[$0] == nil })
    }

    func stop() async {
        await replicas.stop()
        peers.close()
        try? await control.submit { [controller] in controller.stop() }.get()
        await quorum.stop()
    }
}

/// What a broker tells the controller of its log directories.
struct RegisteredDirectories {
    var online: [DirectoryID] = []
    /// Those of the others whose ids are known.
    var offline: [DirectoryID] = []
    /// How many more there are.
    var missing = 0
}

extension WireRegisterBrokerRequest {
    /// What a broker says of itself when its process starts: with an incarnation id of its own.
    ///
    /// - Parameter port: where it listens, for an advertised port 0.
    init(
        _ configuration: NodeConfiguration, clusterID: String,
        directories: RegisteredDirectories, port: Int, previousEpoch: BrokerEpoch
    ) {
        let advertised = configuration.advertisedListener
        self.init()
        self.clusterID = clusterID
        brokerID = configuration.nodeID.rawValue
        incarnationID = Data(UniqueID.random().bytes)
        host = advertised.host
        self.port = Int32(clamping: advertised.port == 0 ? port : advertised.port)
        rack = configuration.rack ?? ""
        // Of all of them: a directory that the controller misses counts as lost, with all its logs.
        logDirectoryIds = directories.online.map { Data($0.bytes) }
        offlineLogDirectoryIds = directories.offline.map { Data($0.bytes) }
        missingLogDirectories = Int32(clamping: directories.missing)
        previousBrokerEpoch = previousEpoch.rawValue
        minFeatureLevel = MetadataFeatures.supported.lowerBound
        maxFeatureLevel = MetadataFeatures.supported.upperBound
    }
}

extension ReplicaManager.Options {
    init(
        _ configuration: NodeConfiguration, clusterID: String, directories: LogDirectorySurvey
    ) {
        self.init(
            clusterID: clusterID, nodeID: configuration.nodeID,
            logDirectories: directories.usable.map(\.path))
        unusableDirectories = directories.unusable
        requiredDirectory = configuration.metadataLogDirectory
        maxReplicaLag = configuration.replicaLagTimeMax
        maxFetchWait = configuration.replicaFetchMaxWait
        maxFetchBytes = configuration.replicaFetchResponseMaxBytes
        maxAnswerBytes = configuration.queuedMaxResponseBytes
        flushInterval = configuration.flushInterval
        flushPolicy =
            switch configuration.flushPolicy {
            case .commit: .commit
            case .interval: .interval
            case .os: .os
            }
        segmentBytes = configuration.logSegmentBytes
        segmentAge = configuration.logRoll
        segmentIndexBytes = configuration.logIndexMaxBytes
        indexIntervalBytes = configuration.logIndexIntervalBytes
        cleanupPolicy = configuration.logCleanupPolicy.map(\.rawValue).joined(separator: ",")
        let milliseconds = configuration.logRetentionMilliseconds
        retention = milliseconds < 0 ? nil : .milliseconds(milliseconds)
        retentionBytes =
            configuration.logRetentionBytes < 0 ? nil : configuration.logRetentionBytes
        timestamps = TimestampSettings(
            type: configuration.messageTimestampType == .append ? .append : .create,
            beforeMax: configuration.messageTimestampBeforeMaxMilliseconds,
            afterMax: configuration.messageTimestampAfterMaxMilliseconds)
        retentionCheckInterval = configuration.logRetentionCheckInterval
        fileDeleteDelay = configuration.logSegmentDeleteDelay
        producerExpiration = configuration.producerIDExpiration
        storageThreads = configuration.recoveryThreads * max(1, configuration.logDirectories.count)
        maxOpenFiles = configuration.logMaxOpenFiles
        cleaner = LogCleaner.Options(configuration)
        maxMessageBytes = configuration.messageMaxBytes
    }
}

extension RPCLimits {
    init(_ configuration: NodeConfiguration) {
        self.init()
        maxMessageBytes = configuration.requestMaxBytes
        maxBufferedRequestBytesInAll = configuration.queuedMaxRequestBytes
    }
}
