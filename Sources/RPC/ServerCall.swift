internal import Essentials
internal import HTTP2
package import NIOCore
package import SwiftProtobuf

/// One call on the server.
///
/// States: *receiving* the request; *open*, from when the handler has it until the handler has
/// ended the call; *closed*. A call closes when it is answered, when the peer gives it up or is
/// lost, and at its deadline; what a handler does to a closed call is ignored, since it could not
/// know yet.
///
/// `@unchecked Sendable`: lives on its connection's event loop and is used only there.
package final class ServerCall: @unchecked Sendable {
    /// `/package.Service/Method`, as in the request.
    package var path: String { route?.path ?? stream.headers[":path"] ?? "" }
    package let encoding: PayloadEncoding
    package let isGRPC: Bool
    package var eventLoop: any EventLoop { connection.eventLoop }
    /// When the caller stops waiting.
    package let deadline: NIODeadline?
    /// The whole message, without gRPC's framing.
    package internal(set) var request = ByteBuffer()
    /// Nothing more can be sent: the call was ended by either side.
    package internal(set) var isClosed = false
    /// Called once, when the call closes otherwise than by its handler.
    package var onCancel: (() -> Void)?
    /// Called each time `isWritable` has become true again.
    package var onWritable: (() -> Void)?

    let stream: HTTP2Stream
    let connection: ServerConnection
    let route: Route?
    var deadlineIndex = -1
    var isReceiving = true
    var assembler = MessageFraming.Assembler()
    var hasMessage = false
    /// Bytes of the request that count against the connection's budget.
    var heldBytes = 0
    /// They count as those of a complete request.
    var isComplete = false

    init(stream: HTTP2Stream, head: RequestHead, connection: ServerConnection) {
        self.stream = stream
        self.connection = connection
        route = head.route
        isGRPC = head.isGRPC
        encoding = head.contentType == .json ? .json : .protobuf
        deadline = head.timeout.map { .now() + TimeAmount(bounded: $0) }
    }

    /// The value of a request header; `name` is in lower case.
    package func header(_ name: String) -> String? { stream.headers[name] }

    /// The caller's address.
    package var peer: String { connection.peer }

    /// Reads the request.
    ///
    /// - Throws: `invalidArgument`, to be passed on to `fail`.
    package func decode<M: Message>(_ type: M.Type = M.self) throws(RPCError) -> M {
        try encoding.decode(type, from: request)
    }

    // MARK: Unary

    /// Ends the call with one message made of `pieces`, which are sent without being joined.
    ///
    /// - Parameter owner: kept until they are with the socket, or will never be.
    package func respond(_ pieces: [ByteBuffer], holding owner: AnyObject? = nil) {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return }
        if isGRPC {
            sendMessage(pieces, holding: owner)
            finishWell()
        } else {
            stream.sendHeaders(encoding == .json ? Answers.json : Answers.protobuf)
            stream.send(pieces, holding: owner)
            stream.finish()
            close()
        }
    }

    /// Ends the call with `message`, written as the request was.
    package func respond(_ message: some Message) {
        guard !isClosed else { return }
        do throws(RPCError) {
            var body = try encoding.encode(message)
            // For whoever reads it in a terminal.
            if encoding == .json { body.writeInteger(UInt8(ascii: "\n")) }
            respond([body])
        } catch {
            fail(error)
        }
    }

    /// Ends the call with an error.
    package func fail(_ error: RPCError) {
        fail(error, httpStatus: error.code == .messageTooLarge ? 413 : error.status.httpStatus)
    }

    func fail(_ error: RPCError, httpStatus: Int) {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return }
        if isGRPC {
            if stream.hasSentHeaders {
                var trailers = HTTP2Headers()
                error.addTrailers(to: &trailers)
                stream.finish(trailers: trailers)
            } else {
                var headers = Answers.grpc
                error.addTrailers(to: &headers)
                stream.sendHeaders(headers, endStream: true)
            }
        } else {
            var headers = HTTP2Headers()
            headers.add(":status", String(httpStatus))
            headers.add("content-type", "application/json")
            if httpStatus == 405 { headers.add("allow", "POST") }
            stream.sendHeaders(headers)
            stream.send([error.json])
            stream.finish()
        }
        close()
    }

    // MARK: Server streaming (gRPC)

    /// Queues one message made of `pieces`.
    ///
    /// - Parameter owner: kept until they are with the socket, or will never be.
    package func send(_ pieces: [ByteBuffer], holding owner: AnyObject? = nil) {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return }
        sendMessage(pieces, holding: owner)
    }

    private func sendMessage(_ pieces: [ByteBuffer], holding owner: AnyObject?) {
        stream.sendHeaders(Answers.grpc)
        let count = pieces.reduce(0) { $0 + $1.readableBytes }
        stream.send(
            head: MessageFraming.prefix(count: count), headCount: MessageFraming.prefixBytes,
            pieces, holding: owner)
    }

    /// Whether the bytes queued and not yet sent are below the limit; `send` works all the same.
    package var isWritable: Bool { !isClosed && stream.isWritable }

    /// Ends the call well.
    package func finish() {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return }
        finishWell()
    }

    private func finishWell() {
        stream.sendHeaders(Answers.grpc)
        stream.finish(trailers: Answers.okTrailers)
        close()
    }

    // MARK: Ends

    /// The call is over; its request no longer counts.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        onCancel = nil
        onWritable = nil
        connection.closed(self)
    }

    func cancel() {
        guard !isClosed else { return }
        let onCancel = onCancel
        close()
        onCancel?()
    }
}

extension ServerCall: Expiring {
    func expire() {
        guard !isClosed else { return }
        let onCancel = onCancel
        fail(
            RPCError(
                .requestTimedOut,
                "no answer within the time the caller allowed; "
                    + "whether the request took effect is unknown"))
        onCancel?()
    }
}

/// Header lists that never change.
enum Answers {
    static let grpc = HTTP2Headers([":status": "200", "content-type": "application/grpc+proto"])
    static let json = HTTP2Headers([":status": "200", "content-type": "application/json"])
    static let protobuf = HTTP2Headers([":status": "200", "content-type": "application/proto"])
    static let okTrailers = HTTP2Headers(["grpc-status": "0"])
}
