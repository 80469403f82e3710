import Essentials
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import RPC

@Suite struct LifecycleTests {
    private func failure(_ result: Result<ByteBuffer, RPCError>) throws -> RPCError {
        switch result {
        case .success:
            throw RPCError(status: .internalError, "the call succeeded")
        case .failure(let error):
            return error
        }
    }

    @Test func aDeadlineEndsTheCallOnBothSides() async throws {
        let cancelled = Event<Void>()
        var router = Router()
        router.register("/test/Never") { call in call.onCancel = { cancelled.happen() } }
        try await Fixture.run(router) { fixture in
            var timeout = Duration.milliseconds(30)
            var error: RPCError
            repeat {
                // On a busy machine the time may be up before the call has left.
                error = try failure(await fixture.unary("/test/Never", [], timeout: timeout))
                timeout *= 2
            } while error.isUnprocessed
            #expect(error.status == .deadlineExceeded)
            #expect(error.code == .requestTimedOut)
            #expect(!error.isUnprocessed)
            await cancelled.value
        }
    }

    @Test func cancellingACallReachesItsHandler() async throws {
        let started = Event<Void>()
        let cancelled = Event<Void>()
        let ended = Event<Result<ByteBuffer, RPCError>>()
        var router = Router.echo
        router.register("/test/Never") { call in
            call.onCancel = { cancelled.happen() }
            started.happen()
        }
        try await Fixture.run(router) { fixture in
            let token = fixture.client.unary("/test/Never", [], timeout: .seconds(60)) {
                ended.happen($0)
            }
            await started.value
            token.cancel()
            await cancelled.value
            let error = try failure(await ended.value)
            #expect(error.status == .cancelled)
            // Only that call.
            #expect(await fixture.unary("/test/Echo", []) == .success(ByteBuffer()))
        }
    }

    @Test func aLostConnectionCancelsItsCalls() async throws {
        let started = Event<Void>()
        let cancelled = Event<Void>()
        var router = Router()
        router.register("/test/Never") { call in
            call.onCancel = { cancelled.happen() }
            started.happen()
        }
        try await Fixture.run(router) { fixture in
            fixture.client.unary("/test/Never", [], timeout: .seconds(60)) { _ in }
            await started.value
            fixture.client.close()
            await cancelled.value
        }
    }

    @Test func aStoppingServerEndsItsCallsAndTakesNoNewOnes() async throws {
        let started = Event<ServerCall>()
        var router = Router.echo
        router.register("/test/Wait") { started.happen($0) }
        try await Fixture.run(router) { fixture in
            async let running = fixture.unary("/test/Wait", [])
            let call = await started.value
            async let stopped: Void = fixture.server.stop(grace: .seconds(60))
            // Wait until the client has heard of it: new calls then find nobody listening.
            var refused: RPCError?
            while refused == nil {
                switch await fixture.unary("/test/Echo", []) {
                case .success: break
                case .failure(let error): refused = error
                }
            }
            #expect(refused?.isUnprocessed == true)
            #expect(refused?.status == .unavailable)
            call.eventLoop.execute { call.respond([ByteBuffer(string: "done")]) }
            #expect(await running == .success(ByteBuffer(string: "done")))
            await stopped
        }
    }

