package import Configuration
internal import Essentials
package import Logging
internal import Metadata
internal import NIOCore
internal import NIOPosix
internal import Quorum
internal import RPC
internal import Storage
internal import Synchronization

/// One controller process: a voter of the metadata quorum, and the active controller while it leads.
///
/// Everything runs on one event loop: connections, Raft, decisions. Only disk writes do not.
package final class ControllerNode: Sendable {
    private enum State {
        case new
        case running(ControllerParts, RPCServer)
        case stopped
    }

    private let configuration: NodeConfiguration
    private let logger: Logger
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    // A lock, because starting and stopping may come from different tasks; held for a moment.
    private let state = Mutex(State.new)
    private let failureHandler = Mutex<(@Sendable (any Error) -> Void)?>(nil)

    package init(configuration: NodeConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
    }

    /// Called when the node has stopped by itself, because its metadata log is damaged, can't be
    /// written, or holds what this release does not understand.
    ///
    /// Set before `start`.
    package var onFailure: (@Sendable (any Error) -> Void)? {
        get { failureHandler.withLock { $0 } }
        set { failureHandler.withLock { $0 = newValue } }
    }

    /// The port it listens at; `nil` before `start`.
    package var port: Int? {
        state.withLock { state in
            if case .running(_, let server) = state { return server.port }
            return nil
        }
    }

    /// Opens the metadata log, joins the quorum and serves; a node is started once.
    ///
    /// - Throws: when the directory is not this node's, the log is damaged, or the port is taken.
    package func start() async throws {
        let properties = try MetaProperties.check(
            configuration.metadataLogDirectory, nodeID: configuration.nodeID)
        let loop = group.next()
        let parts = ControllerParts(
            configuration: configuration, properties: properties, eventLoop: loop, logger: logger
        ) { [weak self] in self?.fail($0) }
        let router = try await loop.submit { try parts.start() }.get()
        let server: RPCServer
        do {
            server = try await RPCServer.start(
                host: configuration.listener.host.isEmpty ? "0.0.0.0" : configuration.listener.host,
                port: configuration.listener.port, router: router, group: group, logger: logger)
        } catch {
            await parts.stop()
            throw error
        }
        let isRunning = state.withLock { state in
            guard case .new = state else { return false }
            state = .running(parts, server)
            return true
        }
        if !isRunning {
            await server.stop(grace: .zero)
            await parts.stop()
        }
    }

    /// Stops what can't go on, and says so.
    private func fail(_ error: any Error) {
        let handler = failureHandler.withLock { $0 }
        // What runs now runs on the loop that is to be stopped.
        Task {
            await stop()
            handler?(error)
        }
    }

    /// Hands the leadership over if it has it, lets calls end, and closes everything.
    package func stop() async {
        let old = state.withLock { state in
            defer { state = .stopped }
            return state
        }
        switch old {
        case .stopped: return
        case .new: break
        case .running(let parts, let server):
            await parts.stop()
            await server.stop(grace: .milliseconds(500))
        }
        try? await group.shutdownGracefully()
    }
}
