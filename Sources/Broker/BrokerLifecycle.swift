internal import Configuration
internal import Essentials
internal import HashTreeCollections
internal import Logging
internal import Metadata
internal import Protocol
internal import Quorum
internal import RPC
internal import Synchronization

/// The broker's standing with the active controller: registration, heartbeats, controlled shutdown.
///
/// States: *registering* until the controller gives a broker epoch; *fenced* until a heartbeat
/// shows that the broker has applied its own registration; *serving*; *stopping*, once leaderships
/// are being moved away; *failed*, for good, once it can't know what it should do. A fenced broker
/// heartbeats on and is unfenced when it has caught up.
final class BrokerLifecycle: Sendable {
    private struct State {
        var epoch = BrokerEpoch.none
        var isFenced = true
        var isStopping = false
        var hasFailed = false
        var onFailure: (@Sendable (any Error) -> Void)?
    }

    private let configuration: NodeConfiguration
    private let controller: ActiveControllerForwarder
    private let appliedOffset: @Sendable () async -> Offset
    private let logger: Logger
    private let state = Mutex(State())

    init(
        configuration: NodeConfiguration, controller: ActiveControllerForwarder, logger: Logger,
        appliedOffset: @escaping @Sendable () async -> Offset
    ) {
        self.configuration = configuration
        self.controller = controller
        self.logger = logger
        self.appliedOffset = appliedOffset
    }

    /// The epoch of this registration; `none` before it.
    var epoch: BrokerEpoch { state.withLock { $0.epoch } }

    var isFenced: Bool { state.withLock { $0.isFenced } }

    var hasFailed: Bool { state.withLock { $0.hasFailed } }

    /// Called once when another process takes this broker's place; set before `register`.
    var onFailure: (@Sendable (any Error) -> Void)? {
        get { state.withLock { $0.onFailure } }
        set { state.withLock { $0.onFailure = newValue } }
    }

    /// Registers, trying again until a controller accepts or says that it never will.
    ///
    /// - Throws: `RPCError` when the cluster is another one, when another live process holds this
    ///   node id for longer than two of its sessions, or when this broker has failed.
    func register(_ request: WireRegisterBrokerRequest) async throws -> BrokerEpoch {
        let start = ContinuousClock.now
        var lastComplaint = ""
        while true {
            try checkAlive()
            do {
                let response: WireRegisterBrokerResponse = try await controller.call(
                    "/millrace.internal.v1.Controller/RegisterBroker", request,
                    timeout: .seconds(5))
                let epoch = BrokerEpoch(response.brokerEpoch)
                state.withLock { $0.epoch = epoch }
                return epoch
            } catch let error as RPCError {
                let waited = ContinuousClock.now - start
                switch error.code {
                case .inconsistentClusterID, .unsupportedVersion, .invalidRequest:
                    throw error
                case .duplicateBrokerRegistration
                where waited > configuration.brokerSessionTimeout * 2:
                    throw error
                default:
                    break
                }
                if error.message != lastComplaint {
                    lastComplaint = error.message
                    logger.info("registration waits", metadata: ["reason": "\(error.message)"])
                }
                try await Task.sleep(for: .milliseconds(100))
            }
        }
    }

    /// Falls silent, so that the controller fences this broker: it can't know what it should do.
    func fail() {
        state.withLock { $0.hasFailed = true }
    }

    /// Whether `image` is for this process to act on: it has not failed, and no later one has
    /// registered this node id.
    func isCurrent(in image: MetadataImage) -> Bool {
        if let registered = image.brokers[configuration.nodeID]?.epoch, registered > epoch {
            superseded()
        }
        return !hasFailed
    }

    private func superseded() {
        let onFailure = state.withLock { state -> (@Sendable (any Error) -> Void)? in
            guard !state.hasFailed else { return nil }
            state.hasFailed = true
            return state.onFailure
        }
        onFailure?(
            RPCError(
                .staleBrokerEpoch,
                "another process has registered as broker \(configuration.nodeID); this one stops."
                    + " Give every broker a node.id of its own"))
    }

    /// Heartbeats until cancelled.
    func heartbeats() async {
        while !Task.isCancelled, !hasFailed {
            let isHeard = await heartbeat() != nil
            let pause =
                isFenced || !isHeard
                ? min(configuration.brokerHeartbeatInterval, .milliseconds(50))
                : configuration.brokerHeartbeatInterval
            try? await Task.sleep(for: pause)
        }
    }

    /// Returns once the controller lets this broker serve.
    ///
    /// - Throws: when this broker has failed, and never will.
    func untilUnfenced() async throws {
        while isFenced {
            try checkAlive()
            try await Task.sleep(for: .milliseconds(10))
        }
    }

    private func checkAlive() throws {
        guard hasFailed else { return }
        throw RPCError(
            status: .unavailable,
            "broker \(configuration.nodeID) failed before it could serve; its log says why")
    }

    /// Asks the controller to move this broker's leaderships away; `true` once it has.
    func controlledShutdown(within limit: Duration) async -> Bool {
        state.withLock { $0.isStopping = true }
        let start = ContinuousClock.now
        while !hasFailed, ContinuousClock.now - start < limit {
            if let response = await heartbeat(), response.shouldShutDown { return true }
            try? await Task.sleep(for: .milliseconds(20))
        }
        return false
    }

    @discardableResult
    private func heartbeat() async -> WireHeartbeatResponse? {
        var request = WireHeartbeatRequest()
        request.brokerID = configuration.nodeID.rawValue
        request.appliedOffset = await appliedOffset().rawValue
        let (epoch, isStopping) = state.withLock { ($0.epoch, $0.isStopping) }
        request.brokerEpoch = epoch.rawValue
        request.wantShutdown = isStopping
        do {
            let response: WireHeartbeatResponse = try await controller.call(
                "/millrace.internal.v1.Controller/Heartbeat", request,
                timeout: configuration.brokerSessionTimeout)
            let changed = state.withLock { state in
                defer { state.isFenced = response.isFenced }
                return state.isFenced != response.isFenced
            }
            if changed {
                logger.info(response.isFenced ? "fenced by the controller" : "unfenced: serving")
            }
            return response
        } catch {
            logger.debug("heartbeat failed", metadata: ["error": "\(error)"])
            switch (error as? RPCError)?.code {
            // The active controller knows every registration: it will not think better of it.
            case .staleBrokerEpoch?, .brokerIDNotRegistered?: superseded()
            default: break
            }
            return nil
        }
    }
}
