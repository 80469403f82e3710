internal import Essentials
internal import HTTP2
internal import NIOCore

/// One call of a client.
///
/// States: *waiting* for a connection; *open* on a stream; *done*. It is completed exactly once.
///
/// `@unchecked Sendable`: what callers set is constant; all else is touched on the client's event
/// loop only.
final class ClientCall: @unchecked Sendable {
    enum Sink {
        case unary(@Sendable (Result<ByteBuffer, RPCError>) -> Void)
        case stream(
            onMessage: @Sendable (ByteBuffer) -> Void, onEnd: @Sendable (RPCError?) -> Void)
    }

    let path: String
    let pieces: [ByteBuffer]
    let encoding: PayloadEncoding
    let headers: [(String, String)]
    let timeout: Duration?
    let deadline: NIODeadline?

    var deadlineIndex = -1
    private(set) var isDone = false
    private var sink: Sink?
    private var transport: ClientTransport?
    private var stream: HTTP2Stream?

    // The answer.
    private var httpStatus = 0
    private var assembler = MessageFraming.Assembler()
    private var message: ByteBuffer?
    /// Bytes of the current message whose window was returned before the message was complete.
    private var earlyBytes = 0
    /// Bytes returned early that the reader's `consume` still covers.
    private var credit = 0
    /// The server refused the call once, and it was sent again.
    private var wasRefused = false

    init(
        path: String, pieces: [ByteBuffer], encoding: PayloadEncoding,
        headers: [(String, String)], timeout: Duration?, sink: Sink
    ) {
        self.path = path
        self.pieces = pieces
        self.encoding = encoding
        self.headers = headers
        self.timeout = timeout
        self.sink = sink
        deadline = timeout.map { .now() + TimeAmount(bounded: $0) }
    }

    func attach(to transport: ClientTransport) {
        self.transport = transport
    }

    /// Sends the request; false if the connection takes no more streams.
    func open(on connection: HTTP2Connection, _ headers: HTTP2Headers) -> Bool {
        guard let stream = connection.open(headers, delegate: self) else { return false }
        self.stream = stream
        switch encoding {
        case .protobuf:
            let count = pieces.reduce(0) { $0 + $1.readableBytes }
            stream.send(
                head: MessageFraming.prefix(count: count),
                headCount: MessageFraming.prefixBytes, pieces)
        case .json:
            stream.send(pieces)
        }
        stream.finish()
        return true
    }

    func cancel() {
        fail(
            RPCError(
                status: .cancelled, "the caller gave the call up", isUnprocessed: isUnsent),
            resetting: .cancel)
    }

    /// The reader is done with `count` bytes of messages it was given.
    func consume(_ count: Int) {
        guard count > 0, let stream else { return }
        let covered = min(count, credit)
        credit -= covered
        stream.consume(count - covered)
    }

    /// Nothing of the request has left.
    private var isUnsent: Bool { stream.map { !$0.isRequestSent } ?? true }

    func fail(_ error: RPCError, resetting code: HTTP2ErrorCode? = nil) {
        guard !isDone else { return }
        if let code { stream?.reset(code) }
        complete(.failure(error))
    }

    private func complete(_ result: Result<ByteBuffer, RPCError>) {
        guard !isDone, let sink else { return }
        isDone = true
        self.sink = nil
        // The server answered before it had the whole request: it wants no more of it.
        if let stream, stream.queuedBytes > 0 { stream.reset(.cancel) }
        transport?.done(self)
        transport = nil
        switch sink {
        case .unary(let completion):
            completion(result)
        case .stream(_, let onEnd):
            switch result {
            case .success: onEnd(nil)
            case .failure(let error): onEnd(error)
            }
        }
    }
}

extension ClientCall: Expiring {
    func expire() {
        let isUnsent = isUnsent
        fail(
            RPCError(
                status: .deadlineExceeded, code: .requestTimedOut,
                isUnsent
                    ? "the call could not be sent to \(transport?.address ?? "the node") in time"
                    : "no answer from \(transport?.address ?? "the node") in time",
                isUnprocessed: isUnsent),
            resetting: .cancel)
    }
}

extension ClientCall: HTTP2StreamDelegate {
    func streamReceivedHeaders(_ stream: HTTP2Stream) {
        guard httpStatus == 0 else { return }
        // An interim answer (1xx) says nothing; the real one follows.
        guard let status = stream.headers[":status"].flatMap({ Int($0) }), status >= 200 else {
            return
        }
        httpStatus = status
    }