    @Test func aRefusedConnectionIsReportedAtOnceAndRetriedLater() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        // A port that was free a moment ago.
        let server = try await RPCServer.start(
            host: "127.0.0.1", port: 0, router: .echo, group: group, logger: Fixture.logger)
        await server.stop(grace: .zero)
        let client = RPCClient(
            host: "127.0.0.1", port: server.port, eventLoop: group.next(), logger: Fixture.logger)
        let fixture = Fixture(group: group, server: server, client: client)
        let error = try failure(await fixture.unary("/test/Echo", []))
        #expect(error.status == .unavailable)
        #expect(error.isUnprocessed)
        #expect(error.isConnectionRefused)
        let second = try await RPCServer.start(
            host: "127.0.0.1", port: server.port, router: .echo, group: group,
            logger: Fixture.logger)
        #expect(await fixture.unary("/test/Echo", []) == .success(ByteBuffer()))
        client.close()
        await second.stop(grace: .zero)
        try await group.shutdownGracefully()
    }

    @Test func aServerThatDiesLeavesTheOutcomeUnknownAndIsReported() async throws {
        let started = Event<Void>()
        let disconnected = Event<Void>()
        var router = Router.echo
        router.register("/test/Never") { _ in started.happen() }
        try await Fixture.run(router) { fixture in
            fixture.client.onDisconnect = { disconnected.happen() }
            async let result = fixture.unary("/test/Never", [])
            await started.value
            await fixture.server.stop(grace: .zero)
            let error = try failure(await result)
            #expect(error.status == .unavailable)
            #expect(error.code == .networkException)
            #expect(!error.isUnprocessed)
            await disconnected.value
        }
    }

    @Test func aServerThatNeverAnswersIsFoundDead() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let silent = try await ServerBootstrap(group: group)
            .bind(host: "127.0.0.1", port: 0).get()
        var limits = RPCLimits()
        limits.keepAliveInterval = .milliseconds(20)
        limits.keepAliveTimeout = .milliseconds(20)
        let client = RPCClient(
            host: "127.0.0.1", port: try #require(silent.localAddress?.port),
            eventLoop: group.next(), limits: limits, logger: Fixture.logger)
        let ended = Event<Result<ByteBuffer, RPCError>>()
        client.unary("/a/B", [], timeout: .seconds(600)) { ended.happen($0) }
        let error = try failure(await ended.value)
        #expect(error.status == .unavailable)
        #expect(!error.isUnprocessed)
        client.close()
        try await silent.close().get()
        try await group.shutdownGracefully()
    }

    @Test func aClientThatFellSilentIsClosed() async throws {
        var limits = RPCLimits()
        limits.keepAliveInterval = .milliseconds(20)
        limits.keepAliveTimeout = .milliseconds(20)
        try await Fixture.run(.echo, limits: limits) { fixture in
            let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
            let settings: [UInt8] = [0, 0, 0, 4, 0, 0, 0, 0, 0]
            let answer = try await RawPeer.exchange(
                preface + settings, port: fixture.server.port, group: fixture.group)
            #expect(answer.readableBytes > 0)
        }
    }

    @Test func moreCallsThanTheServerAllowsWaitTheirTurn() async throws {
        var limits = RPCLimits()
        limits.maxConcurrentStreams = 3
        let most = Mutex((now: 0, most: 0))
        var router = Router()
        router.register("/test/Slow") { call in
            most.withLock { $0 = ($0.now + 1, max($0.most, $0.now + 1)) }
            call.eventLoop.scheduleTask(in: .milliseconds(1)) {
                most.withLock { $0.now -= 1 }
                call.respond([])
            }
        }
        try await Fixture.run(router, limits: limits) { fixture in
            await withTaskGroup(of: Bool.self) { group in
                for _ in 0..<60 {
                    group.addTask {
                        await fixture.unary("/test/Slow", []) == .success(ByteBuffer())
                    }
                }
                for await isWell in group { #expect(isWell) }
            }
        }
        #expect(most.withLock { $0.most } <= 3)
    }

    @Test func unfinishedRequestsBeyondTheBudgetAreRefusedUnprocessed() async throws {
        var limits = RPCLimits()
        limits.maxBufferedRequestBytes = 300_000
        limits.connectionWindow = 200_000
        limits.streamWindow = 100_000
        try await Fixture.run(.echo, limits: limits) { fixture in
            let piece = ByteBuffer(repeating: 3, count: 200_000)
            let results = await withTaskGroup(of: Result<ByteBuffer, RPCError>.self) { group in
                for _ in 0..<40 {
                    group.addTask { await fixture.unary("/test/Echo", [piece]) }
                }
                return await group.reduce(into: []) { $0.append($1) }
            }
            for result in results {
                switch result {
                case .success(let answer): #expect(answer == piece)
                case .failure(let error): #expect(error.isUnprocessed, "\(error)")
                }
            }
            #expect(results.contains { $0 == .success(piece) })
            // Nothing is stuck, and the window is whole again.
            #expect(await fixture.unary("/test/Echo", [piece]) == .success(piece))
        }
    }

    @Test func allConnectionsTogetherHoldNoMoreThanTheServersBudget() async throws {
        var limits = RPCLimits()
        limits.maxBufferedRequestBytesInAll = 300_000
        limits.connectionWindow = 200_000
        limits.streamWindow = 100_000
        // Answers late, so that complete requests are held too.
        var router = Router()
        router.register("/test/Late") { call in
            let bound = NIOLoopBound(call, eventLoop: call.eventLoop)
            call.eventLoop.scheduleTask(in: .milliseconds(2)) {
                bound.value.respond([bound.value.request])
            }
        }
        try await Fixture.run(router, limits: limits) { fixture in
            let clients = (0..<4).map { _ in
                RPCClient(
                    host: "127.0.0.1", port: fixture.server.port, eventLoop: fixture.group.next(),
                    logger: Fixture.logger)
            }
            let piece = ByteBuffer(repeating: 3, count: 150_000)
            @Sendable func call(_ client: RPCClient) async -> Result<ByteBuffer, RPCError> {
                await withCheckedContinuation { continuation in
                    client.unary("/test/Late", [piece], timeout: .seconds(30)) {
                        continuation.resume(returning: $0)
                    }
                }
            }
            let results = await withTaskGroup(of: Result<ByteBuffer, RPCError>.self) { group in
                for client in clients {
                    for _ in 0..<10 { group.addTask { await call(client) } }
                }
                return await group.reduce(into: []) { $0.append($1) }
            }
            for result in results {
                switch result {
                case .success(let answer): #expect(answer == piece)
                case .failure(let error): #expect(error.isUnprocessed, "\(error)")
                }
            }
            #expect(results.contains { $0 == .success(piece) })
            // Nothing is stuck, and every window is whole again.
            for client in clients {
                #expect(await call(client) == .success(piece))
                client.close()
            }
        }
    }
}
