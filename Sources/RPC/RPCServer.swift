internal import Essentials
internal import HTTP2
package import Logging
package import NIOCore
internal import NIOPosix
internal import Synchronization

/// A port that answers calls.
package final class RPCServer: Sendable {
    /// The port it listens at; the one the system chose if 0 was asked for.
    package let port: Int
    private let listener: any Channel
    private let connections: ServerConnections

    private init(listener: any Channel, port: Int, connections: ServerConnections) {
        self.listener = listener
        self.port = port
        self.connections = connections
    }

    /// Listens at `host` and `port` and serves `router`'s methods on `group`'s event loops.
    ///
    /// - Throws: what the system says, such as `EADDRINUSE` in an `IOError`.
    package static func start(
        host: String, port: Int, router: Router, group: any EventLoopGroup,
        limits: RPCLimits = RPCLimits(), logger: Logger
    ) async throws -> RPCServer {
        let connections = ServerConnections()
        let routes = RouteTable(router)
        let memory = RequestMemory(limit: limits.maxBufferedRequestBytesInAll)
        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.writeBufferWaterMark, value: SocketOptions.writeBufferWaterMark)
            .childChannelOption(.recvAllocator, value: SocketOptions.recvAllocator)
            .childChannelInitializer { channel in
                connections.add(channel)
                return channel.eventLoop.makeCompletedFuture {
                    let portGuard = PortGuard(timeout: limits.prefaceTimeout, logger: logger) {
                        channel in
                        let delegate = ServerConnection(
                            routes: routes, limits: limits, memory: memory, channel: channel,
                            logger: logger)
                        let connection = HTTP2Connection(
                            role: .server, settings: limits.http2, eventLoop: channel.eventLoop,
                            delegate: delegate)
                        connections.add(connection, of: channel)
                        return connection
                    }
                    try channel.pipeline.syncOperations.addHandler(portGuard)
                }
            }
            .bind(host: host, port: port).get()
        return RPCServer(
            listener: listener, port: listener.localAddress?.port ?? port,
            connections: connections)
    }

    /// Takes no new connections and calls, lets those that run end for up to `grace`, then closes.
    package func stop(grace: Duration) async {
        try? await listener.close().get()
        await connections.stop(grace: grace)
    }
}

/// Settings of our sockets, for both ends.
enum SocketOptions {
    /// How much we hand the system before asking it whether more would do.
    static let writeBufferWaterMark = ChannelOptions.Types.WriteBufferWaterMark(
        low: 512 << 10, high: 1 << 20)
    static var recvAllocator: AdaptiveRecvByteBufferAllocator {
        AdaptiveRecvByteBufferAllocator(minimum: 4 << 10, initial: 16 << 10, maximum: 512 << 10)
    }
}

/// The open connections of a server, for its end.
private final class ServerConnections: Sendable {
    private struct Entry {
        var channel: any Channel
        var connection: HTTP2Connection?
    }

    private struct State {
        var entries: [ObjectIdentifier: Entry] = [:]
        var isStopping = false
    }

    /// A lock, because connections come and go on all event loops; taken once each time.
    private let state = Mutex(State())

    func add(_ channel: any Channel) {
        let id = ObjectIdentifier(channel)
        let isStopping = state.withLock { state in
            state.entries[id] = Entry(channel: channel)
            return state.isStopping
        }
        channel.closeFuture.whenComplete { _ in
            self.state.withLock { state in _ = state.entries.removeValue(forKey: id) }
        }
        if isStopping { channel.close(promise: nil) }
    }

    func add(_ connection: HTTP2Connection, of channel: any Channel) {
        let isStopping = state.withLock { state in
            state.entries[ObjectIdentifier(channel)]?.connection = connection
            return state.isStopping
        }
        if isStopping { channel.close(promise: nil) }
    }

    func stop(grace: Duration) async {
        let entries = state.withLock { state in
            state.isStopping = true
            return Array(state.entries.values)
        }
        for entry in entries {
            let channel = entry.channel
            channel.eventLoop.execute {
                if let connection = entry.connection {
                    connection.shutDownGracefully()
                } else {
                    channel.close(promise: nil)
                }
            }
        }
        for entry in entries {
            let channel = entry.channel
            let timer = channel.eventLoop.scheduleTask(in: TimeAmount(bounded: grace)) {
                channel.close(promise: nil)
            }
            // All timers start together: this loop takes `grace` in all, or little more.
            channel.closeFuture.whenComplete { _ in timer.cancel() }
        }
        for entry in entries {
            try? await entry.channel.closeFuture.get()
        }
    }
}
