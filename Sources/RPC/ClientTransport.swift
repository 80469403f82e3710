internal import Essentials
internal import HTTP2
internal import Logging
internal import NIOCore
internal import NIOPosix

#if canImport(Glibc)
    internal import Glibc
#endif

/// A client's connection and the calls that wait for one.
///
/// States: *idle*, until a call wants a connection; *connecting*; *connected*, which ends with the
/// connection or with its GOAWAY (calls on it go on); *backing off* after a failed attempt; *closed*.
///
/// `@unchecked Sendable`: all state is touched on `eventLoop` only.
final class ClientTransport: @unchecked Sendable {
    private enum State {
        case idle
        case connecting
        case connected(HTTP2Connection)
        case backingOff(Scheduled<Void>)
        case closed
    }

    let address: String
    let limits: RPCLimits
    private let host: String
    private let port: Int
    private let eventLoop: any EventLoop
    private let logger: Logger
    private let deadlines: DeadlineQueue
    private let onDisconnect: @Sendable () -> Void

    private var state = State.idle
    private var waiting = CircularBuffer<ClientCall>()
    /// Attempts that failed since the last connection that was of use.
    private var failures = 0
    /// Connections that take no new calls and end with their last one.
    private var draining: [HTTP2Connection] = []
    /// The unchanging header fields of each method.
    private var templates: [String: HTTP2Headers] = [:]

    /// Calls that are not done.
    private var running = 0
    /// Nobody can make calls any more; the last running one closes the connection.
    private var isAbandoned = false

    private static let firstBackoff = Duration.milliseconds(100)
    private static let longestBackoff = Duration.seconds(2)
    private static let maxTemplates = 256

    init(
        host: String, port: Int, eventLoop: any EventLoop, limits: RPCLimits, logger: Logger,
        onDisconnect: @escaping @Sendable () -> Void
    ) {
        self.host = host
        self.port = port
        self.eventLoop = eventLoop
        self.limits = limits
        self.logger = logger
        self.onDisconnect = onDisconnect
        address = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        deadlines = DeadlineQueue(eventLoop: eventLoop)
    }

    // MARK: Calls

    func start(_ call: ClientCall) {
        // It may have been cancelled before it came here.
        guard !call.isDone else { return }
        call.attach(to: self)
        running += 1
        if case .closed = state {
            refuse(call, RPCError(status: .cancelled, "the client is closed", isUnprocessed: true))
            return
        }
        deadlines.add(call)
        if waiting.isEmpty, open(call) { return }
        wait(call)
    }

    /// Lets the call wait for room, or for a connection.
    func wait(_ call: ClientCall) {
        guard waiting.count < limits.maxWaitingCalls else {
            refuse(
                call,
                RPCError(
                    status: .resourceExhausted, code: .throttlingQuotaExceeded,
                    "\(waiting.count) calls wait for a connection to \(address) already",
                    isUnprocessed: true))
            return
        }
        waiting.append(call)
        if case .idle = state { connect() }
    }

    /// Fails the call in a later turn, so that no completion runs inside the call that starts it.
    private func refuse(_ call: ClientCall, _ error: RPCError) {
        eventLoop.execute { call.fail(error) }
    }

    func done(_ call: ClientCall) {
        deadlines.remove(call)
        running -= 1
        if isAbandoned, running == 0 { close() }
    }

    func abandon() {
        isAbandoned = true
        if running == 0 { close() }
    }

    private func open(_ call: ClientCall) -> Bool {
        guard case .connected(let connection) = state,
            connection.streams.count < connection.maxOpenStreams
        else { return false }
        return call.open(on: connection, headers(of: call))
    }

    private func openWaiting() {
        while let call = waiting.first {
            guard call.isDone || open(call) else { return }
            waiting.removeFirst()
        }
    }

    private func failWaiting(_ error: RPCError) {
        let calls = waiting
        waiting = CircularBuffer()
        for call in calls {
            call.fail(error)
        }
    }

    private func headers(of call: ClientCall) -> HTTP2Headers {
        var list = template(call.path, call.encoding)
        if let timeout = call.timeout {
            let milliseconds = max(1, min(timeout.milliseconds, 99_999_999))
            switch call.encoding {
            case .protobuf: list.add("grpc-timeout", "\(milliseconds)m")
            case .json: list.add("connect-timeout-ms", "\(milliseconds)")
            }
        }
        for (name, value) in call.headers {
            list.add(name.lowercased(), value)
        }
        return list
    }

    private func template(_ path: String, _ encoding: PayloadEncoding) -> HTTP2Headers {
        if encoding == .protobuf, let list = templates[path] { return list }
        var list = HTTP2Headers()
        list.reserve(fields: 10, bytes: 256)
        list.add(":method", "POST")
        list.add(":scheme", "http")
        list.add(":authority", address)
        list.add(":path", path)
        switch encoding {
        case .protobuf:
            list.add("content-type", "application/grpc+proto")
            list.add("te", "trailers")
            if templates.count < Self.maxTemplates { templates[path] = list }
        case .json:
            list.add("content-type", "application/json")
        }
        return list
    }

