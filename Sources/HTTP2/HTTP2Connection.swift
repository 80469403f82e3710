internal import CNghttp2
package import NIOCore

/// Why a connection ended.
package enum HTTP2ConnectionEnd: Sendable, Equatable {
    /// We closed it.
    case local
    /// The peer closed it, or the network did; the text says what the system reported.
    case peer(String)
    /// The peer answered neither a PING nor anything else in time.
    case keepAliveTimeout
    /// The peer broke HTTP/2's rules.
    case protocolViolation(String)
}

/// What the owner of a connection hears about it, on its event loop.
package protocol HTTP2ConnectionDelegate: AnyObject {
    /// The connection can be used: a client's streams may be opened from here on.
    func connectionStarted(_ connection: HTTP2Connection)
    /// A request's headers are complete (servers only). Set the stream's delegate here.
    func connection(_ connection: HTTP2Connection, opened stream: HTTP2Stream)
    /// The peer allows another number of streams, or will take no new ones at all.
    func connectionCapacityChanged(_ connection: HTTP2Connection)
    /// A stream is over, and its delegate knows.
    func connection(_ connection: HTTP2Connection, closed stream: HTTP2Stream)
    /// Nothing follows; every stream has been closed before.
    func connectionEnded(_ connection: HTTP2Connection, _ end: HTTP2ConnectionEnd)
}

