import NIOCore
import NIOEmbedded

@testable import HTTP2

/// Both ends of one connection, wired to each other in memory and in time that only tests move.
final class Pair {
    let loop = EmbeddedEventLoop()
    let client: HTTP2Connection
    let server: HTTP2Connection
    let clientOwner = Owner()
    let serverOwner = Owner()
    let clientChannel: EmbeddedChannel
    let serverChannel: EmbeddedChannel

    init(
        client clientSettings: HTTP2Settings = HTTP2Settings(),
        server serverSettings: HTTP2Settings = HTTP2Settings()
    ) throws {
        client = HTTP2Connection(
            role: .client, settings: clientSettings, eventLoop: loop, delegate: clientOwner)
        server = HTTP2Connection(
            role: .server, settings: serverSettings, eventLoop: loop, delegate: serverOwner)
        clientChannel = EmbeddedChannel(handler: client, loop: loop)
        serverChannel = EmbeddedChannel(handler: server, loop: loop)
        try clientChannel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        try serverChannel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 2)).wait()
        try exchange()
    }

    deinit {
        client.close()
        server.close()
        loop.run()
    }

    /// Carries bytes both ways until neither end has more to say.
    func exchange() throws {
        var hasMoved = true
        while hasMoved {
            loop.run()
            hasMoved = try move(from: clientChannel, to: serverChannel)
            hasMoved = try move(from: serverChannel, to: clientChannel) || hasMoved
        }
    }

    private func move(from: EmbeddedChannel, to: EmbeddedChannel) throws -> Bool {
        var hasMoved = false
        while let buffer = try from.readOutbound(as: ByteBuffer.self) {
            hasMoved = true
            if to.isActive { try to.writeInbound(buffer) }
        }
        return hasMoved
    }

    static let request = HTTP2Headers([
        ":method": "POST", ":scheme": "http", ":authority": "here", ":path": "/a/B",
    ])

    /// Opens a stream and gives it to a recorder.
    func open(_ headers: HTTP2Headers = request) -> (HTTP2Stream, Recorder)? {
        let recorder = Recorder()
        guard let stream = client.open(headers, delegate: recorder) else { return nil }
        return (stream, recorder)
    }
}

/// Records what a connection reports.
final class Owner: HTTP2ConnectionDelegate {
    var opened: [(stream: HTTP2Stream, recorder: Recorder)] = []
    var ends: [HTTP2ConnectionEnd] = []
    /// What to do with a new request.
    var onOpen: (HTTP2Stream, Recorder) -> Void = { _, _ in }

    func connectionStarted(_ connection: HTTP2Connection) {}

    func connection(_ connection: HTTP2Connection, opened stream: HTTP2Stream) {
        let recorder = Recorder()
        stream.delegate = recorder
        opened.append((stream, recorder))
        onOpen(stream, recorder)
    }

    func connectionCapacityChanged(_ connection: HTTP2Connection) {}

    func connection(_ connection: HTTP2Connection, closed stream: HTTP2Stream) {}

    func connectionEnded(_ connection: HTTP2Connection, _ end: HTTP2ConnectionEnd) {
        ends.append(end)
    }
}

/// Records what a stream reports.
final class Recorder: HTTP2StreamDelegate {
    var headers: [HTTP2Headers] = []
    var body: [UInt8] = []
    var hasEnded = false
    var ends: [HTTP2StreamEnd] = []
    var writableCount = 0
    /// Return windows as bytes arrive.
    var consumes = true
    var onEnd: () -> Void = {}

    func streamReceivedHeaders(_ stream: HTTP2Stream) { headers.append(stream.headers) }

    func stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
        body.append(contentsOf: bytes)
        stream.connection?.consume(bytes.count)
        if consumes { stream.consume(bytes.count) }
    }

    func streamReceivedEnd(_ stream: HTTP2Stream) {
        hasEnded = true
        onEnd()
    }

    func streamBecameWritable(_ stream: HTTP2Stream) { writableCount += 1 }

    func streamClosed(_ stream: HTTP2Stream, _ end: HTTP2StreamEnd) { ends.append(end) }
}