    // MARK: The connection

    private func connect() {
        state = .connecting
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(TimeAmount(bounded: limits.connectTimeout))
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.writeBufferWaterMark, value: SocketOptions.writeBufferWaterMark)
            .channelOption(.recvAllocator, value: SocketOptions.recvAllocator)
            .channelInitializer { [limits] channel in
                channel.eventLoop.makeCompletedFuture {
                    // Of several attempts only the winner gets a delegate.
                    try channel.pipeline.syncOperations.addHandler(
                        HTTP2Connection(
                            role: .client, settings: limits.http2, eventLoop: channel.eventLoop,
                            delegate: nil))
                }
            }
        let attempt: EventLoopFuture<any Channel>
        if let address = try? SocketAddress(ipAddress: host, port: port) {
            attempt = bootstrap.connect(to: address)
        } else {
            attempt = bootstrap.connect(host: host, port: port)
        }
        attempt.hop(to: eventLoop).whenComplete { result in
            switch result {
            case .success(let channel): self.connected(channel)
            case .failure(let error): self.couldNotConnect(error)
            }
        }
    }

    private func connected(_ channel: any Channel) {
        let handler = try? channel.pipeline.syncOperations.handler(type: HTTP2Connection.self)
        guard case .connecting = state, let connection = handler, !connection.isEnded else {
            channel.close(promise: nil)
            if case .connecting = state { couldNotConnect(ChannelError.eof) }
            return
        }
        connection.delegate = self
        state = .connected(connection)
        openWaiting()
    }

    private func couldNotConnect(_ error: any Error) {
        guard case .connecting = state else { return }
        let isRefused = Self.isRefused(error)
        let reason = isRefused ? "connection refused; is the node running?" : "\(error)"
        logger.debug("cannot connect", metadata: ["to": "\(address)", "reason": "\(reason)"])
        backOff()
        var failure = RPCError(
            status: .unavailable, code: .networkException,
            "cannot connect to \(address): \(reason)", isUnprocessed: true)
        failure.isConnectionRefused = isRefused
        failWaiting(failure)
    }

    private static func isRefused(_ error: any Error) -> Bool {
        switch error {
        case let error as IOError:
            error.errnoCode == ECONNREFUSED
        case let error as NIOConnectionError:
            !error.connectionErrors.isEmpty
                && error.connectionErrors.allSatisfy { isRefused($0.error) }
        default:
            false
        }
    }

    private func backOff() {
        failures += 1
        let doubled = Self.firstBackoff * (1 << min(failures - 1, 10))
        let longest = min(doubled, Self.longestBackoff)
        let delay = longest * Double.random(in: 0.5...1)
        state = .backingOff(
            eventLoop.scheduleTask(in: TimeAmount(bounded: delay)) {
                guard case .backingOff = self.state else { return }
                self.state = .idle
                self.connectIfWanted()
            })
    }

    private func connectIfWanted() {
        guard case .idle = state, waiting.contains(where: { !$0.isDone }) else { return }
        connect()
    }

    /// Forgets earlier failures: the next call tries to connect at once.
    func resetBackoff() {
        failures = 0
        guard case .backingOff(let timer) = state else { return }
        timer.cancel()
        state = .idle
        connectIfWanted()
    }

    func close() {
        if case .closed = state { return }
        let last = state
        state = .closed
        failWaiting(
            RPCError(status: .cancelled, "the client was closed", isUnprocessed: true))
        var connections = draining
        draining = []
        switch last {
        case .connected(let connection): connections.append(connection)
        case .backingOff(let timer): timer.cancel()
        case .idle, .connecting, .closed: break
        }
        for connection in connections {
            connection.close()
        }
        deadlines.cancelAll()
    }
}

extension ClientTransport: HTTP2ConnectionDelegate {
    func connectionStarted(_ connection: HTTP2Connection) {
        openWaiting()
    }

    func connection(_ connection: HTTP2Connection, opened stream: HTTP2Stream) {}

    func connectionCapacityChanged(_ connection: HTTP2Connection) {
        guard case .connected(let current) = state, current === connection else { return }
        if connection.isDraining {
            draining.append(connection)
            state = .idle
            connectIfWanted()
        } else {
            // The server's settings have come: it speaks HTTP/2 and is of use.
            failures = 0
            openWaiting()
        }
    }

    func connection(_ connection: HTTP2Connection, closed stream: HTTP2Stream) {
        if !waiting.isEmpty { openWaiting() }
    }

    func connectionEnded(_ connection: HTTP2Connection, _ end: HTTP2ConnectionEnd) {
        draining.removeAll { $0 === connection }
        if case .closed = state { return }
        logger.debug("a connection ended", metadata: ["to": "\(address)", "reason": "\(end)"])
        if case .connected(let current) = state, current === connection {
            if connection.hasPeerSettings {
                state = .idle
                connectIfWanted()
            } else {
                backOff()
            }
        }
        onDisconnect()
    }
}
