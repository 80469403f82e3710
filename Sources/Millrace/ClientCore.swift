internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC
internal import Synchronization

/// Connections and metadata, shared by everything a client does.
///
/// All of it lives on one event loop.
final class ClientCore: @unchecked Sendable {
    // Sendable: `isClosed` has its lock; everything else mutable is touched on `eventLoop` only.

    typealias RefreshHandler = (MillraceError?) -> Void

    let configuration: MillraceClient.Configuration
    let eventLoop: any EventLoop
    let backoff = Backoff()

    private let isClosed = Mutex(false)
    private(set) var metadata = ClusterMetadata()
    private var connections: [BrokerAddress: RPCClient] = [:]
    /// When a call to the address last failed: those are asked last.
    private var lastFailures: [BrokerAddress: NIODeadline] = [:]
    private var wantedTopics: Set<String> = []
    private var refreshedAt: NIODeadline?
    private var isRefreshing = false
    /// Waiting for the refresh under way, and for one that starts after they asked.
    private var currentWaiters: [RefreshHandler] = []
    private var nextWaiters: [RefreshHandler] = []
    private var observers: [ObjectIdentifier: () -> Void] = [:]
    private var ageTask: RepeatedTask?

    init(configuration: MillraceClient.Configuration, eventLoop: any EventLoop) {
        self.configuration = configuration
        self.eventLoop = eventLoop
    }

    // MARK: Hopping onto the loop

    /// Runs `body` on the loop; false, and nothing happens, once the client is closed.
    func onLoop(_ body: @escaping @Sendable () -> Void) -> Bool {
        // Under the lock, so that no work is handed over after `close` has shut the loop down.
        isClosed.withLock { closed in
            if closed { return false }
            eventLoop.execute(body)
            return true
        }
    }

    /// Runs `body` on the loop and waits for what it hands to its callback.
    func wait<Success: Sendable>(
        for body:
            @escaping @Sendable (
                @escaping @Sendable (Result<Success, MillraceError>) -> Void
            ) -> Void
    ) async throws(MillraceError) -> Success {
        let result: Result<Success, MillraceError> = await withCheckedContinuation { waiting in
            let accepted = onLoop { body { waiting.resume(returning: $0) } }
            if !accepted { waiting.resume(returning: .failure(.closed)) }
        }
        return try result.get()
    }

    /// Returns false when it was closed before.
    func close() async -> Bool {
        let wasClosed = isClosed.withLock { closed in
            defer { closed = true }
            return closed
        }
        guard !wasClosed else { return false }
        await withCheckedContinuation { (waiting: CheckedContinuation<Void, Never>) in
            eventLoop.execute {
                self.ageTask?.cancel()
                self.observers = [:]
                for connection in self.connections.values { connection.close() }
                self.connections = [:]
                self.finishRefresh(with: .closed)
                waiting.resume()
            }
        }
        return true
    }

    // MARK: Connections

    /// The connection to an address.
    ///
    /// A call on it tries to connect at once, if it has to: the pauses between attempts are ours.
    func connection(to address: BrokerAddress) -> RPCClient {
        eventLoop.preconditionInEventLoop()
        if let connection = connections[address] {
            connection.resetBackoff()
            return connection
        }
        let connection = RPCClient(
            host: address.host, port: address.port, eventLoop: eventLoop,
            logger: configuration.logger)
        connections[address] = connection
        return connection
    }

    func noteFailure(at address: BrokerAddress) {
        lastFailures[address] = .now()
    }

    /// Every address worth asking: those that never failed first, then the longest ago.
    func candidates() -> [BrokerAddress] {
        let addresses = Set(metadata.brokers.values).union(configuration.bootstrap)
        return addresses.shuffled().sorted {
            (lastFailures[$0] ?? .uptimeNanoseconds(0))
                < (lastFailures[$1] ?? .uptimeNanoseconds(0))
        }
    }

    // MARK: Metadata

    /// Calls `observer` on the loop after every metadata answer.
    func observe(_ owner: AnyObject, _ observer: @escaping () -> Void) {
        observers[ObjectIdentifier(owner)] = observer
    }

    func stopObserving(_ owner: AnyObject) {
        observers[ObjectIdentifier(owner)] = nil
    }

    func want(_ topic: String) {
        wantedTopics.insert(topic)
        guard ageTask == nil else { return }
        let maxAge = TimeAmount.nanoseconds(configuration.metadataMaxAge.nanoseconds)
        ageTask = eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) {
            [weak self] _ in
            guard let self, let refreshedAt = self.refreshedAt else { return }
            if .now() - refreshedAt > maxAge { self.refresh { _ in } }
        }
    }

    /// Asks for metadata newer than this call, and joins those who wait for the same.
    func refresh(_ done: @escaping RefreshHandler) {
        eventLoop.preconditionInEventLoop()
        nextWaiters.append(done)
        if !isRefreshing { startRefresh() }
    }

    private func startRefresh() {
        if isClosed.withLock({ $0 }) { return finishRefresh(with: .closed) }
        isRefreshing = true
        currentWaiters = nextWaiters
        nextWaiters = []
        var request = WireMetadataRequest()
        request.topics = wantedTopics.sorted()
        request.brokersOnly = wantedTopics.isEmpty
        do throws(RPCError) {
            ask(candidates()[...], try ByteBuffer.encoding(request), lastError: nil)
        } catch {
            finishRefresh(with: MillraceError(error))
        }
    }

    private func ask(
        _ addresses: ArraySlice<BrokerAddress>, _ request: ByteBuffer, lastError: RPCError?
    ) {
        guard let address = addresses.first else {
            return finishRefresh(with: unreachable(lastError))
        }
        // Short, because a paused broker must not hold up what another one knows.
        let timeout = min(configuration.requestTimeout, .seconds(1))
        _ = connection(to: address).unary(
            "/millrace.v1.Broker/Metadata", [request], timeout: timeout
        ) { result in
            do throws(RPCError) {
                let answer = try result.get().decoding(WireMetadataResponse.self)
                self.metadata.merge(answer)
                self.lastFailures[address] = nil
                self.refreshedAt = .now()
                self.finishRefresh(with: nil)
            } catch {
                self.noteFailure(at: address)
                self.ask(addresses.dropFirst(), request, lastError: error)
            }
        }
    }

    private func finishRefresh(with error: MillraceError?) {
        isRefreshing = false
        var done = currentWaiters
        currentWaiters = []
        if error == .closed {
            done += nextWaiters
            nextWaiters = []
        }
        if error == nil {
            for observer in observers.values { observer() }
        }
        for waiter in done { waiter(error) }
        if !nextWaiters.isEmpty, !isRefreshing { startRefresh() }
    }

    func unreachable(_ error: RPCError?) -> MillraceError {
        let addresses = configuration.bootstrap.map(\.description).joined(separator: ", ")
        let reason = error.map { " (\($0.message))" } ?? ""
        return MillraceError(
            .networkException,
            "no broker answers at \(addresses)\(reason); check that the cluster runs and that"
                + " --bootstrap or MILLRACE_BOOTSTRAP names it")
    }

    /// The error for a topic that no broker knows.
    static func unknownTopic(_ topic: String, _ error: String) -> MillraceError {
        guard error != ErrorCode.unknownTopicOrPartition.name else {
            return MillraceError(
                code: error,
                message: "there is no topic '\(topic)'; create it with `millrace topic create"
                    + " \(topic)`, or list topics with `millrace topic list`")
        }
        return MillraceError(code: error, message: "topic '\(topic)' can't be used: \(error)")
    }
}
