internal import Configuration
internal import Essentials
internal import Logging
internal import Metadata
internal import NIOCore
internal import Quorum
internal import RPC
internal import Storage

/// What a controller is made of, and the timers that drive it.
///
/// `@unchecked Sendable`: all state is touched on `eventLoop` only, but for `stop`, which hops there.
final class ControllerParts: @unchecked Sendable {
    /// How often sessions are looked at.
    private static let checkInterval = TimeAmount.milliseconds(50)
    /// How often leaderships go back to preferred replicas, and how many at once.
    private static let balanceInterval = TimeAmount.seconds(5)
    private static let balanceLimit = 500
    /// How long a new active controller waits for brokers to come by themselves.
    private static let silenceBeforeProbe = TimeAmount.milliseconds(300)

    private let eventLoop: any EventLoop
    private let quorum: QuorumNode
    private let controller: ActiveController
    private let watch: BrokerWatch
    private let forwarder: ActiveControllerForwarder
    private let brokerServices: BrokerServices
    private let adminServices: AdminServices
    private var timers: [RepeatedTask] = []

    init(
        configuration: NodeConfiguration, properties: MetaProperties, eventLoop: any EventLoop,
        logger: Logger, onFailure: @escaping (any Error) -> Void
    ) {
        self.eventLoop = eventLoop
        let local = configuration.nodeID
        // The quorum needs its listener, and the listener the quorum.
        final class Link { weak var quorum: QuorumNode? }
        let link = Link()
        let leader: () -> (id: NodeID, address: ActiveControllerForwarder.Address)? = {
            guard let quorum = link.quorum, let id = quorum.leader,
                let address = quorum.address(of: id)
            else { return nil }
            return (id, .init(host: address.host, port: address.port))
        }
        controller = ActiveController(
            local: local,
            options: ControllerOptions(configuration, clusterID: properties.clusterID),
            eventLoop: eventLoop, logger: logger, log: { link.quorum },
            leaderAddress: {
                leader().map { "controller \($0.id) at \($0.address.host):\($0.address.port)" }
            })
        controller.onFailure = onFailure
        var options = QuorumNode.Options(configuration, properties: properties)
        options.metadataLevels = MetadataFeatures.supported
        quorum = QuorumNode(
            options: options, listener: controller, eventLoop: eventLoop, logger: logger)
        controller.bootstrapRecords = { link.quorum?.bootstrapRecords ?? [] }
        quorum.onFailure = onFailure
        link.quorum = quorum
        watch = BrokerWatch(controller: controller, eventLoop: eventLoop, logger: logger)
        forwarder = ActiveControllerForwarder(eventLoop: eventLoop, logger: logger) {
            guard let (id, address) = leader(), id != local else { return nil }
            return address
        }
        brokerServices = BrokerServices(controller: controller, watch: watch, logger: logger)
        adminServices = AdminServices(
            clusterID: properties.clusterID, local: local, controller: controller,
            forwarder: forwarder, quorum: quorum)
        controller.onLeaderChange = { [weak forwarder] in
            forwarder?.leaderChanged(isHere: link.quorum?.leader == local)
        }
        controller.onActive = { [watch] in
            eventLoop.scheduleTask(in: Self.silenceBeforeProbe) { watch.probeSilentBrokers() }
        }
    }

    /// Opens the log and arms the timers; returns what the server has to serve.
    func start() throws -> Router {
        eventLoop.preconditionInEventLoop()
        var router = Router()
        quorum.register(in: &router)
        brokerServices.register(in: &router)
        adminServices.register(in: &router)
        try quorum.start()
        timers = [
            eventLoop.scheduleRepeatedTask(
                initialDelay: Self.checkInterval, delay: Self.checkInterval
            ) { [weak self] _ in self?.controller.checkSessions() },
            eventLoop.scheduleRepeatedTask(
                initialDelay: Self.balanceInterval, delay: Self.balanceInterval
            ) { [weak self] _ in self?.controller.balanceLeaders(limit: Self.balanceLimit) },
        ]
        return router
    }

    /// Hands a leadership over and closes the log.
    func stop() async {
        try? await eventLoop.submit {
            for timer in self.timers { timer.cancel() }
            self.timers = []
            self.controller.onActive = nil
            self.watch.stop()
            self.forwarder.stop()
        }.get()
        await quorum.stop()
    }
}

extension ControllerOptions {
    fileprivate init(
        _ configuration: NodeConfiguration, clusterID: String
    ) {
        self.init(clusterID: clusterID)
        sessionTimeout = configuration.brokerSessionTimeout
        partitions = Int(configuration.defaultPartitions)
        replicationFactor = configuration.defaultReplicationFactor
        minInSyncReplicas = configuration.minInSyncReplicas
        uncleanLeaderElection = configuration.uncleanLeaderElection
        for (key, value, _) in configuration.settings {
            // What is not set has no value, and the meaning of that is for people.
            let unset = ConfigDefinition.all.first { $0.nodeKey == key.name }?.defaultValue
            nodeConfigs[key.name] = value.isEmpty ? unset ?? "" : value
        }
    }
}
