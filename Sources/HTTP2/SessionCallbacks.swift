internal import CNghttp2
internal import Essentials

/// The functions nghttp2 calls, and its options; made once and shared by all sessions.
///
/// `nonisolated(unsafe)`: written before first use, never changed and never freed; nghttp2 copies
/// from them when it makes a session.
enum SessionCallbacks {
    nonisolated(unsafe) static let table: OpaquePointer? = makeTable()
    nonisolated(unsafe) static let options: OpaquePointer? = makeOptions()

    /// Every stream reads its body from the queue in its `HTTP2Stream`.
    static var provider: nghttp2_data_provider {
        nghttp2_data_provider(source: nghttp2_data_source(ptr: nil)) {
            session, id, _, length, flags, _, owner in
            guard let session, let stream = SessionCallbacks.stream(session, id), let flags else {
                return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
            }
            return withConnection(owner) { connection in
                connection.readData(session, stream, length: length, flags: flags)
            }
        }
    }

    /// nghttp2 knows a stream only while the connection's list holds it.
    static func stream(_ session: OpaquePointer, _ id: Int32) -> HTTP2Stream? {
        guard let pointer = nghttp2_session_get_stream_user_data(session, id) else { return nil }
        return Unmanaged<HTTP2Stream>.fromOpaque(pointer).takeUnretainedValue()
    }

    private static func makeOptions() -> OpaquePointer? {
        var options: OpaquePointer?
        guard nghttp2_option_new(&options) == 0 else { return nil }
        // We return windows ourselves, as the bytes are used.
        nghttp2_option_set_no_auto_window_update(options, 1)
        nghttp2_option_set_no_closed_streams(options, 1)
        // A client that gives up many waiting fetches at once is no attacker.
        nghttp2_option_set_stream_reset_rate_limit(options, 10_000, 1_000)
        return options
    }

    private static func makeTable() -> OpaquePointer? {
        var table: OpaquePointer?
        guard nghttp2_session_callbacks_new(&table) == 0 else { return nil }
        nghttp2_session_callbacks_set_on_begin_headers_callback(table) { _, frame, owner in
            guard let frame else { return 0 }
            return withConnection(owner) { $0.beganHeaders(frame) }
        }
        nghttp2_session_callbacks_set_on_header_callback(table) {
            _, _, name, nameCount, value, valueCount, _, owner in
            withConnection(owner) { connection in
                connection.headerBlock.add(
                    UnsafeRawBufferPointer(start: name, count: nameCount),
                    UnsafeRawBufferPointer(start: value, count: valueCount))
            }
            return 0
        }
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(table) {
            session, _, id, bytes, count, owner in
            guard let session else { return 0 }
            withConnection(owner) { connection in
                connection.receivedData(
                    session, id, UnsafeRawBufferPointer(start: bytes, count: count))
            }
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_recv_callback(table) { session, frame, owner in
            guard let session, let frame else { return 0 }
            withConnection(owner) { $0.receivedFrame(session, frame) }
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_send_callback(table) { session, frame, owner in
            guard let session, let frame else { return 0 }
            withConnection(owner) { $0.sentFrame(session, frame) }
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_not_send_callback(table) { _, frame, _, owner in
            guard let frame else { return 0 }
            withConnection(owner) { $0.couldNotSendFrame(frame) }
            return 0
        }
        nghttp2_session_callbacks_set_on_stream_close_callback(table) {
            session, id, code, owner in
            guard let session else { return 0 }
            withConnection(owner) { connection in
                connection.closedStream(session, id, HTTP2ErrorCode(rawValue: code))
            }
            return 0
        }
        nghttp2_session_callbacks_set_data_source_read_length_callback(table) {
            _, _, _, connectionWindow, streamWindow, maxFrameSize, _ in
            // As large as the peer allows: large frames keep the cost a byte low.
            max(1, min(Int(connectionWindow), Int(streamWindow), Int(maxFrameSize)))
        }
        nghttp2_session_callbacks_set_send_data_callback(table) {
            session, frame, header, length, _, owner in
            guard let session, let frame, let header,
                let stream = SessionCallbacks.stream(session, frame.pointee.hd.stream_id)
            else { return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue }
            return withConnection(owner) { connection in
                connection.sendData(stream, header: header, length: length)?.rawValue ?? 0
            }
        }
        nghttp2_session_callbacks_set_error_callback2(table) { _, _, text, count, owner in
            guard let text else { return 0 }
            let bytes = UnsafeRawBufferPointer(start: text, count: count)
            withConnection(owner) { $0.lastComplaint = String(decoding: bytes, as: UTF8.self) }
            return 0
        }
        return table
    }
}

/// Lends the connection that a session was made with, which is on the stack below: `HTTP2Connection`
/// keeps itself alive through `inside`, so no reference needs to be counted here.
private func withConnection<Result>(
    _ owner: UnsafeMutableRawPointer?, _ body: (HTTP2Connection) -> Result
) -> Result {
    invariant(owner != nil, "nghttp2 lost the pointer its session was made with")
    return Unmanaged<HTTP2Connection>.fromOpaque(owner.unsafelyUnwrapped)
        ._withUnsafeGuaranteedRef(body)
}
