internal import CNghttp2
package import NIOCore

/// Why a stream is over.
package enum HTTP2StreamEnd: Sendable, Equatable {
    /// Both sides sent all they had.
    case complete
    /// One side reset it, with this HTTP/2 error code.
    case reset(HTTP2ErrorCode)
    /// The connection ended first.
    case connectionLost
}

/// An HTTP/2 error code (RFC 9113, 7).
package struct HTTP2ErrorCode: RawRepresentable, Sendable, Hashable {
    package var rawValue: UInt32

    package init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    package static let noError = HTTP2ErrorCode(rawValue: 0x0)
    package static let protocolError = HTTP2ErrorCode(rawValue: 0x1)
    package static let internalError = HTTP2ErrorCode(rawValue: 0x2)
    package static let flowControlError = HTTP2ErrorCode(rawValue: 0x3)
    package static let refusedStream = HTTP2ErrorCode(rawValue: 0x7)
    package static let cancel = HTTP2ErrorCode(rawValue: 0x8)
    package static let enhanceYourCalm = HTTP2ErrorCode(rawValue: 0xb)
}

/// What the owner of a stream hears about it, on the connection's event loop.
package protocol HTTP2StreamDelegate: AnyObject {
    /// A response's headers, or trailers, are complete in `stream.headers`.
    func streamReceivedHeaders(_ stream: HTTP2Stream)
    /// Some of the body arrived; `bytes` are valid during the call, and count against the stream's
    /// window until `consume` is called.
    func stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer)
    /// The peer has sent everything.
    func streamReceivedEnd(_ stream: HTTP2Stream)
    /// `isWritable` is true again.
    func streamBecameWritable(_ stream: HTTP2Stream)
    /// The stream is over; nothing is called after this.
    func streamClosed(_ stream: HTTP2Stream, _ end: HTTP2StreamEnd)
}

