import Essentials
import Logging
import NIOCore
import NIOEmbedded
import Testing

@testable import HTTP2

/// Feeds a server what a client sent, damaged at random: nothing may crash or be told twice.
@Suite struct MutationTests {
    /// What a client with several requests sends, piece by piece.
    private func conversation(_ generator: inout SeededGenerator) throws -> [UInt8] {
        let loop = EmbeddedEventLoop()
        let client = HTTP2Connection(
            role: .client, settings: HTTP2Settings(), eventLoop: loop, delegate: nil)
        let channel = EmbeddedChannel(handler: client, loop: loop)
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        for _ in 0..<Int.random(in: 1...6, using: &generator) {
            guard let stream = client.open(Pair.request, delegate: Recorder()) else { break }
            let count = Int.random(in: 0...600, using: &generator)
            stream.send([ByteBuffer(repeating: 5, count: count)])
            if Bool.random(using: &generator) { stream.finish() }
            loop.run()
            if Int.random(in: 0..<5, using: &generator) == 0 { stream.reset(.cancel) }
            loop.run()
        }
        var bytes: [UInt8] = []
        while let buffer = try channel.readOutbound(as: ByteBuffer.self) {
            bytes += buffer.readableBytesView
        }
        client.close()
        loop.run()
        return bytes
    }

    private func damage(_ bytes: inout [UInt8], _ generator: inout SeededGenerator) {
        for _ in 0..<Int.random(in: 0...8, using: &generator) where bytes.count > 30 {
            // Mostly past the preface, where the parser is.
            let first = Int.random(in: 0..<10, using: &generator) == 0 ? 0 : 24
            let index = Int.random(in: first..<bytes.count, using: &generator)
            switch Int.random(in: 0..<5, using: &generator) {
            case 0: bytes[index] = UInt8.random(in: 0...255, using: &generator)
            case 1: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            case 2: bytes.remove(at: index)
            case 3: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: index)
            default:
                let end = min(bytes.count, index + Int.random(in: 1...80, using: &generator))
                bytes.insert(contentsOf: bytes[index..<end], at: index)
            }
        }
    }

    private func serve(_ bytes: [UInt8], _ generator: inout SeededGenerator) throws -> Owner {
        let loop = EmbeddedEventLoop()
        let owner = Owner()
        let portGuard = PortGuard(
            timeout: .seconds(10), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        ) { channel in
            HTTP2Connection(
                role: .server, settings: HTTP2Settings(), eventLoop: channel.eventLoop,
                delegate: owner)
        }
        owner.onOpen = { stream, recorder in
            recorder.onEnd = {
                stream.sendHeaders(HTTP2Headers([":status": "200"]))
                stream.send([ByteBuffer(repeating: 1, count: 3000)])
                stream.finish(trailers: HTTP2Headers(["a": "b"]))
            }
        }
        let channel = EmbeddedChannel(handler: portGuard, loop: loop)
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        var rest = bytes[...]
        while !rest.isEmpty, channel.isActive {
            let piece = rest.prefix(Int.random(in: 1...400, using: &generator))
            rest = rest.dropFirst(piece.count)
            try channel.writeInbound(ByteBuffer(bytes: piece))
            loop.run()
            while try channel.readOutbound(as: ByteBuffer.self) != nil {}
        }
        if channel.isActive { channel.close(promise: nil) }
        loop.advanceTime(by: .seconds(60))
        return owner
    }

    @Test(arguments: 0..<40) func damagedInputEndsWell(batch: Int) throws {
        for seed in (batch * 50)..<(batch * 50 + 50) {
            var generator = SeededGenerator(seed: UInt64(seed))
            var bytes = try conversation(&generator)
            if seed % 10 == 9 {
                // And sometimes nothing a client ever sent.
                bytes =
                    Array(bytes.prefix(24))
                    + (0..<500).map { _ in UInt8.random(in: 0...255, using: &generator) }
            } else {
                damage(&bytes, &generator)
            }
            let owner = try serve(bytes, &generator)
            #expect(owner.ends.count <= 1, "seed \(seed)")
            for (stream, recorder) in owner.opened {
                #expect(recorder.ends.count == 1, "seed \(seed)")
                #expect(stream.isClosed, "seed \(seed)")
            }
        }
    }
}
