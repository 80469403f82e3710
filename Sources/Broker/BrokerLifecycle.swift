internal import Configuration
internal import Essentials
internal import Logging
internal import Protocol
internal import Quorum
internal import RPC
internal import Synchronization

/// The broker's standing with the active controller: registration, heartbeats, controlled shutdown.
///
/// States: *registering* until the controller gives a broker epoch; *fenced* until a heartbeat
/// shows that the broker has applied its own registration; *serving*; *stopping*, once leaderships
/// are being moved away. A fenced broker heartbeats on and is unfenced when it has caught up.
final class BrokerLifecycle: Sendable {
    private struct State {
        var epoch = BrokerEpoch.none
        var isFenced = true
        var isStopping = false
        var hasFailed = false
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

    /// Registers, trying again until a controller accepts or says that it never will.
    ///
    /// - Throws: `RPCError` when the cluster is another one, or when another live process holds
    ///   this node id for longer than two of its sessions.
    func register(_ request: WireRegisterBrokerRequest) async throws -> BrokerEpoch {
        let start = ContinuousClock.now
        var lastComplaint = ""
        while true {
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

    /// Heartbeats until cancelled.
    func heartbeats() async {
        while !Task.isCancelled, !state.withLock({ $0.hasFailed }) {
            await heartbeat()
            let pause =
                isFenced
                ? min(configuration.brokerHeartbeatInterval, .milliseconds(50))
                : configuration.brokerHeartbeatInterval
            try? await Task.sleep(for: pause)
        }
    }

    /// Returns once the controller lets this broker serve.
    func untilUnfenced() async throws {
        while isFenced {
            try await Task.sleep(for: .milliseconds(10))
        }
    }

    /// Asks the controller to move this broker's leaderships away; `true` once it has.
    func controlledShutdown(within limit: Duration) async -> Bool {
        state.withLock { $0.isStopping = true }
        let start = ContinuousClock.now
        while ContinuousClock.now - start < limit {
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
            return nil
        }
    }
}
