import NIOCore
import NIOEmbedded
import Testing

@testable import HTTP2

@Suite struct HTTP2ConnectionTests {
    private let ok = HTTP2Headers([":status": "200"])

    @Test func aRequestAndItsAnswerPassWithTrailers() throws {
        let pair = try Pair()
        pair.serverOwner.onOpen = { stream, recorder in
            recorder.onEnd = {
                stream.sendHeaders(self.ok)
                stream.send(head: 0x6362_61, headCount: 3, [ByteBuffer(string: "def")])
                stream.finish(trailers: HTTP2Headers(["status": "fine"]))
            }
        }
        let (stream, answer) = try #require(pair.open())
        stream.send([ByteBuffer(string: "hel"), ByteBuffer(string: "lo")])
        stream.finish()
        try pair.exchange()
        let request = try #require(pair.serverOwner.opened.first)
        #expect(request.stream.headers[":path"] == "/a/B")
        #expect(request.recorder.body == Array("hello".utf8))
        #expect(answer.body == Array("abcdef".utf8))
        #expect(answer.headers.map { $0.count } == [1, 1])
        #expect(answer.headers.last?["status"] == "fine")
        #expect(answer.ends == [.complete])
        #expect(request.recorder.ends == [.complete])
        #expect(pair.client.streams.isEmpty && pair.server.streams.isEmpty)
    }

    @Test func aReaderThatDoesNotConsumeStopsItsStreamOnly() throws {
        var settings = HTTP2Settings()
        settings.streamWindow = 100_000
        let pair = try Pair(server: settings)
        pair.serverOwner.onOpen = { stream, recorder in
            recorder.consumes = stream.headers[":path"] != "/a/B"
        }
        let (slow, _) = try #require(pair.open())
        slow.send([ByteBuffer(repeating: 1, count: 1_000_000)])
        slow.finish()
        try pair.exchange()
        let reader = try #require(pair.serverOwner.opened.first)
        #expect(reader.recorder.body.count == 100_000)
        #expect(reader.stream.unconsumedBytes == 100_000)
        #expect(slow.queuedBytes == 900_000)

        var other = Pair.request
        other.add("x", "y")
        let (quick, _) = try #require(
            pair.open(
                HTTP2Headers([
                    ":method": "POST", ":scheme": "http", ":authority": "here", ":path": "/c",
                ])))
        quick.send([ByteBuffer(repeating: 2, count: 3_000_000)])
        quick.finish()
        try pair.exchange()
        #expect(pair.serverOwner.opened.last?.recorder.body.count == 3_000_000)

