internal import CNghttp2
internal import NIOCore

/// What nghttp2 reports; called from inside `receive` and `drain` only.
extension HTTP2Connection {
    func beganHeaders(_ frame: UnsafePointer<nghttp2_frame>) -> Int32 {
        guard let session, !isEnded else { return 0 }
        headerBlock.start()
        guard role == .server, frame.pointee.headers.cat == NGHTTP2_HCAT_REQUEST else { return 0 }
        let id = frame.pointee.hd.stream_id
        let stream = HTTP2Stream(id: id, connection: self)
        guard
            nghttp2_session_set_stream_user_data(
                session, id, Unmanaged.passUnretained(stream).toOpaque()) == 0
        else { return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue }
        insert(stream)
        return 0
    }

    func receivedData(_ session: OpaquePointer, _ id: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard !isEnded else { return }
        guard let stream = SessionCallbacks.stream(session, id), let delegate = stream.delegate
        else {
            // Nobody wants these bytes; they must not fill the window.
            nghttp2_session_consume(session, id, bytes.count)
            return
        }
        stream.unconsumedBytes += bytes.count
        delegate.stream(stream, received: bytes)
    }

    func receivedFrame(_ session: OpaquePointer, _ frame: UnsafePointer<nghttp2_frame>) {
        guard !isEnded else { return }
        let header = frame.pointee.hd
        switch nghttp2_frame_type(UInt32(header.type)) {
        case NGHTTP2_HEADERS:
            guard let stream = SessionCallbacks.stream(session, header.stream_id) else { return }
            switch role {
            case .server where frame.pointee.headers.cat == NGHTTP2_HCAT_REQUEST:
                takeHeaders(stream)
                delegate?.connection(self, opened: stream)
            case .server:
                // A request's trailers mean nothing to us.
                break
            case .client:
                takeHeaders(stream)
                stream.delegate?.streamReceivedHeaders(stream)
            }
            receivedEndIfFlagged(header, stream)
        case NGHTTP2_DATA:
            guard let stream = SessionCallbacks.stream(session, header.stream_id) else { return }
            receivedEndIfFlagged(header, stream)
        case NGHTTP2_SETTINGS where header.flags & flags(NGHTTP2_FLAG_ACK) == 0:
            hasPeerSettings = true
            delegate?.connectionCapacityChanged(self)
        case NGHTTP2_GOAWAY:
            isDraining = true
            delegate?.connectionCapacityChanged(self)
        case NGHTTP2_PING where header.flags & flags(NGHTTP2_FLAG_ACK) != 0:
            let data = frame.pointee.ping.opaque_data
            if withUnsafeBytes(of: data, { $0.elementsEqual(Self.shutdownPing) }) {
                sendFinalGoAway()
            }
        default:
            break
        }
    }

    private func takeHeaders(_ stream: HTTP2Stream) {
        stream.headers = headerBlock.headers
        stream.isHeaderListTooLong = headerBlock.isTooLong
    }

    private func receivedEndIfFlagged(_ header: nghttp2_frame_hd, _ stream: HTTP2Stream) {
        guard header.flags & flags(NGHTTP2_FLAG_END_STREAM) != 0, !stream.isClosed else { return }
        stream.isRemoteEnded = true
        stream.delegate?.streamReceivedEnd(stream)
    }

    func sentFrame(_ session: OpaquePointer, _ frame: UnsafePointer<nghttp2_frame>) {
        let header = frame.pointee.hd
        switch role {
        case .client:
            guard header.type == UInt8(NGHTTP2_HEADERS.rawValue) else { return }
            SessionCallbacks.stream(session, header.stream_id)?.isRequestSent = true
        case .server:
            guard header.flags & flags(NGHTTP2_FLAG_END_STREAM) != 0,
                header.type == UInt8(NGHTTP2_HEADERS.rawValue)
                    || header.type == UInt8(NGHTTP2_DATA.rawValue),
                let stream = SessionCallbacks.stream(session, header.stream_id),
                !stream.isRemoteEnded
            else { return }
            // The answer is complete before the request is: ask the peer to stop (RFC 9113, 8.1),
            // but in a moment, since some (curl 7.88) lose an answer that a reset follows at once.
            _ = eventLoop.scheduleTask(in: .seconds(1)) { stream.reset(.noError) }
        }
    }

    func couldNotSendFrame(_ frame: UnsafePointer<nghttp2_frame>) {
        // A client's request that cannot leave any more, after a GOAWAY say. nghttp2 never opened
        // its stream, so no close is reported either.
        guard role == .client, !isEnded,
            frame.pointee.hd.type == UInt8(NGHTTP2_HEADERS.rawValue),
            let stream = streams.first(where: { $0.id == frame.pointee.hd.stream_id })
        else { return }
        remove(stream, .reset(.refusedStream))
    }

    func closedStream(_ session: OpaquePointer, _ id: Int32, _ code: HTTP2ErrorCode) {
        guard !isEnded, let stream = SessionCallbacks.stream(session, id) else { return }
        remove(stream, code == .noError ? .complete : .reset(code))
    }

    /// nghttp2 has room for `length` bytes of the stream's body.
    func readData(
        _ session: OpaquePointer, _ stream: HTTP2Stream, length: Int,
        flags: UnsafeMutablePointer<UInt32>
    ) -> Int {
        let count = min(length, stream.queuedBytes)
        let isEnd = stream.isEnding && count == stream.queuedBytes
        if count == 0 && !isEnd {
            stream.isDeferred = true
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue
        if isEnd {
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
            if let trailers = stream.trailers {
                flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
                trailers.withFields { fields, fieldCount in
                    _ = nghttp2_submit_trailer(session, stream.id, fields, fieldCount)
                }
            }
        }
        return count
    }
}
