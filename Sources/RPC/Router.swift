internal import Essentials
internal import HTTP2
package import NIOCore
package import SwiftProtobuf

/// Which handler answers which method; filled before a server starts.
package struct Router: Sendable {
    private(set) var routes: [String: Route] = [:]

    package init() {
        register(HealthService.checkPath, HealthService.check)
    }

    /// Has `handler` answer calls to `path`, on the event loop of their connection.
    ///
    /// A path that is registered twice is answered by the last handler.
    /// - Parameter streaming: the answer is any number of messages, so only gRPC can carry it.
    package mutating func register(
        _ path: String, streaming: Bool = false,
        _ handler: @escaping @Sendable (ServerCall) -> Void
    ) {
        routes[path] = Route(path: path, isStreaming: streaming, handler: handler)
    }

    /// Has the asynchronous `body` answer calls to `path`, off the event loop.
    ///
    /// It runs in a task that is cancelled when the caller gives up. An error that is no `RPCError`
    /// becomes an internal one.
    package mutating func unary<Request: Message & Sendable, Answer: Message & Sendable>(
        _ path: String,
        _ body: @escaping @Sendable (Request, CallContext) async throws -> Answer
    ) {
        register(path) { call in
            let request: Request
            do throws(RPCError) {
                request = try call.decode(Request.self)
            } catch {
                call.fail(error)
                return
            }
            let context = CallContext(call)
            let task = Task {
                let result = await Result { try await body(request, context) }
                call.eventLoop.execute { call.end(with: result) }
            }
            call.onCancel = { task.cancel() }
        }
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do {
            self = .success(try await body())
        } catch {
            self = .failure(error)
        }
    }
}

extension ServerCall {
    fileprivate func end(with result: Result<some Message, any Error>) {
        switch result {
        case .success(let answer):
            respond(answer)
        case .failure(let error as RPCError):
            fail(error)
        case .failure(let error):
            fail(RPCError(.unknownServerError, "\(error)"))
        }
    }
}

/// What an asynchronous handler may know of its call.
package struct CallContext: Sendable {
    package let path: String
    package let encoding: PayloadEncoding
    package let deadline: NIODeadline?
    package let peer: String
    private let headers: @Sendable (String) -> String?

    init(_ call: ServerCall) {
        path = call.path
        encoding = call.encoding
        deadline = call.deadline
        peer = call.peer
        let list = call.stream.headers
        headers = { list[$0] }
    }

    /// The value of a request header; `name` is in lower case.
    package func header(_ name: String) -> String? { headers(name) }
}

/// One method and its handler.
final class Route: Sendable {
    let path: String
    let isStreaming: Bool
    let handler: @Sendable (ServerCall) -> Void
    fileprivate let bytes: [UInt8]

    init(path: String, isStreaming: Bool, handler: @escaping @Sendable (ServerCall) -> Void) {
        self.path = path
        self.isStreaming = isStreaming
        self.handler = handler
        bytes = Array(path.utf8)
    }
}

/// Finds routes by the bytes of a path, without making a string of them.
struct RouteTable: Sendable {
    /// Open addressing; at most half full, so a search always meets an empty slot.
    private var slots: [Route?]

    init(_ router: Router) {
        var size = 16
        while size < router.routes.count * 2 { size *= 2 }
        slots = Array(repeating: nil, count: size)
        for route in router.routes.values {
            var slot = route.bytes.withUnsafeBytes { Self.hash($0) } & (size - 1)
            while slots[slot] != nil { slot = (slot + 1) & (size - 1) }
            slots[slot] = route
        }
    }

    func find(_ path: UnsafeRawBufferPointer) -> Route? {
        var slot = Self.hash(path) & (slots.count - 1)
        while let route = slots[slot] {
            if route.bytes.count == path.count, route.bytes.elementsEqual(path) { return route }
            slot = (slot + 1) & (slots.count - 1)
        }
        return nil
    }

    /// FNV-1a: the table never grows by a peer's doing, so collisions cannot be forced.
    private static func hash(_ bytes: UnsafeRawBufferPointer) -> Int {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in bytes {
            hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
        }
        return Int(truncatingIfNeeded: hash)
    }
}
