internal import NIOCore

extension ServerCall {
    /// Tells connections apart, for as long as they last.
    package var connectionID: ObjectIdentifier { ObjectIdentifier(connection) }

    /// Calls `body` on the event loop when the connection that carries this call has ended, or in a
    /// later turn if it has already.
    package func whenConnectionEnds(_ body: @escaping @Sendable () -> Void) {
        eventLoop.preconditionInEventLoop()
        if connection.hasEnded {
            eventLoop.execute(body)
        } else {
            connection.endHandlers.append(body)
        }
    }
}
