import Essentials
import NIOCore
import Synchronization
import Testing

@testable import RPC

@Suite struct StreamingTests {
    @Test func messagesArriveInOrderAndTheStreamEnds() async throws {
        var router = Router()
        router.register("/test/Count", streaming: true) { call in
            for number in 0..<100 { call.send([ByteBuffer(integer: number)]) }
            call.finish()
        }
        try await Fixture.run(router) { fixture in
            let numbers = Mutex<[Int]>([])
            let ended = Event<RPCError?>()
            _ = fixture.client.serverStream(
                "/test/Count", [],
                onMessage: { message in
                    let number = message.getInteger(at: message.readerIndex, as: Int.self)
                    numbers.withLock { $0.append(number ?? -1) }
                }, onEnd: { ended.happen($0) })
            #expect(await ended.value == nil)
            #expect(numbers.withLock { $0 } == Array(0..<100))
        }
    }

    @Test func anErrorAfterMessagesEndsTheStreamWithIt() async throws {
        let error = RPCError(.notLeaderOrFollower, "moved away")
        var router = Router()
        router.register("/test/Break", streaming: true) { call in
            call.send([ByteBuffer(string: "one")])
            call.fail(error)
        }
        try await Fixture.run(router) { fixture in
            let count = Mutex(0)
            let ended = Event<RPCError?>()
            _ = fixture.client.serverStream(
                "/test/Break", [], onMessage: { _ in count.withLock { $0 += 1 } },
                onEnd: { ended.happen($0) })
            #expect(await ended.value == error)
            #expect(count.withLock { $0 } == 1)
        }
    }

    /// Sends as long as the stream is writable, a thousand messages in all, and says when it must
    /// wait.
    private func tap(_ stopped: Event<Int>, message: ByteBuffer, count: Int = 1000) -> Router {
        var router = Router.echo
        router.register("/test/Tap", streaming: true) { call in
            let sent = Mutex(0)
            call.onWritable = { pour() }
            @Sendable func pour() {
                while call.isWritable, sent.withLock({ $0 }) < count {
                    call.send([message])
                    sent.withLock { $0 += 1 }
                }
                if sent.withLock({ $0 }) == count {
                    call.finish()
                } else {
                    stopped.happen(sent.withLock { $0 })
                }
            }
            pour()
        }
        return router
    }

    @Test func aReaderThatHoldsBackStopsTheSenderUntilItGoesOn() async throws {
        let stopped = Event<Int>()
        let message = ByteBuffer(repeating: 9, count: 50_000)
        let router = tap(stopped, message: message)
        var limits = RPCLimits()
        limits.maxQueuedBytes = 200_000
        var clientLimits = RPCLimits()
        clientLimits.streamWindow = 300_000
        try await Fixture.run(router, limits: limits, clientLimits: clientLimits) { fixture in
            let received = Mutex(0)
            let full = Event<Void>()
            let ended = Event<RPCError?>()
            let isFlowing = Mutex(false)
            let streamBox = Event<ClientStream>()
            let stream = fixture.client.serverStream(
                "/test/Tap", [],
                onMessage: { message in
                    let count = received.withLock {
                        $0 += 1; return $0
                    }
                    if count == 5 { full.happen() }
                    if isFlowing.withLock({ $0 }) {
                        Task { await streamBox.value.consume(message.readableBytes) }
                    }
                }, onEnd: { ended.happen($0) })
            await full.value
            _ = await stopped.value
            // Another call on the connection passes, and by then nothing more has come.
            for _ in 0..<20 {
                #expect(await fixture.unary("/test/Echo", [message]) == .success(message))
            }
            let held = received.withLock { $0 }
            #expect(held == 5)
            isFlowing.withLock { $0 = true }
            stream.consume(held * message.readableBytes)
            streamBox.happen(stream)
            #expect(await ended.value == nil)
            #expect(received.withLock { $0 } == 1000)
        }
    }

    @Test func aMessageLargerThanTheWindowArrivesAll() async throws {
        let message = ByteBuffer(repeating: 4, count: 1_000_000)
        var clientLimits = RPCLimits()
        clientLimits.streamWindow = 100_000
        let router = tap(Event(), message: message, count: 20)
        try await Fixture.run(router, clientLimits: clientLimits) { fixture in
            let sizes = Mutex<[Int]>([])
            let ended = Event<RPCError?>()
            let streamBox = Event<ClientStream>()
            let stream = fixture.client.serverStream(
                "/test/Tap", [],
                onMessage: { message in
                    sizes.withLock { $0.append(message.readableBytes) }
                    Task { await streamBox.value.consume(message.readableBytes) }
                }, onEnd: { ended.happen($0) })
            streamBox.happen(stream)
            #expect(await ended.value == nil)
            #expect(sizes.withLock { $0 } == Array(repeating: 1_000_000, count: 20))
        }
    }

    @Test func cancellingAStreamReachesTheSender() async throws {
        let cancelled = Event<Void>()
        var router = Router()
        router.register("/test/Open", streaming: true) { call in
            call.send([ByteBuffer(string: "first")])
            call.onCancel = { cancelled.happen() }
        }
        try await Fixture.run(router) { fixture in
            let first = Event<Void>()
            let ended = Event<RPCError?>()
            let stream = fixture.client.serverStream(
                "/test/Open", [], onMessage: { _ in first.happen() },
                onEnd: { ended.happen($0) })
            await first.value
            stream.cancel()
            await cancelled.value
            #expect(await ended.value?.status == .cancelled)
        }
    }
}