        while !reader.recorder.hasEnded {
            let before = reader.recorder.body.count
            reader.stream.consume(reader.stream.unconsumedBytes)
            try pair.exchange()
            try #require(reader.recorder.body.count > before || reader.recorder.hasEnded)
        }
        #expect(reader.recorder.body.count == 1_000_000)
    }

    @Test func aStreamIsWritableAgainWhenHalfItsQueueHasLeft() throws {
        var settings = HTTP2Settings()
        settings.maxQueuedBytes = 200_000
        var narrow = HTTP2Settings()
        narrow.streamWindow = 70_000
        let pair = try Pair(client: settings, server: narrow)
        pair.serverOwner.onOpen = { _, recorder in recorder.consumes = false }
        let (stream, recorder) = try #require(pair.open())
        #expect(stream.isWritable)
        stream.send([ByteBuffer(repeating: 1, count: 250_000)])
        #expect(!stream.isWritable)
        try pair.exchange()
        #expect(stream.queuedBytes == 180_000)
        #expect(recorder.writableCount == 0)
        let reader = try #require(pair.serverOwner.opened.first)
        reader.stream.consume(70_000)
        try pair.exchange()
        #expect(stream.queuedBytes == 110_000)
        #expect(recorder.writableCount == 0)
        reader.stream.consume(70_000)
        try pair.exchange()
        #expect(stream.queuedBytes == 40_000)
        #expect(recorder.writableCount == 1)
        #expect(stream.isWritable)
    }

    @Test func anAnswerBeforeTheRequestIsCompleteStopsTheRequest() throws {
        var settings = HTTP2Settings()
        settings.streamWindow = 70_000
        let pair = try Pair(server: settings)
        pair.serverOwner.onOpen = { stream, recorder in
            recorder.consumes = false
            stream.sendHeaders(self.ok, endStream: true)
        }
        let (stream, recorder) = try #require(pair.open())
        stream.send([ByteBuffer(repeating: 1, count: 1_000_000)])
        stream.finish()
        try pair.exchange()
        #expect(recorder.hasEnded)
        #expect(recorder.ends.isEmpty)
        pair.loop.advanceTime(by: .seconds(1))
        try pair.exchange()
        #expect(recorder.ends == [.complete])
        #expect(pair.server.streams.isEmpty)
    }

    @Test func aLongHeaderListIsCutAndMarked() throws {
        var settings = HTTP2Settings()
        settings.maxHeaderListBytes = 1000
        let pair = try Pair(server: settings)
        var headers = Pair.request
        headers.add("long", String(repeating: "x", count: 2000))
        _ = try #require(pair.open(headers))
        try pair.exchange()
        let opened = try #require(pair.serverOwner.opened.first)
        #expect(opened.stream.isHeaderListTooLong)
        #expect(opened.stream.headers.listBytes <= 1000)
    }

    @Test func aGracefulEndLetsRunningStreamsFinishAndTakesNoNewOnes() throws {
        let pair = try Pair()
        let (first, running) = try #require(pair.open())
        first.finish()
        try pair.exchange()
        pair.server.shutDownGracefully()
        // Sent before the client has heard of it: still served.
        let (second, late) = try #require(pair.open())
        second.finish()
        try pair.exchange()
        #expect(pair.serverOwner.opened.count == 2)
        #expect(pair.client.isDraining)
        #expect(pair.open() == nil)
        #expect(pair.serverOwner.ends.isEmpty)
        for (stream, _) in pair.serverOwner.opened {
            stream.sendHeaders(ok, endStream: true)
        }
        try pair.exchange()
        for recorder in [running, late] {
            #expect(recorder.headers.count == 1)
        }
        #expect(pair.serverOwner.ends == [.local])
    }

    @Test func aRequestAfterTheFinalGoAwayIsRefusedUnprocessed() throws {
        let pair = try Pair()
        _ = try #require(pair.open())
        try pair.exchange()
        // Both GOAWAYs are out before the client's request is read.
        pair.server.shutDownGracefully()
        pair.server.sendFinalGoAway()
        let (_, late) = try #require(pair.open())
        try pair.exchange()
        #expect(pair.serverOwner.opened.count == 1)
        #expect(late.ends == [.reset(.refusedStream)])
    }

    @Test func aConnectionWhoseStreamIDsAreUsedUpEndsWithItsLastStream() throws {
        let pair = try Pair()
        pair.client.nextStreamID = .max
        let (stream, recorder) = try #require(pair.open())
        stream.finish()
        #expect(pair.open() == nil)
        #expect(pair.client.isDraining)
        try pair.exchange()
        let last = try #require(pair.serverOwner.opened.first)
        last.stream.sendHeaders(ok, endStream: true)
        try pair.exchange()
        #expect(recorder.ends == [.complete])
        #expect(pair.clientOwner.ends == [.local])
    }

    @Test func silenceIsAnsweredWithAPingAndThenTheEnd() throws {
        var settings = HTTP2Settings()
        settings.keepAliveInterval = .seconds(10)
        settings.keepAliveTimeout = .seconds(5)
        let pair = try Pair(client: settings)
        let (_, recorder) = try #require(pair.open())
        try pair.exchange()
        // A live peer answers each PING.
        for _ in 0..<100 {
            pair.loop.advanceTime(by: .seconds(1))
            try pair.exchange()
        }
        #expect(pair.clientOwner.ends.isEmpty)
        // A dead one does not.
        for _ in 0..<3 {
            pair.loop.advanceTime(by: .seconds(10))
        }
        #expect(pair.clientOwner.ends == [.keepAliveTimeout])
        #expect(recorder.ends == [.connectionLost])
    }

    @Test func aConnectionMayBeClosedFromInsideACallback() throws {
        for closesServer in [true, false] {
            let pair = try Pair()
            let end = closesServer ? pair.server : pair.client
            pair.serverOwner.onOpen = { stream, recorder in
                stream.sendHeaders(self.ok, endStream: false)
                recorder.onEnd = { end.close() }
            }
            for _ in 0..<5 {
                let (stream, _) = try #require(pair.open())
                stream.send([ByteBuffer(repeating: 1, count: 10_000)])
                stream.finish()
            }
            try pair.exchange()
            #expect(end.isEnded)
            #expect(end.streams.isEmpty)
            #expect(end.session == nil)
        }
    }

    @Test func aPeerThatBreaksTheRulesEndsItsConnection() throws {
        let pair = try Pair()
        _ = try #require(pair.open())
        try pair.exchange()
        // DATA on stream 0.
        try pair.serverChannel.writeInbound(
            ByteBuffer(bytes: [0, 0, 1, 0, 0, 0, 0, 0, 0, 7]))
        pair.loop.run()
        guard case .protocolViolation? = pair.serverOwner.ends.first else {
            Issue.record("the connection goes on: \(pair.serverOwner.ends)")
            return
        }
        #expect(pair.serverOwner.opened.first?.recorder.ends == [.connectionLost])
    }
}
