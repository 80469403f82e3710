internal import Essentials
internal import HashTreeCollections
internal import Logging
internal import Metadata
internal import NIOCore
internal import RPC
internal import Synchronization

/// One client connection to each other broker, for calls that are passed on to a partition's leader.
final class BrokerPeers: Sendable {
    private struct Peer {
        var host: String
        var port: Int
        var client: RPCClient
    }

    private let eventLoop: any EventLoop
    private let logger: Logger
    // A lock, because any connection's loop may pass a call on; held for a look-up only.
    private let peers = Mutex<[NodeID: Peer]>([:])

    init(eventLoop: any EventLoop, logger: Logger) {
        self.eventLoop = eventLoop
        self.logger = logger
    }

    /// The connection to `broker` at the address it registered; `nil` while it is not known.
    func client(for broker: NodeID, in image: MetadataImage) -> RPCClient? {
        guard let registration = image.brokers[broker] else { return nil }
        let (client, old): (RPCClient, RPCClient?) = peers.withLock { peers in
            let known = peers[broker]
            if let known, known.host == registration.host, known.port == registration.port {
                return (known.client, nil)
            }
            let client = RPCClient(
                host: registration.host, port: registration.port, eventLoop: eventLoop,
                logger: logger)
            peers[broker] = Peer(host: registration.host, port: registration.port, client: client)
            return (client, known?.client)
        }
        old?.close()
        return client
    }

    func close() {
        let clients = peers.withLock { peers in
            defer { peers = [:] }
            return peers.values.map(\.client)
        }
        for client in clients { client.close() }
    }
}
