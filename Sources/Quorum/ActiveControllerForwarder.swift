internal import Essentials
package import Logging
package import NIOCore
package import RPC

/// Passes admin calls on to the active controller, byte for byte, from any node.
///
/// While no controller is known to be active, or the one that was known says that it is not, a call
/// waits and is tried again until its deadline. It is never sent twice to a node that may have
/// acted on it.
///
/// `@unchecked Sendable`: all state is touched on `eventLoop` only.
package final class ActiveControllerForwarder: @unchecked Sendable {
    /// Marks a call that was passed on: a node that is not active refuses it instead of passing it
    /// on again.
    package static let header = "millrace-forwarded"

    /// Where the quorum's leader is.
    package struct Address: Hashable, Sendable {
        package var host: String
        package var port: Int

        package init(host: String, port: Int) {
            self.host = host
            self.port = port
        }
    }

    /// One call under way, without its `ServerCall`, which lives on another loop.
    struct Forwarded: Sendable {
        var path: String
        var request: ByteBuffer
        var encoding: PayloadEncoding
        var deadline: NIODeadline
        /// Serves the call here, if this node has become the active controller meanwhile.
        var serveHere: (@Sendable () -> Bool)?
        /// Gives the answer back to the caller, from any loop.
        var end: @Sendable (Result<ByteBuffer, RPCError>) -> Void
    }

    /// How long a call without a deadline is tried.
    private static let patience = TimeAmount.seconds(10)
    private static let pause = TimeAmount.milliseconds(30)

    let eventLoop: any EventLoop
    private let leader: () -> Address?
    private let logger: Logger
    private var client: (address: Address, client: RPCClient)?
    private var isStopped = false

    /// - Parameters:
    ///   - eventLoop: the control loop.
    ///   - leader: the quorum's leader as last heard of, unless it is this node; called on
    ///     `eventLoop`.
    package init(
        eventLoop: any EventLoop, logger: Logger, leader: @escaping () -> Address?
    ) {
        self.eventLoop = eventLoop
        self.logger = logger
        self.leader = leader
    }

    /// Has every one of these methods passed on.
    package func register(_ paths: [String], in router: inout Router) {
        for path in paths {
            router.register(path) { self.forward($0) }
        }
    }

    /// Passes the call on and answers it; called on the call's event loop.
    ///
    /// - Parameter serveHere: called on `eventLoop` before each try; ends the call itself and
    ///   returns `true` if this node is the active controller now.
    package func forward(_ call: ServerCall, orServe serveHere: (@Sendable () -> Bool)? = nil) {
        call.eventLoop.preconditionInEventLoop()
        let loop = call.eventLoop
        let forwarded = Forwarded(
            path: call.path, request: call.request, encoding: call.encoding,
            deadline: call.deadline ?? .now() + Self.patience, serveHere: serveHere,
            end: { result in
                let end = { @Sendable in
                    switch result {
                    case .success(let answer): call.respond([answer])
                    case .failure(let error): call.fail(error)
                    }
                }
                if loop.inEventLoop { end() } else { loop.execute(end) }
            })
        if eventLoop.inEventLoop {
            start(forwarded)
        } else {
            eventLoop.execute { self.start(forwarded) }
        }
    }

    /// Ends what still waits for an answer of a leader that has been replaced: it may be asleep, and
    /// its successor would answer at once.
    ///
    /// - Parameter isHere: whether this node leads now.
    package func leaderChanged(isHere: Bool = false) {
        eventLoop.preconditionInEventLoop()
        guard let client else { return }
        // A leader that steps down answers what it can; another one is needed to give up on it.
        guard isHere || leader().map({ $0 != client.address }) ?? false else { return }
        self.client = nil
        client.client.close()
    }

    /// Closes the connection; calls under way fail.
    package func stop() {
        eventLoop.preconditionInEventLoop()
        isStopped = true
        client?.client.close()
        client = nil
    }

    func start(_ call: Forwarded) {
        if let serveHere = call.serveHere, serveHere() { return }
        let left = call.deadline - .now()
        guard !isStopped, left > .zero else {
            return call.end(
                .failure(
                    RPCError(
                        .notController,
                        "no controller became active in time; see that a majority of the "
                            + "controllers is up, and try again")))
        }
        guard let client = currentClient() else { return retry(call) }
        client.unary(
            call.path, [call.request], encoding: call.encoding, headers: [(Self.header, "1")],
            timeout: .nanoseconds(left.nanoseconds)
        ) { result in
            if case .failure(let error) = result,
                error.isUnprocessed || error.code == .notController
            {
                self.logger.debug(
                    "the controller did not take a call", metadata: ["error": "\(error)"])
                self.retry(call)
            } else {
                call.end(result)
            }
        }
    }

    private func retry(_ call: Forwarded) {
        eventLoop.scheduleTask(in: Self.pause) { self.start(call) }
    }

    private func currentClient() -> RPCClient? {
        guard let address = leader() else { return nil }
        if let client, client.address == address { return client.client }
        client?.client.close()
        let new = RPCClient(
            host: address.host, port: address.port, eventLoop: eventLoop, logger: logger)
        client = (address, new)
        return new
    }
}
