import Essentials
import Logging
import NIOCore
import NIOPosix
import Protocol
import SwiftProtobuf
import Synchronization

@testable import RPC

/// A server and a client of it, on loops of their own, for one test.
struct Fixture: Sendable {
    let group: MultiThreadedEventLoopGroup
    let server: RPCServer
    let client: RPCClient

    static let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    static func run<Result>(
        _ router: Router, limits: RPCLimits = RPCLimits(), clientLimits: RPCLimits = RPCLimits(),
        _ body: (Fixture) async throws -> Result
    ) async throws -> Result {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let server = try await RPCServer.start(
            host: "127.0.0.1", port: 0, router: router, group: group, limits: limits,
            logger: logger)
        let client = RPCClient(
            host: "127.0.0.1", port: server.port, eventLoop: group.next(), limits: clientLimits,
            logger: logger)
        let outcome: Swift.Result<Result, any Error>
        do {
            outcome = .success(
                try await body(Fixture(group: group, server: server, client: client)))
        } catch {
            outcome = .failure(error)
        }
        client.close()
        await server.stop(grace: .zero)
        try await group.shutdownGracefully()
        return try outcome.get()
    }

    /// A unary call with bytes for a message.
    func unary(
        _ path: String, _ pieces: [ByteBuffer], encoding: PayloadEncoding = .protobuf,
        timeout: Duration = .seconds(30)
    ) async -> Swift.Result<ByteBuffer, RPCError> {
        await withCheckedContinuation { continuation in
            client.unary(path, pieces, encoding: encoding, timeout: timeout) {
                continuation.resume(returning: $0)
            }
        }
    }
}

extension Router {
    /// A router with `/test/Echo`, which answers with the request.
    static var echo: Router {
        var router = Router()
        router.register("/test/Echo") { call in call.respond([call.request]) }
        return router
    }
}

/// Something that happens once, on any thread, and can be awaited.
final class Event<Value: Sendable>: Sendable {
    private let state = Mutex<(value: Value?, waiters: [CheckedContinuation<Value, Never>])>(
        (nil, []))

    func happen(_ value: Value) {
        let waiters = state.withLock { state in
            state.value = state.value ?? value
            let waiters = state.waiters
            state.waiters = []
            return waiters
        }
        for waiter in waiters { waiter.resume(returning: value) }
    }

    var value: Value {
        get async {
            await withCheckedContinuation { continuation in
                let value = state.withLock { state in
                    if state.value == nil { state.waiters.append(continuation) }
                    return state.value
                }
                if let value { continuation.resume(returning: value) }
            }
        }
    }
}

extension Event where Value == Void {
    func happen() { happen(()) }
}
