internal import Configuration
internal import Essentials
internal import HashTreeCollections
internal import Logging
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC
internal import Synchronization

/// The broker's standing with the active controller: registration, heartbeats, controlled shutdown.
///
/// States: *registering* until the controller gives a broker epoch; *fenced* until a heartbeat
/// shows that the broker has applied its own registration; *serving*; *stopping*, once leaderships
/// are being moved away; *released*, when the controller lets it go; *ended*, for good, once it can't
/// know what it should do, or was stopped. A fenced broker heartbeats on and is unfenced when it has
/// caught up.
///
/// All of it runs on the control loop, without tasks and without other threads: neither busy data
/// loops, nor a blocked disk, nor whatever else the process does can make the broker look dead.
final class BrokerLifecycle: @unchecked Sendable {
    // Sendable: the constants are, `shared` is guarded, and all else is touched on `eventLoop` only.

    /// Calls a method of `millrace.internal.v1.Controller` on the active controller; used and answered
    /// on the control loop.
    typealias Call = (
        _ method: String, _ request: ByteBuffer, _ timeout: Duration,
        _ completion: @escaping @Sendable (Result<ByteBuffer, RPCError>) -> Void
    ) -> Void

    private struct Shared {
        var epoch = BrokerEpoch.none
        var isFenced = true
        /// Why this broker neither registers nor heartbeats any more.
        var end: RPCError?
        var onFailure: (@Sendable (any Error) -> Void)?
    }

    private struct Registration {
        var request: ByteBuffer
        var start: NIODeadline
        var complete: (Result<BrokerEpoch, RPCError>) -> Void
        /// So that each reason to wait is logged once.
        var lastComplaint = ""
    }

    private struct Shutdown {
        var complete: (Bool) -> Void
        var limit: Scheduled<Void>
    }

    private static let registrationTimeout = Duration.seconds(5)
    private static let registrationPause = TimeAmount.milliseconds(100)
    /// How soon a broker speaks again that waits to be unfenced, or that was not heard.
    private static let hurriedPause = Duration.milliseconds(50)
    private static let stoppingPause = Duration.milliseconds(20)

    private let nodeID: NodeID
    private let sessionTimeout: Duration
    private let heartbeatInterval: Duration
    private let eventLoop: any EventLoop
    private let call: Call
    private let appliedOffset: () -> Offset
    private let logger: Logger
    // A lock, because the data loops, and whoever stops this broker, look; held for a moment.
    private let shared = Mutex(Shared())

    private var registration: Registration?
    private var isStarted = false
    private var isBeating = false
    private var isReleased = false
    private var hasLostContact = false
    private var lastBeat = NIODeadline.uptimeNanoseconds(0)
    private var nextBeat: Scheduled<Void>?
    private var shutdown: Shutdown?
    private var isStopping = false
    private var waitingForUnfencing: [(Result<Void, RPCError>) -> Void] = []

    /// - Parameter appliedOffset: the end, exclusive, of the metadata this broker acts on; called on
    ///   `eventLoop`.
    init(
        configuration: NodeConfiguration, eventLoop: any EventLoop, logger: Logger,
        call: @escaping Call, appliedOffset: @escaping () -> Offset
    ) {
        nodeID = configuration.nodeID
        sessionTimeout = configuration.brokerSessionTimeout
        heartbeatInterval = configuration.brokerHeartbeatInterval
        self.eventLoop = eventLoop
        self.logger = logger
        self.call = call
        self.appliedOffset = appliedOffset
    }

    // MARK: Any thread

    /// The epoch of this registration; `none` before it.
    var epoch: BrokerEpoch { shared.withLock { $0.epoch } }

    var isFenced: Bool { shared.withLock { $0.isFenced } }

    /// It has failed or was stopped: it never speaks to a controller again.
    var hasEnded: Bool { shared.withLock { $0.end != nil } }

    /// Called once when this broker has lost its place in the cluster; set before `register`.
    var onFailure: (@Sendable (any Error) -> Void)? {
        get { shared.withLock { $0.onFailure } }
        set { shared.withLock { $0.onFailure = newValue } }
    }

    /// Falls silent, so that the controller fences this broker: it can't know what it should do.
    func fail() {
        end(
            RPCError(
                status: .unavailable,
                "broker \(nodeID) failed before it could serve; its log says why"))
    }

    /// Ends registration and heartbeats, because the broker stops.
    func stop() {
        end(RPCError(status: .unavailable, "broker \(nodeID) was stopped"))
    }

