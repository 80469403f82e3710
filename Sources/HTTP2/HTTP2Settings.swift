/// What one end of a connection allows its peer, and how long it waits for it.
package struct HTTP2Settings: Sendable, Hashable {
    /// The largest frame we accept, in bytes: 16 KiB to 16 MiB - 1.
    package var maxFrameSize = 1 << 20
    /// Bytes a peer may send on one stream before its owner consumes them.
    package var streamWindow = 4 << 20
    /// Bytes a peer may send on all streams before they are consumed.
    package var connectionWindow = 16 << 20
    /// The largest header list, counted as HTTP/2 does: 32 bytes a field on top of its characters.
    package var maxHeaderListBytes = 16 << 10
    /// Streams a peer may have open at once.
    package var maxConcurrentStreams = 1000
    /// A stream with this many bytes queued for sending is not writable until half of them left.
    package var maxQueuedBytes = 1 << 20
    /// Silence after which a PING asks whether the peer is alive.
    package var keepAliveInterval: Duration = .seconds(10)
    /// Silence after that PING which ends the connection.
    package var keepAliveTimeout: Duration = .seconds(5)
    /// How long a new connection may take to say which protocol it speaks.
    package var prefaceTimeout: Duration = .seconds(10)

    package init() {}
}
