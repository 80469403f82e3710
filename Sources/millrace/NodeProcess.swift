import Configuration
import Essentials
import Glibc
import Logging
import NIOCore
import Storage

/// What runs in a `millrace controller` or `millrace broker`.
protocol Node: AnyObject, Sendable {
    /// Called when the running node can't do its work any more; set before `start`.
    var onFailure: (@Sendable (any Error) -> Void)? { get set }
    func start() async throws
    func stop() async
}

/// The life of a process with one node: check, start, say so, run until told to stop.
struct NodeProcess {
    let configuration: NodeConfiguration
    /// The options it was started with, to be shown in messages.
    let options: NodeOptions
    /// See `StopRequests.listen`.
    let parentPipe: Int32?

    private enum Event: Sendable {
        case started
        case failed(any Error)
        /// After it had started, or while it did: a disk or the metadata is broken.
        case broke(any Error)
        case stop(reason: String)
    }

    func run(_ makeNode: (NodeConfiguration, Logger) throws -> any Node) async throws {
        let (events, continuation) = AsyncStream.makeStream(of: Event.self)
        StopRequests.listen(parentPipe: parentPipe) { continuation.yield(.stop(reason: $0)) }
        try checkDirectories()
        try checkPort()
        let logger = makeLogger()
        let node = try makeNode(configuration, logger)
        node.onFailure = { continuation.yield(.broke($0)) }
        let starting = Task {
            do {
                try await node.start()
                continuation.yield(.started)
            } catch {
                continuation.yield(.failed(error))
            }
        }
        loop: for await event in events {
            switch event {
            case .started:
                print("\(name) is ready on \(configuration.listener)")
                fflush(nil)
            case .failed(let error):
                await node.stop()
                throw CommandFailure("\(name) cannot start: \(oneLine(error))")
            case .broke(let error):
                starting.cancel()
                await node.stop()
                throw CommandFailure("\(name) had to stop: \(oneLine(error))")
            case .stop(let reason):
                logger.info("stopping", metadata: ["reason": "\(reason)"])
                starting.cancel()
                await node.stop()
                logger.info("stopped")
                break loop
            }
        }
    }

    private var name: String { "\(configuration.role.rawValue) \(configuration.nodeID)" }

    private func makeLogger() -> Logger {
        let level = Logger.Level(rawValue: configuration.logLevel.rawValue) ?? .info
        let label = "\(configuration.role.rawValue)-\(configuration.nodeID)"
        return Logger(label: label) { LineLogHandler(label: $0, level: level) }
    }

    private func checkDirectories() throws {
        var clusterID: String?
        var directories = configuration.allDirectories
        if configuration.role == .broker {
            // It can do without some of its log directories, if it must.
            directories = [configuration.metadataLogDirectory]
            do throws(MetaPropertiesError) {
                let found = try LogDirectorySurvey(
                    of: configuration.logDirectories,
                    required: configuration.metadataLogDirectory, nodeID: configuration.nodeID,
                    checksWriting: true)
                clusterID = found.usable.first?.properties.clusterID
            } catch {
                guard case .notFormatted = error else { throw CommandFailure("\(error)") }
                directories = configuration.allDirectories
            }
        }
        for directory in directories {
            do throws(MetaPropertiesError) {
                let properties = try MetaProperties.check(
                    directory, nodeID: configuration.nodeID, clusterID: clusterID)
                clusterID = properties.clusterID
                try MetaProperties.verifyWritable(directory)
            } catch {
                guard case .notFormatted = error else { throw CommandFailure("\(error)") }
                // The command that was typed may be all that says what this node is.
                let role = "process.roles=\(configuration.role.rawValue)"
                let isImplied =
                    configuration.origins["process.roles"] == .commandLine(argument: role)
                    && !options.overrides.contains(role)
                throw CommandFailure(
                    "\(directory) is not formatted; run 'millrace storage format"
                        + options.asTyped + (isImplied ? " --set \(role)" : "")
                        + (configuration.role == .controller ? " --no-initial-controllers" : "")
                        + " --cluster-id ID' first, with the id of the cluster"
                        + (configuration.role == .controller
                            ? " (or with --standalone, if this controller begins a new one)" : ""))
            }
        }
    }

    /// Finds a taken port before anything else is started, while the message can be short.
    private func checkPort() throws(CommandFailure) {
        let listener = configuration.listener
        guard listener.port > 0, PortProbe.isTaken(listener) else { return }
        throw CommandFailure(
            "port \(listener.port) is taken by another process; stop that one, "
                + "or set listeners to another port")
    }

    private func oneLine(_ error: any Error) -> String {
        if let error = error as? IOError, error.errnoCode == EADDRINUSE {
            return "its port \(configuration.listener.port) is taken by another process"
        }
        return "\(error)".split { $0.isNewline }.joined(separator: " ")
    }
}

/// Asks the system whether a port can be listened on.
enum PortProbe {
    /// Whether another process listens on this address; `false` where that cannot be told.
    static func isTaken(_ endpoint: Endpoint) -> Bool {
        guard
            let address = try? SocketAddress.makeAddressResolvingHost(
                endpoint.bindHost, port: endpoint.port)
        else { return false }
        let family = address.protocol == .inet6 ? AF_INET6 : AF_INET
        let descriptor = socket(family, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        // As a server does: connections that still linger from an earlier one are no hindrance.
        var yes: Int32 = 1
        setsockopt(
            descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        let result = address.withSockAddr { pointer, size in
            bind(descriptor, pointer, socklen_t(size))
        }
        // Binding alone succeeds next to a listener that also reuses addresses on some systems.
        return result != 0 ? errno == EADDRINUSE : listen(descriptor, 1) != 0
    }
}
