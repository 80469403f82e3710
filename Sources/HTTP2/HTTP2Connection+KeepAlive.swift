internal import CNghttp2
internal import NIOCore

extension HTTP2Connection {
    /// Marks the PING that separates the two GOAWAYs of a graceful end.
    static let shutdownPing: [UInt8] = Array("goodbye!".utf8)
    private static let keepAlivePing: [UInt8] = Array("anybody?".utf8)

    func armKeepAlive(after duration: Duration) {
        keepAliveTask = eventLoop.scheduleTask(in: TimeAmount(bounded: duration)) {
            self.checkKeepAlive()
        }
    }

    /// Whatever the peer sends proves that it lives; only silence is answered with a PING.
    private func checkKeepAlive() {
        guard let session, !isEnded else { return }
        if hasHeardFromPeer {
            hasHeardFromPeer = false
            isPingOutstanding = false
            armKeepAlive(after: settings.keepAliveInterval)
        } else if isPingOutstanding {
            close(.keepAliveTimeout)
        } else {
            isPingOutstanding = true
            nghttp2_submit_ping(session, flags(NGHTTP2_FLAG_NONE), Self.keepAlivePing)
            setNeedsDrain()
            armKeepAlive(after: settings.keepAliveTimeout)
        }
    }

    /// Lets open streams end and refuses new ones, then closes.
    ///
    /// A server says GOAWAY twice: first with no last stream, so that requests on their way are
    /// still taken; then, a round trip later, with the last one it has seen (RFC 9113, 6.8).
    package func shutDownGracefully() {
        eventLoop.preconditionInEventLoop()
        guard !isDraining, !isEnded else { return }
        isDraining = true
        guard let session else {
            close()
            return
        }
        switch role {
        case .client:
            sendFinalGoAway()
            delegate?.connectionCapacityChanged(self)
        case .server:
            nghttp2_submit_shutdown_notice(session)
            nghttp2_submit_ping(session, flags(NGHTTP2_FLAG_NONE), Self.shutdownPing)
            setNeedsDrain()
            _ = eventLoop.scheduleTask(in: .seconds(1)) {
                self.sendFinalGoAway()
            }
        }
    }

    func sendFinalGoAway() {
        guard let session, !hasSentFinalGoAway, !isEnded else { return }
        hasSentFinalGoAway = true
        nghttp2_submit_goaway(
            session, flags(NGHTTP2_FLAG_NONE), nghttp2_session_get_last_proc_stream_id(session),
            NGHTTP2_NO_ERROR.rawValue, nil, 0)
        setNeedsDrain()
    }
}
