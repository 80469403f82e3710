import HTTP2
import NIOCore
import NIOPosix
import Synchronization

/// A TCP client that sends bytes as they are and collects what comes back until the end.
final class RawPeer: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    private let received = Mutex(ByteBuffer())
    let ended = Event<Void>()

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var buffer = unwrapInboundIn(data)
        received.withLock { received in _ = received.writeBuffer(&buffer) }
    }

    func channelInactive(context: ChannelHandlerContext) { ended.happen() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    static func connect(to port: Int, group: any EventLoopGroup) async throws -> (
        RawPeer, any Channel
    ) {
        let peer = RawPeer()
        let channel = try await ClientBootstrap(group: group)
            .channelInitializer { channel in channel.pipeline.addHandler(peer) }
            .connect(host: "127.0.0.1", port: port).get()
        return (peer, channel)
    }

    /// Sends `bytes` and returns everything received until the server closed.
    static func exchange(
        _ bytes: [UInt8], port: Int, group: any EventLoopGroup
    ) async throws -> ByteBuffer {
        let (peer, channel) = try await connect(to: port, group: group)
        // The server may close before all is written.
        try? await channel.writeAndFlush(ByteBuffer(bytes: bytes)).get()
        await peer.ended.value
        return peer.received.withLock { $0 }
    }
}

/// One HTTP/2 request with any header fields and any body, and its answer.
final class RawRequest: HTTP2StreamDelegate, HTTP2ConnectionDelegate, @unchecked Sendable {
    // All state is touched on the event loop only, until `answer` is given.
    struct Answer: Sendable {
        var headers = HTTP2Headers()
        var trailers: HTTP2Headers?
        var body = ByteBuffer()
        var end: HTTP2StreamEnd?

        var status: String? { headers[":status"] }
        var grpcStatus: String? { (trailers ?? headers)["grpc-status"] }
        var grpcMessage: String? { (trailers ?? headers)["grpc-message"] }
        var text: String { String(buffer: body) }
    }

    private let headers: HTTP2Headers
    private let body: [UInt8]
    private var connection: HTTP2Connection?
    private var answer = Answer()
    private let isDone = Event<Answer>()

    private init(headers: HTTP2Headers, body: [UInt8]) {
        self.headers = headers
        self.body = body
    }

    static func send(
        _ fields: KeyValuePairs<String, String>, path: String = "/test/Echo",
        method: String = "POST", body: [UInt8] = [], port: Int, group: any EventLoopGroup
    ) async throws -> Answer {
        var headers = HTTP2Headers([
            ":method": method, ":scheme": "http", ":authority": "localhost", ":path": path,
        ])
        for (name, value) in fields { headers.add(name, value) }
        let request = RawRequest(headers: headers, body: body)
        let channel = try await ClientBootstrap(group: group)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let connection = HTTP2Connection(
                        role: .client, settings: HTTP2Settings(), eventLoop: channel.eventLoop,
                        delegate: request)
                    try channel.pipeline.syncOperations.addHandler(connection)
                }
            }
            .connect(host: "127.0.0.1", port: port).get()
        let answer = await request.isDone.value
        try await channel.close().get()
        return answer
    }

    func connectionStarted(_ connection: HTTP2Connection) {
        guard let stream = connection.open(headers, delegate: self) else { return }
        stream.send([ByteBuffer(bytes: body)])
        stream.finish()
    }

    func streamReceivedHeaders(_ stream: HTTP2Stream) {
        if answer.headers.count == 0 {
            answer.headers = stream.headers
        } else {
            answer.trailers = stream.headers
        }
    }

    func stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
        answer.body.writeBytes(bytes)
        stream.connection?.consume(bytes.count)
        stream.consume(bytes.count)
    }

    func streamReceivedEnd(_ stream: HTTP2Stream) {}
    func streamBecameWritable(_ stream: HTTP2Stream) {}

    func streamClosed(_ stream: HTTP2Stream, _ end: HTTP2StreamEnd) {
        answer.end = end
        isDone.happen(answer)
    }

    func connection(_ connection: HTTP2Connection, opened stream: HTTP2Stream) {}
    func connectionCapacityChanged(_ connection: HTTP2Connection) {}
    func connection(_ connection: HTTP2Connection, closed stream: HTTP2Stream) {}
    func connectionEnded(_ connection: HTTP2Connection, _ end: HTTP2ConnectionEnd) {
        isDone.happen(answer)
    }
}
