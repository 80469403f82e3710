internal import CNghttp2
internal import NIOCore

extension HTTP2Connection {
    /// Bytes up to this many are copied next to the frame headers: cheaper than a write of their own.
    private static let copyLimit = 2048
    /// `output` goes to the channel when it has grown to this.
    private static let outputLimit = 64 << 10
    /// What one turn may write before other connections get theirs.
    private static let turnLimit = 8 << 20

    /// Sends what is queued, at the end of this read cycle or event-loop tick.
    func setNeedsDrain() {
        // The reader, or whoever is inside, drains when done.
        guard !isInReadCycle, depth == 0 else { return }
        scheduleDrain()
    }

    private func scheduleDrain() {
        guard !isDrainScheduled, !isEnded else { return }
        isDrainScheduled = true
        eventLoop.execute {
            self.isDrainScheduled = false
            self.drain()
        }
    }

    /// Writes all that nghttp2 has to send and the channel has room for.
    func drain() {
        guard let session, let context, depth == 0, !isEnded else { return }
        inside {
            var written = 0
            repeat {
                let before = written
                written += fill(session, context)
                guard written > before else { break }
                context.flush()
            } while !isEnded && context.channel.isWritable && written < Self.turnLimit
            if written >= Self.turnLimit { scheduleDrain() }
        }
        guard let session = self.session, !isEnded else { return }
        if nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0 {
            linger()
        }
    }

    /// Moves frames from nghttp2 to the channel; returns how many bytes.
    private func fill(_ session: OpaquePointer, _ context: ChannelHandlerContext) -> Int {
        unflushedBytes = 0
        while !isEnded, context.channel.isWritable {
            var data: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(session, &data)
            guard count > 0, let data else { break }
            append(UnsafeRawBufferPointer(start: data, count: count))
            if output.readableBytes >= Self.outputLimit { writeOutput(context) }
        }
        if !isEnded { writeOutput(context) }
        return unflushedBytes
    }

    private func append(_ bytes: UnsafeRawBufferPointer) {
        prepareOutput()
        output.writeBytes(bytes)
        unflushedBytes += bytes.count
    }

    private func prepareOutput() {
        guard isOutputShared else { return }
        isOutputShared = false
        // Keeps the storage if the channel has let go of it by now.
        output.clear(minimumCapacity: 4096)
    }

    private func writeOutput(_ context: ChannelHandlerContext) {
        guard !isOutputShared, output.readableBytes > 0 else { return }
        isOutputShared = true
        context.write(wrapOutboundOut(output), promise: nil)
    }

    /// nghttp2 asks for one DATA frame: its header, then `length` bytes of the stream's queue.
    func sendData(
        _ stream: HTTP2Stream, header: UnsafePointer<UInt8>, length: Int
    ) -> nghttp2_error? {
        guard let context, !isEnded else { return NGHTTP2_ERR_CALLBACK_FAILURE }
        guard context.channel.isWritable, unflushedBytes < Self.turnLimit else {
            return NGHTTP2_ERR_WOULDBLOCK
        }
        append(UnsafeRawBufferPointer(start: header, count: 9))
        queuedBytes -= length
        stream.dequeue(length) { head, headCount, body in
            if headCount > 0 {
                prepareOutput()
                withUnsafeBytes(of: head) { bytes in
                    _ = output.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[..<headCount]))
                }
            }
            guard let body else { return }
            if body.readableBytes <= Self.copyLimit {
                prepareOutput()
                output.writeImmutableBuffer(body)
            } else {
                writeOutput(context)
                context.write(wrapOutboundOut(body), promise: nil)
            }
        }
        unflushedBytes += length
        if output.readableBytes >= Self.outputLimit { writeOutput(context) }
        if stream.isWaitingForWritable, stream.queuedBytes <= settings.maxQueuedBytes / 2 {
            stream.isWaitingForWritable = false
            writableStreams.append(stream)
        }
        return nil
    }

    /// Sends a FIN and waits a moment for the peer's, so that nothing we sent is lost to a reset.
    private func linger() {
        guard let context else { return }
        finish(isDraining ? .local : .protocolViolation(lastComplaint ?? "a protocol error"))
        let channel = context.channel
        let eventLoop = eventLoop
        // The FIN leaves after everything before it, which a slow peer may take its time to read.
        let isSent = context.eventLoop.makePromise(of: Void.self)
        isSent.futureResult.whenComplete { _ in
            _ = eventLoop.scheduleTask(in: .seconds(1)) { channel.close(promise: nil) }
        }
        context.close(mode: .output, promise: isSent)
        let longest = TimeAmount(bounded: settings.keepAliveInterval + settings.keepAliveTimeout)
        let timer = eventLoop.scheduleTask(in: longest) { channel.close(promise: nil) }
        channel.closeFuture.whenComplete { _ in timer.cancel() }
    }
}
