internal import HTTP2

/// What one end of an RPC connection takes, holds and waits for.
package struct RPCLimits: Sendable, Hashable {
    /// The largest message, in bytes, either way.
    package var maxMessageBytes = 64 << 20
    /// The largest list of header fields, counted as HTTP/2 does.
    package var maxHeaderListBytes = 16 << 10
    /// Calls a client may have open at once on one connection to our server.
    package var maxConcurrentStreams = 1000
    /// Bytes a peer may send on one stream before they are used.
    package var streamWindow = 4 << 20
    /// Bytes a peer may send on all streams before they are used.
    package var connectionWindow = 16 << 20
    /// The largest HTTP/2 frame we accept.
    package var maxFrameSize = 1 << 20
    /// A stream with this many bytes queued for sending is not writable until half of them left.
    package var maxQueuedBytes = 1 << 20
    /// Request bytes of unfinished calls a server holds for one connection before it stops reading.
    package var maxBufferedRequestBytes = 128 << 20
    /// Request bytes that a server holds for all its connections before it stops reading; each may send
    /// what is left of its window all the same.
    package var maxBufferedRequestBytesInAll = 512 << 20
    /// Answer bytes that may wait to be sent on one connection before the server refuses new calls.
    package var maxQueuedAnswerBytes = 256 << 20
    /// Calls that may wait for a client's connection.
    package var maxWaitingCalls = 10_000
    /// How long a client's attempt to connect may take.
    package var connectTimeout: Duration = .seconds(3)
    /// Silence after which a PING asks whether the peer is alive.
    package var keepAliveInterval: Duration = .seconds(10)
    /// Silence after that PING which ends the connection.
    package var keepAliveTimeout: Duration = .seconds(5)
    /// How long a new connection may take to say that it speaks HTTP/2.
    package var prefaceTimeout: Duration = .seconds(10)

    package init() {}

    var http2: HTTP2Settings {
        var settings = HTTP2Settings()
        settings.maxFrameSize = maxFrameSize
        settings.streamWindow = streamWindow
        settings.connectionWindow = connectionWindow
        settings.maxHeaderListBytes = maxHeaderListBytes
        settings.maxConcurrentStreams = maxConcurrentStreams
        settings.maxQueuedBytes = maxQueuedBytes
        settings.keepAliveInterval = keepAliveInterval
        settings.keepAliveTimeout = keepAliveTimeout
        settings.prefaceTimeout = prefaceTimeout
        return settings
    }
}
