import Logging
import NIOCore
import NIOEmbedded
import Testing

@testable import HTTP2

@Suite struct PortGuardTests {
    private let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private func makeChannel(_ loop: EmbeddedEventLoop, _ owner: Owner) throws -> EmbeddedChannel {
        let portGuard = PortGuard(timeout: .seconds(10), logger: logger) { channel in
            HTTP2Connection(
                role: .server, settings: HTTP2Settings(), eventLoop: channel.eventLoop,
                delegate: owner)
        }
        let channel = EmbeddedChannel(handler: portGuard, loop: loop)
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        return channel
    }

    private func answer(to text: String) throws -> String? {
        let loop = EmbeddedEventLoop()
        let channel = try makeChannel(loop, Owner())
        try channel.writeInbound(ByteBuffer(string: text))
        let answer = try channel.readOutbound(as: ByteBuffer.self)
        loop.advanceTime(by: .seconds(2))
        #expect(!channel.isActive)
        return answer.map { String(buffer: $0) }
    }

    @Test func anHTTP1RequestIsToldWhatToDo() throws {
        let answer = try #require(try answer(to: "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
        #expect(answer.hasPrefix("HTTP/1.1 505 "))
        #expect(answer.contains("--http2-prior-knowledge"))
    }

    @Test func aClientHelloGetsAnAlert() throws {
        let answer = try #require(try answer(to: "\u{16}\u{03}\u{01}\u{02}\u{00}"))
        #expect(Array(answer.utf8) == [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28])
    }

    @Test func bytesThatAreNothingGetNothing() throws {
        #expect(try answer(to: "\u{01}\u{02}\u{03}") == nil)
    }

    @Test func aPeerThatSaysNothingIsClosed() throws {
        for start in ["", "PRI * HT", "GE"] {
            let loop = EmbeddedEventLoop()
            let channel = try makeChannel(loop, Owner())
            try channel.writeInbound(ByteBuffer(string: start))
            loop.advanceTime(by: .seconds(9))
            #expect(channel.isActive)
            loop.advanceTime(by: .seconds(2))
            #expect(!channel.isActive)
        }
    }

    @Test func anHTTP2ClientGetsThroughWhateverThePiecesItComesIn() throws {
        let pair = try Pair()
        let fresh = EmbeddedChannel(
            handler: HTTP2Connection(
                role: .client, settings: HTTP2Settings(), eventLoop: pair.loop, delegate: nil),
            loop: pair.loop)
        try fresh.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        pair.loop.run()
        let hello = try #require(try fresh.readOutbound(as: ByteBuffer.self))
        let owner = Owner()
        let channel = try makeChannel(pair.loop, owner)
        for byte in hello.readableBytesView {
            try channel.writeInbound(ByteBuffer(bytes: [byte]))
        }
        #expect(channel.isActive)
        #expect(try channel.readOutbound(as: ByteBuffer.self) != nil)
        // The guard's own timer is gone.
        pair.loop.advanceTime(by: .seconds(12))
        #expect(channel.isActive)
        #expect(owner.ends.isEmpty)
    }
}
