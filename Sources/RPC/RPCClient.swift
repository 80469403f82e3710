internal import Essentials
internal import HTTP2
package import Logging
package import NIOCore
package import SwiftProtobuf
internal import Synchronization

/// Calls to one address, over one HTTP/2 connection that is opened when the first call wants it.
///
/// Usable from any thread; what it calls back runs on `eventLoop`. Calls made together from another
/// thread reach the loop in one hop.
package final class RPCClient: Sendable {
    private enum Command {
        case start(ClientCall)
        case cancel(ClientCall)
        case consume(ClientCall, Int)
        case resetBackoff
        case abandon
        case close
    }

    /// What other threads want done; a lock, because it is where they meet the loop.
    private final class Mailbox: Sendable {
        let commands = Mutex<[Command]>([])
    }

    package let eventLoop: any EventLoop
    package let host: String
    package let port: Int
    private let transport: ClientTransport
    private let mailbox = Mailbox()
    private let disconnectHandler: DisconnectHandler
    private let isClosed = Atomic(false)

    package init(
        host: String, port: Int, eventLoop: any EventLoop, limits: RPCLimits = RPCLimits(),
        logger: Logger
    ) {
        let disconnectHandler = DisconnectHandler()
        self.host = host
        self.port = port
        self.eventLoop = eventLoop
        self.disconnectHandler = disconnectHandler
        transport = ClientTransport(
            host: host, port: port, eventLoop: eventLoop, limits: limits, logger: logger,
            onDisconnect: { disconnectHandler.body.withLock { $0 }?() })
    }

    deinit {
        // After `close` there is nothing to do, and perhaps no event loop to do it on.
        if !isClosed.load(ordering: .relaxed) { perform(.abandon) }
    }

    private final class DisconnectHandler: Sendable {
        let body = Mutex<(@Sendable () -> Void)?>(nil)
    }

    /// Called on the loop when a connection that was established ends without `close`.
    package var onDisconnect: (@Sendable () -> Void)? {
        get { disconnectHandler.body.withLock { $0 } }
        set { disconnectHandler.body.withLock { $0 = newValue } }
    }

    /// Calls a unary method with one message made of `pieces`, sent without being joined.
    ///
    /// - Parameters:
    ///   - encoding: `json` sends the pieces as a JSON body, and gives back the answer's JSON.
    ///   - headers: more request headers; names in lower case.
    ///   - completion: called once, on the loop.
    @discardableResult
    package func unary(
        _ path: String, _ pieces: [ByteBuffer], encoding: PayloadEncoding = .protobuf,
        headers: [(String, String)] = [], timeout: Duration,
        completion: @escaping @Sendable (Result<ByteBuffer, RPCError>) -> Void
    ) -> CallToken {
        let call = ClientCall(
            path: path, pieces: pieces, encoding: encoding, headers: headers, timeout: timeout,
            sink: .unary(completion))
        perform(.start(call))
        return CallToken { self.perform(.cancel(call)) }
    }

    /// Calls a unary method and decodes its answer; cancelled with its task.
    package func call<Request: Message, Answer: Message>(
        _ path: String, _ request: Request, returning: Answer.Type = Answer.self,
        timeout: Duration, headers: [(String, String)] = []
    ) async throws(RPCError) -> Answer {
        let body = try PayloadEncoding.protobuf.encode(request)
        let token = Mutex<CallToken?>(nil)
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let started = unary(path, [body], headers: headers, timeout: timeout) { result in
                    continuation.resume(returning: result)
                }
                token.withLock { $0 = started }
                // The handler ran before there was a token.
                if Task.isCancelled { started.cancel() }
            }
        } onCancel: {
            token.withLock { $0 }?.cancel()
        }
        let answer = try result.get()
        do {
            return try Answer(serializedBytes: ProtobufBytes(answer))
        } catch {
            throw RPCError(
                status: .internalError,
                "the answer of \(host):\(port) is not a \(Answer.protoMessageName): \(error)")
        }
    }

    /// Calls a server-streaming method with one message made of `pieces`.
    ///
    /// - Parameters:
    ///   - timeout: how long the whole stream may last; `nil` for as long as it likes.
    ///   - onMessage: called for each message. Its bytes count against the stream's window until
    ///     `ClientStream.consume` returns them; a reader that holds back stops the server.
    ///   - onEnd: called once, with `nil` after a good end.
    package func serverStream(
        _ path: String, _ pieces: [ByteBuffer], headers: [(String, String)] = [],
        timeout: Duration? = nil, onMessage: @escaping @Sendable (ByteBuffer) -> Void,
        onEnd: @escaping @Sendable (RPCError?) -> Void
    ) -> ClientStream {
        let call = ClientCall(
            path: path, pieces: pieces, encoding: .protobuf, headers: headers, timeout: timeout,
            sink: .stream(onMessage: onMessage, onEnd: onEnd))
        perform(.start(call))
        return ClientStream(
            onCancel: { self.perform(.cancel(call)) },
            onConsume: { self.perform(.consume(call, $0)) })
    }

    /// Lets the next call try to connect at once, however often that failed before.
    package func resetBackoff() {
        perform(.resetBackoff)
    }

    /// Fails all calls and closes the connection; the client is of no use after.
    package func close() {
        isClosed.store(true, ordering: .relaxed)
        perform(.close)
    }

    private func perform(_ command: Command) {
        if eventLoop.inEventLoop {
            Self.perform(command, transport)
            return
        }
        let isFirst = mailbox.commands.withLock { commands in
            commands.append(command)
            return commands.count == 1
        }
        guard isFirst else { return }
        eventLoop.execute { [mailbox, transport] in
            let commands = mailbox.commands.withLock { commands in
                let taken = commands
                commands = []
                return taken
            }
            for command in commands {
                Self.perform(command, transport)
            }
        }
    }

    private static func perform(_ command: Command, _ transport: ClientTransport) {
        switch command {
        case .start(let call): transport.start(call)
        case .cancel(let call): call.cancel()
        case .consume(let call, let count): call.consume(count)
        case .resetBackoff: transport.resetBackoff()
        case .abandon: transport.abandon()
        case .close: transport.close()
        }
    }
}

/// Cancels one call, from any thread.
package struct CallToken: Sendable {
    private let onCancel: @Sendable () -> Void

    init(onCancel: @escaping @Sendable () -> Void) {
        self.onCancel = onCancel
    }

    /// Gives the call up; it completes as cancelled unless it is done already.
    package func cancel() { onCancel() }
}

/// The caller's end of a server-streaming call; usable from any thread.
package struct ClientStream: Sendable {
    private let onCancel: @Sendable () -> Void
    private let onConsume: @Sendable (Int) -> Void

    init(
        onCancel: @escaping @Sendable () -> Void, onConsume: @escaping @Sendable (Int) -> Void
    ) {
        self.onCancel = onCancel
        self.onConsume = onConsume
    }

    /// Gives the call up; `onEnd` is called unless it was already.
    package func cancel() { onCancel() }

    /// Lets the server send `bytes` more: call it with the size of each message once it is used.
    package func consume(_ bytes: Int) { onConsume(bytes) }
}
