package import Configuration
internal import Essentials
package import Logging
internal import NIOCore
internal import NIOPosix
internal import RPC
internal import Storage
internal import Synchronization

/// One broker process: an observer of the metadata log that hosts replicas and serves clients.
///
/// Connections and partitions live on the data event loops, one a core by default; metadata,
/// heartbeats and everything else that must not wait for a disk live on one control loop.
package final class BrokerNode: Sendable {
    private struct Running {
        var parts: BrokerParts
        var server: RPCServer?
    }

    /// How long running calls may take to end when the broker stops.
    private static let grace = Duration.seconds(2)
    /// How long the controller may take to move leaderships away when the broker stops.
    private static let shutdownLimit = Duration.seconds(10)

    private let configuration: NodeConfiguration
    private let logger: Logger
    private let dataLoops: MultiThreadedEventLoopGroup
    private let controlLoops = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    // Locks, because `start` and `stop` may overlap, and failures come from any thread.
    private let failureHandler = Mutex<(@Sendable (any Error) -> Void)?>(nil)
    private let running = Mutex<Running?>(nil)

    package init(configuration: NodeConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        dataLoops = MultiThreadedEventLoopGroup(
            numberOfThreads: max(1, configuration.networkThreads))
    }

    /// Called when a disk fails or the metadata makes no sense, so that this broker has to stop.
    package var onFailure: (@Sendable (any Error) -> Void)? {
        get { failureHandler.withLock { $0 } }
        set { failureHandler.withLock { $0 = newValue } }
    }

    /// Starts and returns once the controller lets this broker serve.
    ///
    /// - Throws: when a directory is not this broker's, its port is taken, or the cluster refuses it.
    package func start() async throws {
        let properties = try MetaProperties.check(
            configuration.metadataLogDirectory, nodeID: configuration.nodeID)
        let directories = try LogDirectorySurvey(
            of: configuration.logDirectories, required: configuration.metadataLogDirectory,
            nodeID: configuration.nodeID, clusterID: properties.clusterID)
        let control = controlLoops.next()
        let data = Array(dataLoops.makeIterator())
        let parts = try await control.submit { [configuration, logger] in
            try BrokerParts(
                configuration: configuration, properties: properties,
                directories: directories, control: control, data: data, logger: logger,
                onFailure: { [weak self] in self?.onFailure?($0) })
        }.get()
        running.withLock { $0 = Running(parts: parts) }
        let server = try await RPCServer.start(
            host: configuration.listener.bindHost, port: configuration.listener.port,
            router: try await control.submit { parts.makeRouter() }.get(), group: dataLoops,
            limits: RPCLimits(configuration), logger: logger)
        running.withLock { $0?.server = server }
        try await control.submit { try parts.start() }.get()
        try await parts.register(port: server.port)
        try await parts.lifecycle.untilUnfenced()
    }

    /// Hands leaderships over, ends running calls, and closes every log cleanly.
    package func stop() async {
        let stopping = running.withLock { running in
            defer { running = nil }
            return running
        }
        if let stopping {
            let lifecycle = stopping.parts.lifecycle
            if configuration.controlledShutdown, !lifecycle.isFenced, !lifecycle.hasEnded {
                let moved = await lifecycle.controlledShutdown(
                    within: Self.shutdownLimit)
                if !moved {
                    logger.warning("stopping before every leadership was moved away")
                }
            }
            lifecycle.stop()
            await stopping.server?.stop(grace: Self.grace)
            await stopping.parts.stop()
        }
        try? await dataLoops.shutdownGracefully()
        try? await controlLoops.shutdownGracefully()
    }
}
