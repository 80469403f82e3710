internal import HTTP2
internal import Logging
internal import NIOCore

/// The server's side of one connection: starts calls and bounds the request bytes they hold.
///
/// Bytes of requests count until their call ends, against a budget of the connection's and one of all
/// connections together. Above either the connection's flow-control window stays shut, so the peer
/// stops; if nothing but unfinished requests fill it, and no call's end could make room, the newest of
/// them is refused.
///
/// `@unchecked Sendable`: all state is touched on `eventLoop` only.
final class ServerConnection: @unchecked Sendable {
    let limits: RPCLimits
    let eventLoop: any EventLoop
    let peer: String
    private let routes: RouteTable
    private let memory: RequestMemory
    /// `memory` will tell us when to look again.
    private var isWaitingForMemory = false
    private let logger: Logger
    private let deadlines: DeadlineQueue
    private var http2: HTTP2Connection?
    private var heldBytes = 0
    /// Of `heldBytes`, those of requests that are complete: their calls will end and free them.
    private var completeBytes = 0
    /// Received bytes whose part of the window the peer has not got back.
    private var withheldBytes = 0
    /// Called when the connection has ended.
    var endHandlers: [@Sendable () -> Void] = []
    private(set) var hasEnded = false

    init(
        routes: RouteTable, limits: RPCLimits, memory: RequestMemory, channel: any Channel,
        logger: Logger
    ) {
        self.memory = memory
        self.routes = routes
        self.limits = limits
        self.logger = logger
        eventLoop = channel.eventLoop
        peer = channel.peerName
        deadlines = DeadlineQueue(eventLoop: channel.eventLoop)
    }

    // MARK: The budget

    /// `count` bytes of `call`'s request have arrived and are kept.
    func holds(_ count: Int, for call: ServerCall) {
        call.heldBytes += count
        heldBytes += count
        memory.take(count)
        if hasRoom {
            http2?.consume(count)
        } else {
            withheldBytes += count
            makeRoom()
        }
    }

    /// `count` bytes have arrived that nobody wants.
    func discarded(_ count: Int) {
        http2?.consume(count)
    }

    func completed(_ call: ServerCall) {
        call.isComplete = true
        completeBytes += call.heldBytes
        memory.completed(call.heldBytes)
    }

    func closed(_ call: ServerCall) {
        deadlines.remove(call)
        heldBytes -= call.heldBytes
        if call.isComplete { completeBytes -= call.heldBytes }
        let count = call.heldBytes
        call.heldBytes = 0
        // Others may be told, and this connection with them, once this is done.
        memory.release(count, wasComplete: call.isComplete)
        makeRoom()
    }

    private var hasRoom: Bool {
        heldBytes <= limits.maxBufferedRequestBytes && !memory.isExhausted
    }

    /// Gives the peer its window back, if there is room, or refuses requests to make some.
    private func makeRoom() {
        refuseUnfinishedRequests()
        guard withheldBytes > 0 else { return }
        if hasRoom {
            http2?.consume(withheldBytes)
            withheldBytes = 0
        } else if memory.isExhausted, !isWaitingForMemory {
            isWaitingForMemory = true
            memory.whenChanged(for: ObjectIdentifier(self), canMakeRoom: heldBytes > completeBytes)
            {
                self.eventLoop.execute {
                    self.isWaitingForMemory = false
                    self.makeRoom()
                }
            }
        }
    }

    /// No call will end and make room.
    private var isStuck: Bool {
        completeBytes == 0 && heldBytes > limits.maxBufferedRequestBytes
            || heldBytes > 0 && memory.isStuck
    }

    private func refuseUnfinishedRequests() {
        while withheldBytes > 0, let http2, isStuck {
            let unfinished = http2.streams.lazy.compactMap { $0.delegate as? ServerCall }
                .filter { $0.isReceiving && $0.heldBytes > 0 }
            guard let newest = unfinished.max(by: { $0.stream.id < $1.stream.id }) else { return }
            logger.debug(
                "refused a request: too many unfinished ones", metadata: ["peer": "\(peer)"])
            newest.stream.reset(.refusedStream)
            newest.cancel()
        }
    }
}

extension ServerConnection: HTTP2ConnectionDelegate {
    func connectionStarted(_ connection: HTTP2Connection) {
        http2 = connection
    }

    func connection(_ connection: HTTP2Connection, opened stream: HTTP2Stream) {
        guard connection.queuedBytes <= limits.maxQueuedAnswerBytes else {
            // The peer asks for more than it takes; refused unprocessed, it may ask again.
            stream.reset(.refusedStream)
            return
        }
        let head = RequestHead(stream.headers, routes: routes)
        let call = ServerCall(stream: stream, head: head, connection: self)
        stream.delegate = call
        deadlines.add(call)
        call.begin(head)
    }

    func connectionCapacityChanged(_ connection: HTTP2Connection) {}

    func connection(_ connection: HTTP2Connection, closed stream: HTTP2Stream) {}

    func connectionEnded(_ connection: HTTP2Connection, _ end: HTTP2ConnectionEnd) {
        http2 = nil
        deadlines.cancelAll()
        memory.forget(ObjectIdentifier(self))
        hasEnded = true
        let handlers = endHandlers
        endHandlers = []
        for handler in handlers { handler() }
        switch end {
        case .local: break
        case .peer, .keepAliveTimeout, .protocolViolation:
            logger.debug(
                "a connection ended", metadata: ["peer": "\(peer)", "reason": "\(end)"])
        }
    }
}
