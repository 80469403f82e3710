package import Logging
package import NIOCore

/// Stands before a server's HTTP/2 connection and lets only HTTP/2 through.
///
/// Other protocols get the shortest answer their speaker understands, and are closed; so is a peer
/// that says nothing. Once HTTP/2 is recognised the guard adds the connection and removes itself.
package final class PortGuard: ChannelInboundHandler, RemovableChannelHandler {
    package typealias InboundIn = ByteBuffer
    package typealias InboundOut = ByteBuffer
    package typealias OutboundOut = ByteBuffer

    private let timeout: Duration
    private let logger: Logger
    private let makeConnection: (any Channel) -> HTTP2Connection
    private var received = ByteBuffer()
    private var timer: Scheduled<Void>?
    private var isDone = false

    /// - Parameter makeConnection: called when the peer turns out to speak HTTP/2.
    package init(
        timeout: Duration, logger: Logger,
        makeConnection: @escaping (any Channel) -> HTTP2Connection
    ) {
        self.timeout = timeout
        self.logger = logger
        self.makeConnection = makeConnection
    }

    package func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        let logger = logger
        timer = context.eventLoop.scheduleTask(in: TimeAmount(bounded: timeout)) {
            logger.debug(
                "closed a connection that did not say what it speaks",
                metadata: ["peer": "\(channel.peerName)"])
            channel.close(promise: nil)
        }
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        timer?.cancel()
        timer = nil
    }

    package func channelInactive(context: ChannelHandlerContext) {
        timer?.cancel()
        timer = nil
        context.fireChannelInactive()
    }

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // What comes after our answer is read only to be dropped.
        guard !isDone else { return }
        var buffer = unwrapInboundIn(data)
        received.writeBuffer(&buffer)
        switch ProtocolSniffer().judge(received.readableBytesView) {
        case .undecided:
            break
        case .http2:
            isDone = true
            letThrough(context)
        case .http1:
            reject(context, as: "HTTP/1", answer: Self.http1Answer)
        case .tls:
            reject(context, as: "TLS", answer: Self.tlsAlert)
        case .unknown:
            reject(context, as: "no known protocol", answer: nil)
        }
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private func letThrough(_ context: ChannelHandlerContext) {
        let connection = makeConnection(context.channel)
        do {
            try context.pipeline.syncOperations.addHandler(connection, position: .after(self))
        } catch {
            context.close(promise: nil)
            return
        }
        context.fireChannelRead(wrapInboundOut(received))
        received = ByteBuffer()
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }

    /// Answers, then waits for the peer to close: a close of ours with bytes unread would be a
    /// reset, which can overtake the answer.
    private func reject(_ context: ChannelHandlerContext, as what: String, answer: ByteBuffer?) {
        isDone = true
        received = ByteBuffer()
        logger.debug(
            "refused a connection that speaks \(what) on an HTTP/2 port",
            metadata: ["peer": "\(context.channel.peerName)"])
        guard let answer else {
            context.close(promise: nil)
            return
        }
        let channel = context.channel
        timer?.cancel()
        timer = context.eventLoop.scheduleTask(in: .seconds(1)) { channel.close(promise: nil) }
        context.writeAndFlush(wrapOutboundOut(answer), promise: nil)
        context.close(mode: .output, promise: nil)
    }

    private static let http1Answer: ByteBuffer = {
        let text = """
            This port speaks HTTP/2 with prior knowledge (h2c), not HTTP/1.
            With curl, add --http2-prior-knowledge.

            """
        return ByteBuffer(
            string: "HTTP/1.1 505 HTTP Version Not Supported\r\n"
                + "content-type: text/plain; charset=utf-8\r\n"
                + "content-length: \(text.utf8.count)\r\nconnection: close\r\n\r\n\(text)")
    }()

    /// A fatal handshake_failure (RFC 8446, 6), in a record of TLS 1.0's version as alerts before
    /// a ServerHello are.
    private static let tlsAlert = ByteBuffer(bytes: [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28])
}

extension Channel {
    /// The peer's address for logs and errors.
    package var peerName: String {
        guard let address = remoteAddress else { return "unknown" }
        guard let ip = address.ipAddress, let port = address.port else { return "\(address)" }
        return address.protocol == .inet6 ? "[\(ip)]:\(port)" : "\(ip):\(port)"
    }
}