    func stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
        stream.connection?.consume(bytes.count)
        guard !isDone, let sink else {
            stream.consume(bytes.count)
            return
        }
        let limit = transport?.limits.maxMessageBytes ?? 0
        if encoding == .json || httpStatus != 200 {
            stream.consume(bytes.count)
            var body = message ?? ByteBuffer()
            guard body.readableBytes + bytes.count <= limit else {
                fail(
                    RPCError(
                        .tooLarge(body.readableBytes + bytes.count), maxMessageBytes: limit),
                    resetting: .cancel)
                return
            }
            message = nil
            body.writeBytes(bytes)
            message = body
            return
        }
        do throws(MessageFraming.Failure) {
            switch sink {
            case .unary:
                stream.consume(bytes.count)
                try receiveUnary(bytes, limit)
            case .stream(let onMessage, _):
                try receive(bytes, limit, stream, onMessage)
            }
        } catch {
            fail(RPCError(error, maxMessageBytes: limit), resetting: .cancel)
        }
    }

    private func receiveUnary(
        _ bytes: UnsafeRawBufferPointer, _ limit: Int
    ) throws(MessageFraming.Failure) {
        var rest = bytes
        while let next = try assembler.next(&rest, maxMessageBytes: limit) {
            guard message == nil else {
                fail(
                    RPCError(status: .internalError, "one message was expected, not several"),
                    resetting: .cancel)
                return
            }
            message = next
        }
    }

    private func receive(
        _ bytes: UnsafeRawBufferPointer, _ limit: Int, _ stream: HTTP2Stream,
        _ onMessage: @Sendable (ByteBuffer) -> Void
    ) throws(MessageFraming.Failure) {
        var rest = bytes
        while let next = try assembler.next(&rest, maxMessageBytes: limit) {
            if earlyBytes > 0 {
                credit = max(0, credit - MessageFraming.prefixBytes)
                earlyBytes = 0
            } else {
                stream.consume(MessageFraming.prefixBytes)
            }
            onMessage(next)
            if isDone { return }
        }
        // A message larger than the window would never be complete if its reader had to return it.
        guard assembler.announcedBytes > (transport?.limits.streamWindow ?? 0) / 2 else { return }
        let early = assembler.heldBytes - earlyBytes
        stream.consume(early)
        credit += early
        earlyBytes += early
    }

    func streamReceivedEnd(_ stream: HTTP2Stream) {
        guard !isDone else { return }
        if encoding == .json {
            let body = message ?? ByteBuffer()
            if httpStatus == 200 {
                complete(.success(body))
            } else {
                complete(.failure(RPCError(json: body, httpStatus: httpStatus)))
            }
        } else if httpStatus != 200 {
            complete(.failure(RPCError(json: message ?? ByteBuffer(), httpStatus: httpStatus)))
        } else if let error = RPCError.fromTrailers(stream.headers) {
            complete(.failure(error))
        } else {
            completeWell()
        }
    }

    private func completeWell() {
        switch sink {
        case .stream where !assembler.isInsideMessage:
            complete(.success(ByteBuffer()))
        case .unary where message != nil && !assembler.isInsideMessage:
            complete(.success(message ?? ByteBuffer()))
        case .stream, .unary, nil:
            fail(RPCError(status: .internalError, "the answer ends before its message does"))
        }
    }

    func streamBecameWritable(_ stream: HTTP2Stream) {}

    func streamClosed(_ stream: HTTP2Stream, _ end: HTTP2StreamEnd) {
        guard !isDone else { return }
        let address = transport?.address ?? "the node"
        switch end {
        case .complete:
            fail(RPCError(status: .unknown, "\(address) ended the call without an answer"))
        case .reset(.refusedStream) where !wasRefused:
            // Certainly not processed, so sending it again is safe. It happens before a server's
            // settings arrive, and around a GOAWAY.
            wasRefused = true
            self.stream = nil
            transport?.wait(self)
        case .reset(.refusedStream):
            fail(
                RPCError(
                    status: .unavailable, code: .networkException,
                    "\(address) takes no more calls on this connection; send it again",
                    isUnprocessed: true))
        case .reset(let code):
            fail(
                RPCError(
                    status: code == .cancel ? .cancelled : .unavailable, code: .networkException,
                    "\(address) reset the call (HTTP/2 error \(code.rawValue))"))
        case .connectionLost:
            fail(
                RPCError(
                    status: .unavailable, code: .networkException,
                    isUnsent
                        ? "the connection to \(address) was lost before the call was sent"
                        : "the connection to \(address) was lost before the answer came",
                    isUnprocessed: isUnsent))
        }
    }
}