    /// Returns whether this is the first reason to end.
    @discardableResult
    private func end(_ reason: RPCError) -> Bool {
        let isFirst = shared.withLock { shared in
            guard shared.end == nil else { return false }
            shared.end = reason
            return true
        }
        if isFirst { eventLoop.runNow { self.settle(reason) } }
        return isFirst
    }

    /// Nobody waits for what does not come any more.
    private func settle(_ reason: RPCError) {
        nextBeat?.cancel()
        nextBeat = nil
        finishRegistration(.failure(reason))
        finishShutdown(false)
        unfencingSettled(.failure(reason))
    }

    // MARK: Registration

    /// Registers, trying again until a controller accepts or says that it never will.
    ///
    /// Fails when the cluster is another one or refuses this release, when another live process
    /// holds this node id for longer than two of its sessions, or when this broker has ended.
    func register(
        _ request: ByteBuffer, completion: @escaping (Result<BrokerEpoch, RPCError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        if let end = shared.withLock({ $0.end }) { return completion(.failure(end)) }
        invariant(registration == nil, "a broker registers once at a time")
        registration = Registration(
            request: request, start: eventLoop.now, complete: completion)
        tryToRegister()
    }

    private func tryToRegister() {
        guard let registration else { return }
        call("RegisterBroker", registration.request, Self.registrationTimeout) { [self] in
            registrationAnswered($0)
        }
    }

    private func registrationAnswered(_ result: Result<ByteBuffer, RPCError>) {
        guard let registration else { return }
        do throws(RPCError) {
            let response = try PayloadEncoding.protobuf.decode(
                WireRegisterBrokerResponse.self, from: try result.get())
            let epoch = BrokerEpoch(response.brokerEpoch)
            shared.withLock { $0.epoch = epoch }
            finishRegistration(.success(epoch))
        } catch {
            let waited = eventLoop.now - registration.start
            switch error.code {
            case .inconsistentClusterID, .unsupportedVersion, .invalidRequest:
                return finishRegistration(.failure(error))
            case .duplicateBrokerRegistration
            where waited > .nanoseconds((sessionTimeout * 2).nanoseconds):
                return finishRegistration(.failure(error))
            default:
                break
            }
            if error.message != registration.lastComplaint {
                self.registration?.lastComplaint = error.message
                logger.info("registration waits", metadata: ["reason": "\(error.message)"])
            }
            eventLoop.scheduleTask(in: Self.registrationPause) { self.tryToRegister() }
        }
    }

    private func finishRegistration(_ result: Result<BrokerEpoch, RPCError>) {
        let complete = registration?.complete
        registration = nil
        complete?(result)
    }

    // MARK: This process's place

    /// Whether `image` is for this process to act on: it has not ended, and it still holds the
    /// registration that the cluster knows.
    func isCurrent(in image: MetadataImage) -> Bool {
        if let registered = image.brokers[nodeID] {
            if registered.epoch > epoch { superseded() }
        } else {
            unregistered()
        }
        return !hasEnded
    }

    private func superseded() {
        lose(
            RPCError(
                .staleBrokerEpoch,
                "another process has registered as broker \(nodeID); this one stops."
                    + " Give every broker a node.id of its own"))
    }

    private func unregistered() {
        lose(
            RPCError(
                .brokerIDNotRegistered,
                "broker \(nodeID) was unregistered from the cluster; this process stops."
                    + " Start it again if it is to come back"))
    }

    private func lose(_ error: RPCError) {
        if end(error) { onFailure?(error) }
    }

    // MARK: Heartbeats

    /// Heartbeats from now on, until the broker is released or ends.
    func startHeartbeats() {
        eventLoop.preconditionInEventLoop()
        isStarted = true
        beat()
    }

    /// Calls `completion` once the controller lets this broker serve, or once it never will.
    func whenUnfenced(_ completion: @escaping (Result<Void, RPCError>) -> Void) {
        eventLoop.preconditionInEventLoop()
        if let end = shared.withLock({ $0.end }) {
            completion(.failure(end))
        } else if !isFenced {
            completion(.success(()))
        } else {
            waitingForUnfencing.append(completion)
        }
    }

    private func unfencingSettled(_ result: Result<Void, RPCError>) {
        let waiting = waitingForUnfencing
        waitingForUnfencing = []
        for complete in waiting { complete(result) }
    }

    /// Asks the controller to move this broker's leaderships away; `true` once it has, `false` when
    /// it has not within `limit`, or can't be asked.
    func controlledShutdown(within limit: Duration, completion: @escaping (Bool) -> Void) {
        eventLoop.preconditionInEventLoop()
        guard isStarted, shutdown == nil, !hasEnded else { return completion(isReleased) }
        isStopping = true
        shutdown = Shutdown(
            complete: completion,
            limit: eventLoop.scheduleTask(in: .nanoseconds(limit.nanoseconds)) {
                self.finishShutdown(false)
            })
        beat()
    }

    private func finishShutdown(_ isReleased: Bool) {
        guard let shutdown else { return }
        self.shutdown = nil
        shutdown.limit.cancel()
        shutdown.complete(isReleased)
    }

    /// Sends a heartbeat now, unless one is on its way.
    private func beat() {
        nextBeat?.cancel()
        nextBeat = nil
        guard !isBeating, !isReleased else { return }
        let (epoch, hasEnded) = shared.withLock { ($0.epoch, $0.end != nil) }
        guard !hasEnded else { return }
        var request = WireHeartbeatRequest()
        request.brokerID = nodeID.rawValue
        request.brokerEpoch = epoch.rawValue
        request.appliedOffset = appliedOffset().rawValue
        request.wantShutdown = isStopping
        let body: ByteBuffer
        do throws(RPCError) {
            body = try PayloadEncoding.protobuf.encode(request)
        } catch {
            // A few numbers can always be encoded.
            return invariant(false, "a heartbeat can't be encoded: \(error)")
        }
        isBeating = true
        lastBeat = eventLoop.now
        let wantedShutdown = isStopping
        // One that gets stuck with a controller that stands still must not cost the session.
        let timeout = min(sessionTimeout, max(heartbeatInterval * 2, sessionTimeout / 3))
        call("Heartbeat", body, timeout) { [self] result in
            isBeating = false
            heartbeatAnswered(result)
            scheduleBeat(atOnce: isStopping && !wantedShutdown)
        }
    }

    private func scheduleBeat(atOnce: Bool) {
        guard !isReleased, !hasEnded else { return }
        if atOnce { return beat() }
        let pause =
            isStopping
            ? Self.stoppingPause
            : isFenced || hasLostContact
                ? min(heartbeatInterval, Self.hurriedPause) : heartbeatInterval
        let due = max(eventLoop.now, lastBeat + .nanoseconds(pause.nanoseconds))
        nextBeat = eventLoop.scheduleTask(deadline: due) {
            self.nextBeat = nil
            self.beat()
        }
    }

    private func heartbeatAnswered(_ result: Result<ByteBuffer, RPCError>) {
        guard !hasEnded else { return }
        do throws(RPCError) {
            let response = try PayloadEncoding.protobuf.decode(
                WireHeartbeatResponse.self, from: try result.get())
            if hasLostContact { logger.info("the active controller answers again") }
            hasLostContact = false
            let changed = shared.withLock { shared in
                defer { shared.isFenced = response.isFenced }
                return shared.isFenced != response.isFenced
            }
            if changed {
                logger.info(response.isFenced ? "fenced by the controller" : "unfenced: serving")
            }
            if !response.isFenced { unfencingSettled(.success(())) }
            if response.shouldShutDown {
                isReleased = true
                finishShutdown(true)
            }
        } catch {
            switch error.code {
            // The active controller knows every registration: it will not think better of it.
            case .staleBrokerEpoch: superseded()
            case .brokerIDNotRegistered: unregistered()
            default:
                if !hasLostContact {
                    logger.warning(
                        "no active controller hears this broker",
                        metadata: ["error": "\(error.message)"])
                }
                hasLostContact = true
            }
        }
    }
}

/// For whoever is not on the control loop.
extension BrokerLifecycle {
    func register(_ request: WireRegisterBrokerRequest) async throws -> BrokerEpoch {
        let body = try PayloadEncoding.protobuf.encode(request)
        return try await onLoop { promise in
            self.register(body) { promise.completeWith($0.mapError { $0 }) }
        }
    }

    func untilUnfenced() async throws {
        try await onLoop { promise in
            self.whenUnfenced { promise.completeWith($0.mapError { $0 }) }
        }
    }

    func controlledShutdown(within limit: Duration) async -> Bool {
        let isReleased: Bool? = try? await onLoop { promise in
            self.controlledShutdown(within: limit) { promise.succeed($0) }
        }
        return isReleased ?? false
    }

    private func onLoop<Value: Sendable>(
        _ body: @escaping @Sendable (EventLoopPromise<Value>) -> Void
    ) async throws -> Value {
        let promise = eventLoop.makePromise(of: Value.self)
        eventLoop.execute { body(promise) }
        return try await promise.futureResult.get()
    }
}
