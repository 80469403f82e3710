internal import Essentials
package import NIOCore
package import RPC
package import SwiftProtobuf

extension ActiveControllerForwarder {
    /// Calls the active controller, whichever that is by then, and answers on `eventLoop`.
    ///
    /// For whoever lives on the control loop already: no task and no other thread is needed. Unless
    /// the failure is `isUnprocessed`, the call may have had its effect.
    package func call(
        _ path: String, _ request: ByteBuffer, timeout: Duration,
        completion: @escaping @Sendable (Result<ByteBuffer, RPCError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        start(
            Forwarded(
                path: path, request: request, encoding: .protobuf,
                deadline: .now() + .nanoseconds(timeout.nanoseconds), serveHere: nil,
                end: completion))
    }

    /// Calls the active controller, whichever that is by then, over the same connection.
    ///
    /// - Throws: `RPCError`. Unless it is `isUnprocessed`, the call may have had its effect.
    package func call<Request: Message & Sendable, Answer: Message & Sendable>(
        _ path: String, _ request: Request, returning: Answer.Type = Answer.self,
        timeout: Duration
    ) async throws -> Answer {
        let body = try PayloadEncoding.protobuf.encode(request)
        let answer = await withCheckedContinuation { continuation in
            let forwarded = Forwarded(
                path: path, request: body, encoding: .protobuf,
                deadline: .now() + .nanoseconds(timeout.nanoseconds), serveHere: nil,
                end: { continuation.resume(returning: $0) })
            eventLoop.execute { self.start(forwarded) }
        }
        return try PayloadEncoding.protobuf.decode(Answer.self, from: try answer.get())
    }
}