/// One HTTP/2 connection, either end: an nghttp2 session as a channel handler.
///
/// States: *waiting* for the channel to be active; *running*; *ended*, when every stream is closed
/// and the owner knows, even if the channel still waits for the peer's close. nghttp2 calls back only
/// from inside `receive` and `drain`, which count `depth`; the session is freed once, when it has
/// ended and nobody is inside.
///
/// `@unchecked Sendable`: all state is touched on the channel's event loop only.
package final class HTTP2Connection: ChannelInboundHandler, @unchecked Sendable {
    package typealias InboundIn = ByteBuffer
    package typealias OutboundOut = ByteBuffer

    package enum Role: Sendable {
        case client
        case server
    }

    package let role: Role
    package let settings: HTTP2Settings
    package let eventLoop: any EventLoop
    package var delegate: (any HTTP2ConnectionDelegate)?

    var session: OpaquePointer?
    var context: ChannelHandlerContext?
    /// How many calls into nghttp2 that may call back are on the stack.
    var depth = 0
    package internal(set) var isEnded = false
    /// Bytes of all streams that wait to be sent.
    package internal(set) var queuedBytes = 0
    /// What nghttp2 complained about last.
    var lastComplaint: String?

    package internal(set) var streams: [HTTP2Stream] = []
    /// The header block that is arriving; blocks are never interleaved.
    let headerBlock: HeaderBlock

    /// The peer's SETTINGS have come, so it does speak HTTP/2.
    package internal(set) var hasPeerSettings = false

    // Output.
    var output = ByteBuffer()
    /// The channel holds `output`'s bytes too: start afresh before writing more.
    var isOutputShared = false
    var unflushedBytes = 0
    var isDrainScheduled = false
    var isInReadCycle = false
    var writableStreams: [HTTP2Stream] = []

    // Keep-alive and shutdown.
    var hasHeardFromPeer = false
    var isPingOutstanding = false
    var keepAliveTask: Scheduled<Void>?
    /// No new streams: we said GOAWAY, or the peer did.
    package internal(set) var isDraining = false
    var hasSentFinalGoAway = false

    package init(
        role: Role, settings: HTTP2Settings, eventLoop: any EventLoop,
        delegate: (any HTTP2ConnectionDelegate)?
    ) {
        self.role = role
        self.settings = settings
        headerBlock = HeaderBlock(limit: settings.maxHeaderListBytes)
        self.eventLoop = eventLoop
        self.delegate = delegate
    }

    deinit {
        if let session { nghttp2_session_del(session) }
    }

    // MARK: Channel events

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { start() }
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        finish(.local)
        self.context = nil
    }

    package func channelActive(context: ChannelHandlerContext) {
        start()
        context.fireChannelActive()
    }

    package func channelInactive(context: ChannelHandlerContext) {
        finish(.peer("the connection was closed"))
        context.fireChannelInactive()
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        close(.peer("\(error)"))
    }

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        isInReadCycle = true
        receive(unwrapInboundIn(data))
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        isInReadCycle = false
        drain()
    }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { drain() }
        context.fireChannelWritabilityChanged()
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent {
            close(.peer("the connection was closed"))
        }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: Life

    private func start() {
        guard session == nil, !isEnded else { return }
        guard let session = makeSession() else {
            close(.protocolViolation("no memory for an HTTP/2 session"))
            return
        }
        self.session = session
        armKeepAlive(after: settings.keepAliveInterval)
        setNeedsDrain()
        delegate?.connectionStarted(self)
    }

    private func makeSession() -> OpaquePointer? {
        var session: OpaquePointer?
        let owner = Unmanaged.passUnretained(self).toOpaque()
        let made =
            switch role {
            case .client:
                nghttp2_session_client_new2(
                    &session, SessionCallbacks.table, owner, SessionCallbacks.options)
            case .server:
                nghttp2_session_server_new2(
                    &session, SessionCallbacks.table, owner, SessionCallbacks.options)
            }
        guard made == 0, let session else { return nil }
        var entries = [
            settingsEntry(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, settings.maxFrameSize),
            settingsEntry(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, settings.streamWindow),
            settingsEntry(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, settings.maxHeaderListBytes),
        ]
        switch role {
        case .client:
            entries.append(settingsEntry(NGHTTP2_SETTINGS_ENABLE_PUSH, 0))
        case .server:
            entries.append(
                settingsEntry(
                    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, settings.maxConcurrentStreams))
        }
        nghttp2_submit_settings(session, flags(NGHTTP2_FLAG_NONE), entries, entries.count)
        nghttp2_session_set_local_window_size(
            session, flags(NGHTTP2_FLAG_NONE), 0, Int32(clamping: settings.connectionWindow))
        return session
    }

    private func settingsEntry(
        _ id: nghttp2_settings_id, _ value: Int
    ) -> nghttp2_settings_entry {
        nghttp2_settings_entry(settings_id: Int32(id.rawValue), value: UInt32(clamping: value))
    }

    /// Ends the connection at once; open streams are lost.
    package func close(_ end: HTTP2ConnectionEnd = .local) {
        eventLoop.preconditionInEventLoop()
        guard !isEnded else { return }
        let context = context
        finish(end)
        context?.close(promise: nil)
    }

    /// Tells everyone that the connection is over, once.
    func finish(_ end: HTTP2ConnectionEnd) {
        guard !isEnded else { return }
        isEnded = true
        isDraining = true
        keepAliveTask?.cancel()
        keepAliveTask = nil
        while let stream = streams.last {
            remove(stream, .connectionLost)
        }
        writableStreams = []
        output = ByteBuffer()
        let delegate = delegate
        self.delegate = nil
        delegate?.connectionEnded(self, end)
        if depth == 0 { freeSession() }
    }

    func freeSession() {
        if let session { nghttp2_session_del(session) }
        session = nil
    }

    /// Runs `body`, from which nghttp2 may call back; afterwards does what could not be done inside.
    func inside<Result>(_ body: () -> Result) -> Result {
        depth += 1
        // Whatever is called back may drop the last reference to us.
        let result = withExtendedLifetime(self) { body() }
        depth -= 1
        if depth == 0 {
            if isEnded {
                freeSession()
            } else if !writableStreams.isEmpty {
                notifyWritableStreams()
            }
        }
        return result
    }

    private func notifyWritableStreams() {
        let streams = writableStreams
        writableStreams = []
        for stream in streams where !stream.isClosed {
            stream.delegate?.streamBecameWritable(stream)
        }
    }

    // MARK: Input

    private func receive(_ buffer: ByteBuffer) {
        guard let session, !isEnded else { return }
        hasHeardFromPeer = true
        let taken = inside {
            buffer.withUnsafeReadableBytes { bytes in
                nghttp2_session_mem_recv(
                    session, bytes.bindMemory(to: UInt8.self).baseAddress, bytes.count)
            }
        }
        if taken < 0 {
            let reason = String(cString: nghttp2_strerror(Int32(clamping: taken)))
            close(.protocolViolation(lastComplaint ?? reason))
        }
    }

    /// Gives the peer `count` bytes of the connection's window back.
    package func consume(_ count: Int) {
        guard let session, count > 0 else { return }
        nghttp2_session_consume_connection(session, count)
        setNeedsDrain()
    }

    func consume(_ count: Int, of stream: HTTP2Stream) {
        guard let session else { return }
        nghttp2_session_consume_stream(session, stream.id, count)
        setNeedsDrain()
    }

    // MARK: Streams

    func insert(_ stream: HTTP2Stream) {
        stream.index = streams.count
        streams.append(stream)
    }

    /// Takes the stream off the list and tells its delegate, once.
    func remove(_ stream: HTTP2Stream, _ end: HTTP2StreamEnd) {
        guard !stream.isClosed else { return }
        stream.isClosed = true
        // nghttp2 may hold its side of the stream a little longer; it must not find ours.
        if let session { nghttp2_session_set_stream_user_data(session, stream.id, nil) }
        let last = streams.removeLast()
        if last !== stream {
            streams[stream.index] = last
            last.index = stream.index
        }
        stream.pieces = []
        queuedBytes -= stream.queuedBytes
        stream.queuedBytes = 0
        let streamDelegate = stream.delegate
        stream.delegate = nil
        stream.connection = nil
        streamDelegate?.streamClosed(stream, end)
        delegate?.connection(self, closed: stream)
    }

    /// Streams that may be open at once by the peer's settings.
    package var maxOpenStreams: Int {
        guard let session else { return 0 }
        return Int(
            nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
    }

    /// The id of the next stream a client opens; ids are odd, rise, and end at 2^31 - 1.
    var nextStreamID: Int32 {
        get { session.map { Int32(clamping: nghttp2_session_get_next_stream_id($0)) } ?? 0 }
        set { session.map { _ = nghttp2_session_set_next_stream_id($0, newValue) } }
    }

    /// Opens a stream with a request; `nil` when the connection takes no more.
    package func open(
        _ headers: HTTP2Headers, delegate: any HTTP2StreamDelegate
    ) -> HTTP2Stream? {
        guard let session, !isEnded, !isDraining else { return nil }
        let stream = HTTP2Stream(id: 0, connection: self)
        stream.delegate = delegate
        stream.hasSentHeaders = true
        var provider = SessionCallbacks.provider
        let id = headers.withFields { fields, count in
            nghttp2_submit_request(
                session, nil, fields, count, &provider,
                Unmanaged.passUnretained(stream).toOpaque())
        }
        guard id > 0 else {
            // Stream ids are used up: a busy connection gets there within a day.
            if id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE.rawValue { shutDownGracefully() }
            return nil
        }
        stream.id = id
        insert(stream)
        setNeedsDrain()
        return stream
    }

    func submitResponse(_ stream: HTTP2Stream, _ headers: HTTP2Headers, endStream: Bool) {
        guard let session else { return }
        var provider = SessionCallbacks.provider
        headers.withFields { fields, count in
            withUnsafePointer(to: &provider) { provider in
                _ = nghttp2_submit_response(
                    session, stream.id, fields, count, endStream ? nil : provider)
            }
        }
        setNeedsDrain()
    }

    func submitReset(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
        guard let session else { return }
        nghttp2_submit_rst_stream(session, flags(NGHTTP2_FLAG_NONE), stream.id, code.rawValue)
        setNeedsDrain()
    }

    func resume(_ stream: HTTP2Stream) {
        guard let session else { return }
        nghttp2_session_resume_data(session, stream.id)
        setNeedsDrain()
    }

    func flags(_ flag: nghttp2_flag) -> UInt8 { UInt8(truncatingIfNeeded: flag.rawValue) }
}
