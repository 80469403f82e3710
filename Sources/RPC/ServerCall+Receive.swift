internal import Essentials
internal import HTTP2
internal import NIOCore

/// Takes the request in and hands it to its handler.
extension ServerCall: HTTP2StreamDelegate {
    /// Judges the header fields; a bad request is answered before its body is read.
    func begin(_ head: RequestHead) {
        if let deadline, deadline <= .now() {
            expire()
        } else if let (error, httpStatus) = fault(in: head) {
            fail(error, httpStatus: httpStatus)
        }
    }

    private func fault(in head: RequestHead) -> (RPCError, httpStatus: Int)? {
        if stream.isHeaderListTooLong {
            let limit = connection.limits.maxHeaderListBytes
            return (
                RPCError(
                    status: .resourceExhausted, code: .invalidRequest,
                    "the request's header fields are larger than \(limit) bytes"), 431
            )
        }
        guard head.isPost else {
            return (
                RPCError(
                    status: .unimplemented,
                    "every method is called by POST; with curl, give a body with -d"), 405
            )
        }
        guard let route else {
            return (
                RPCError(
                    status: .unimplemented, code: .unsupportedVersion,
                    "this node has no method \(path); paths are /package.Service/Method"), 404
            )
        }
        switch head.contentType {
        case .grpc:
            break
        case .json, .protobuf:
            if route.isStreaming {
                return (
                    RPCError(
                        status: .unimplemented,
                        "\(path) answers with a stream, which only gRPC carries: "
                            + "use content-type application/grpc+proto"), 415
                )
            }
        case .grpcJSON, .missing, .other:
            return (
                RPCError(
                    status: .unimplemented, code: .invalidRequest,
                    "the content-type must be application/json, application/proto "
                        + "or application/grpc+proto"), 415
            )
        }
        if head.isCompressed {
            return (
                RPCError(
                    status: .unimplemented, code: .unsupportedCompressionType,
                    "requests are not compressed here (only \"identity\" is known); "
                        + "compress record batches instead"), 415
            )
        }
        if head.isTimeoutMalformed {
            return (RPCError(.invalidRequest, "the timeout header is not a number and unit"), 400)
        }
        let limit = connection.limits.maxMessageBytes
        if let length = head.contentLength, length > limit + MessageFraming.prefixBytes {
            return (RPCError(.tooLarge(length), maxMessageBytes: limit), 413)
        }
        return nil
    }

    func stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
        // The limit on a message bounds what one stream can make us hold.
        stream.consume(bytes.count)
        guard isReceiving, !isClosed else {
            connection.discarded(bytes.count)
            return
        }
        let limit = connection.limits.maxMessageBytes
        if isGRPC {
            do throws(MessageFraming.Failure) {
                try receiveFramed(bytes, limit: limit)
            } catch {
                fail(RPCError(error, maxMessageBytes: limit))
            }
        } else if request.readableBytes + bytes.count > limit {
            let size = request.readableBytes + bytes.count
            fail(RPCError(.tooLarge(size), maxMessageBytes: limit))
        } else {
            request.writeBytes(bytes)
        }
        if isClosed {
            connection.discarded(bytes.count)
        } else {
            connection.holds(bytes.count, for: self)
        }
    }

    private func receiveFramed(
        _ bytes: UnsafeRawBufferPointer, limit: Int
    ) throws(MessageFraming.Failure) {
        var rest = bytes
        guard !hasMessage else {
            fail(RPCError(.invalidRequest, "one request message was expected, not several"))
            return
        }
        guard let message = try assembler.next(&rest, maxMessageBytes: limit) else { return }
        request = message
        hasMessage = true
        if !rest.isEmpty {
            fail(RPCError(.invalidRequest, "one request message was expected, not several"))
        }
    }

    func streamReceivedEnd(_ stream: HTTP2Stream) {
        guard isReceiving, !isClosed else { return }
        isReceiving = false
        if isGRPC, !hasMessage {
            fail(
                RPCError(
                    .invalidRequest,
                    assembler.isInsideMessage
                        ? "the request ends in the middle of its gRPC message"
                        : "the request has no gRPC message"))
            return
        }
        connection.completed(self)
        route?.handler(self)
    }

    func streamReceivedHeaders(_ stream: HTTP2Stream) {}

    func streamBecameWritable(_ stream: HTTP2Stream) {
        guard !isClosed else { return }
        onWritable?()
    }

    func streamClosed(_ stream: HTTP2Stream, _ end: HTTP2StreamEnd) {
        cancel()
    }
}
