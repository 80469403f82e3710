internal import NIOCore
internal import Synchronization

/// The memory that the requests of all of a server's connections take up until their calls end
/// (`queued.max.request.bytes`).
///
/// When it is used up, connections keep their flow-control windows shut, and are told when to look again.
/// Each may then still send what its window had left.
final class RequestMemory: Sendable {
    private struct State {
        var heldBytes = 0
        /// Of these, the bytes of requests that are complete, whose calls will end.
        var completeBytes = 0
        /// The connections that are to be told.
        var waiting: [ObjectIdentifier: @Sendable () -> Void] = [:]
    }

    private let limit: Int
    // A lock, because connections live on all event loops; held for counting only.
    private let state = Mutex(State())

    init(limit: Int) {
        self.limit = limit
    }

    /// The bytes in use.
    var heldBytes: Int { state.withLock { $0.heldBytes } }

    var isExhausted: Bool { state.withLock { $0.heldBytes > limit } }

    /// Nothing but unfinished requests use it up: no call will end and make room.
    var isStuck: Bool { state.withLock { isStuck($0) } }

    private func isStuck(_ state: State) -> Bool {
        state.heldBytes > limit && state.completeBytes == 0
    }

    func take(_ count: Int) {
        state.withLock { $0.heldBytes += count }
    }

    /// A request of `count` bytes is complete.
    func completed(_ count: Int) {
        state.withLock { $0.completeBytes += count }
    }

    /// A call has ended whose request took up `count` bytes.
    func release(_ count: Int, wasComplete: Bool) {
        guard count > 0 else { return }
        let due = state.withLock { state -> [@Sendable () -> Void] in
            state.heldBytes -= count
            if wasComplete { state.completeBytes -= count }
            guard !state.waiting.isEmpty, state.heldBytes <= limit || isStuck(state) else {
                return []
            }
            defer { state.waiting = [:] }
            return Array(state.waiting.values)
        }
        for body in due { body() }
    }

    /// Calls `body` once, on any thread, when there is room again, or only a refusal can make it.
    ///
    /// - Parameter canMakeRoom: whether the connection has requests to refuse.
    func whenChanged(
        for connection: ObjectIdentifier, canMakeRoom: Bool, _ body: @escaping @Sendable () -> Void
    ) {
        let isDue = state.withLock { state in
            if state.heldBytes <= limit || isStuck(state) && canMakeRoom { return true }
            state.waiting[connection] = body
            return false
        }
        if isDue { body() }
    }

    func forget(_ connection: ObjectIdentifier) {
        state.withLock { _ = $0.waiting.removeValue(forKey: connection) }
    }
}