/// One request and its response.
///
/// `@unchecked Sendable`: lives on its connection's event loop and is used only there.
package final class HTTP2Stream: @unchecked Sendable {
    /// Up to 8 bytes that precede a piece on the wire, held here to spare them a buffer.
    struct Piece {
        var head: UInt64 = 0
        var headCount = 0
        var body: ByteBuffer
        /// Let go of once the piece is with the channel, or dropped.
        var owner: AnyObject?

        var count: Int { headCount + body.readableBytes }
    }

    package internal(set) var id: Int32
    /// Released when the stream is closed. (A weak or unowned reference would make every count of
    /// references to the connection a slow one.)
    package internal(set) var connection: HTTP2Connection?
    /// Released when the stream is closed.
    package var delegate: (any HTTP2StreamDelegate)?
    /// The header fields of the request, or of the response, or the trailers: whichever came last.
    package internal(set) var headers = HTTP2Headers()
    /// The list was longer than the limit allows; `headers` holds its beginning.
    package internal(set) var isHeaderListTooLong = false
    package internal(set) var isClosed = false
    /// The peer sent its last byte.
    package internal(set) var isRemoteEnded = false
    /// A client's request has left for the peer, at least in part.
    package internal(set) var isRequestSent = false

    /// Where the stream stands in its connection's list.
    var index = 0
    var pieces: [Piece] = []
    var firstPiece = 0
    package internal(set) var queuedBytes = 0
    var isEnding = false
    var trailers: HTTP2Headers?
    /// nghttp2 found nothing to send and waits to be resumed.
    var isDeferred = false
    package internal(set) var hasSentHeaders = false
    var isWaitingForWritable = false
    /// Received bytes that still count against the stream's window.
    package internal(set) var unconsumedBytes = 0

    init(id: Int32, connection: HTTP2Connection) {
        self.id = id
        self.connection = connection
    }

    /// Queued bytes are below the limit.
    ///
    /// Once false, the delegate is told when it is true again.
    package var isWritable: Bool {
        guard let connection else { return false }
        if queuedBytes < connection.settings.maxQueuedBytes { return true }
        isWaitingForWritable = true
        return false
    }

    /// Sends a response's header fields, and the end of the stream with them if nothing follows.
    package func sendHeaders(_ list: HTTP2Headers, endStream: Bool = false) {
        guard let connection, !hasSentHeaders else { return }
        hasSentHeaders = true
        if endStream { isEnding = true }
        connection.submitResponse(self, list, endStream: endStream)
    }

    /// Queues `head`, its first `headCount` bytes in memory order, then `buffers`, none of them copied.
    ///
    /// - Parameter owner: kept until all of it is with the channel, or the stream is over.
    package func send(
        head: UInt64 = 0, headCount: Int = 0, _ buffers: [ByteBuffer],
        holding owner: AnyObject? = nil
    ) {
        guard let connection, !isEnding else { return }
        let before = queuedBytes
        var head = Piece(head: head, headCount: headCount, body: ByteBuffer())
        for buffer in buffers where buffer.readableBytes > 0 {
            head.body = buffer
            queuedBytes += head.count
            pieces.append(head)
            head = Piece(body: ByteBuffer())
        }
        if head.headCount > 0 {
            queuedBytes += head.count
            pieces.append(head)
        }
        if let owner, queuedBytes > before { pieces[pieces.count - 1].owner = owner }
        connection.queuedBytes += queuedBytes - before
        if queuedBytes >= connection.settings.maxQueuedBytes { isWaitingForWritable = true }
        resume()
    }

    /// Ends our side after what is queued, with trailers if there are any.
    package func finish(trailers: HTTP2Headers? = nil) {
        guard !isClosed, !isEnding else { return }
        isEnding = true
        self.trailers = trailers
        resume()
    }

    /// Ends the stream at once; what is queued is dropped.
    package func reset(_ code: HTTP2ErrorCode) {
        guard let connection else { return }
        connection.submitReset(self, code)
    }

    /// Gives the peer `count` bytes of this stream's window back.
    ///
    /// The connection's window is returned apart, by `HTTP2Connection.consume`.
    package func consume(_ count: Int) {
        let count = min(count, unconsumedBytes)
        guard count > 0, let connection else { return }
        unconsumedBytes -= count
        connection.consume(count, of: self)
    }

    private func resume() {
        guard let connection, hasSentHeaders else { return }
        if isDeferred {
            isDeferred = false
            connection.resume(self)
        } else {
            connection.setNeedsDrain()
        }
    }

    /// Hands the next `count` queued bytes to `take`, a run at a time.
    ///
    /// - Parameter take: the inline bytes (with their count), and the body slice that follows them.
    func dequeue(_ count: Int, _ take: (UInt64, Int, ByteBuffer?) -> Void) {
        var rest = count
        queuedBytes -= count
        while rest > 0, firstPiece < pieces.count {
            let headCount = min(pieces[firstPiece].headCount, rest)
            let head = pieces[firstPiece].head
            if headCount > 0 {
                pieces[firstPiece].head = headCount == 8 ? 0 : head >> UInt64(8 * headCount)
                pieces[firstPiece].headCount -= headCount
                rest -= headCount
            }
            let bodyCount = min(pieces[firstPiece].body.readableBytes, rest)
            let body = bodyCount > 0 ? pieces[firstPiece].body.readSlice(length: bodyCount) : nil
            rest -= bodyCount
            take(head, headCount, body)
            if pieces[firstPiece].count == 0 {
                pieces[firstPiece].body = ByteBuffer()
                pieces[firstPiece].owner = nil
                firstPiece += 1
            }
        }
        if firstPiece == pieces.count {
            pieces.removeAll(keepingCapacity: true)
            firstPiece = 0
        } else if firstPiece >= 64 {
            pieces.removeFirst(firstPiece)
            firstPiece = 0
        }
    }
}
