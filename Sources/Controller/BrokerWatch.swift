internal import Essentials
internal import HashTreeCollections
internal import Logging
internal import Metadata
internal import NIOCore
internal import RPC

/// Notices that a broker's process is gone, by the connection over which it spoke.
///
/// When that connection ends, the broker's own port is asked. "Connection refused" means that
/// nothing listens there any more: it is fenced now. Anything else may be a lost connection or a
/// busy machine, and is left to the session timeout. Fencing a broker that is alive after all costs
/// a move of leaders, no more, so it is limited to one a second for each broker.
///
/// `@unchecked Sendable`: all state is touched on the control loop only.
final class BrokerWatch: @unchecked Sendable {
    private struct Connection {
        var id: ObjectIdentifier
        var epoch: BrokerEpoch
    }

    /// When a broken connection's broker is asked; a dying process may still accept at first.
    private static let probeDelays: [TimeAmount] = [
        .zero, .milliseconds(30), .milliseconds(100), .milliseconds(300),
    ]
    private static let pause: Duration = .seconds(1)

    private let controller: ActiveController
    private let eventLoop: any EventLoop
    private let logger: Logger
    private var connections: [NodeID: Connection] = [:]
    private var lastFenced: [NodeID: MonotonicTime] = [:]
    private var isStopped = false

    init(controller: ActiveController, eventLoop: any EventLoop, logger: Logger) {
        self.controller = controller
        self.eventLoop = eventLoop
        self.logger = logger
    }

    /// The broker spoke over this call's connection.
    func heard(_ broker: NodeID, epoch: BrokerEpoch, over call: ServerCall) {
        eventLoop.preconditionInEventLoop()
        guard !isStopped, !call.isClosed else { return }
        let connection = Connection(id: call.connectionID, epoch: epoch)
        if let known = connections[broker], known.id == connection.id, known.epoch == epoch {
            return
        }
        connections[broker] = connection
        call.whenConnectionEnds { [weak self] in self?.ended(connection, of: broker) }
    }

    /// Asks every serving broker that has not spoken to this controller yet: one that died together
    /// with the last active controller is not worth a full session.
    func probeSilentBrokers() {
        eventLoop.preconditionInEventLoop()
        for broker in controller.committed.activeBrokers where connections[broker.id] == nil {
            probe(broker.id, epoch: broker.epoch, attempt: 0)
        }
    }

    func stop() {
        isStopped = true
        connections = [:]
    }

    private func ended(_ connection: Connection, of broker: NodeID) {
        // It may have come back over another one since.
        guard !isStopped, connections[broker]?.id == connection.id else { return }
        connections[broker] = nil
        guard controller.isActive else { return }
        probe(broker, epoch: connection.epoch, attempt: 0)
    }

    /// A fenced broker is asked too: while its session lasts, its next process is kept out.
    private func probe(_ broker: NodeID, epoch: BrokerEpoch, attempt: Int) {
        guard !isStopped, controller.isActive, connections[broker] == nil,
            let registration = controller.committed.brokers[broker], registration.epoch == epoch
        else { return }
        if let last = lastFenced[broker], .now - last < Self.pause {
            let rest = Self.pause - (.now - last)
            eventLoop.scheduleTask(in: .nanoseconds(max(0, rest.nanoseconds))) {
                self.probe(broker, epoch: epoch, attempt: attempt)
            }
            return
        }
        let client = RPCClient(
            host: registration.host, port: registration.port, eventLoop: eventLoop, logger: logger)
        client.unary(
            "/grpc.health.v1.Health/Check", [ByteBuffer()], timeout: .milliseconds(500)
        ) { [self] result in
            client.close()
            switch result {
            case .failure(let error) where error.isConnectionRefused:
                if !registration.fenced {
                    logger.info(
                        "a broker's connection broke and its port is closed: fencing it",
                        metadata: ["broker": "\(broker)"])
                    lastFenced[broker] = .now
                }
                controller.brokerGone(broker, epoch: epoch)
            case .failure, .success:
                let next = attempt + 1
                guard next < Self.probeDelays.count else { return }
                eventLoop.scheduleTask(in: Self.probeDelays[next]) {
                    self.probe(broker, epoch: epoch, attempt: next)
                }
            }
        }
    }
}
