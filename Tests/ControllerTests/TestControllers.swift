import Configuration
import Controller
import Essentials
import Foundation
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import Quorum
import RPC
import Raft
import Storage
import SwiftProtobuf
import Synchronization
import Testing

/// Controllers in this process, on loopback, with directories of their own.
final class TestControllers: Sendable {
    static let clusterID = "test-cluster"

    struct Member: Hashable, Sendable {
        var id: NodeID
        var endpoint: Endpoint
    }

    /// The first voters.
    let voters: [Member]
    /// Controllers that join later, once they are started.
    let joining: [Member]
    private let directory: String
    private let nodes = Mutex<[NodeID: ControllerNode]>([:])
    private let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    private let clients: [NodeID: RPCClient]

    private let sessionTimeout: Duration
    private let level: Int32
    let directoryIDs: [NodeID: DirectoryID]

    private init(
        count: Int, joining: Int, level: Int32, sessionTimeout: Duration
    ) async throws {
        self.sessionTimeout = sessionTimeout
        self.level = level
        directory = NSTemporaryDirectory() + "millrace-controllers-\(UUID())"
        let ports = try await Self.freePorts(count + joining)
        let all = ports.enumerated().map { index, port in
            Member(
                id: NodeID(Int32(101 + index)),
                endpoint: Endpoint(host: "127.0.0.1", port: port))
        }
        voters = Array(all.prefix(count))
        self.joining = Array(all.dropFirst(count))
        directoryIDs = Dictionary(
            uniqueKeysWithValues: all.map { ($0.id, DirectoryID.random()) })
        var clients: [NodeID: RPCClient] = [:]
        for voter in all {
            clients[voter.id] = RPCClient(
                host: voter.endpoint.host, port: voter.endpoint.port,
                eventLoop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger)
        }
        self.clients = clients
    }

    /// Starts `count` controllers, runs `body`, and stops those that still run.
    static func run(
        _ count: Int, joining: Int = 0, level: Int32 = MetadataFeatures.supported.upperBound,
        sessionTimeout: Duration = .seconds(2), _ body: (TestControllers) async throws -> Void
    ) async throws {
        let cluster = try await TestControllers(
            count: count, joining: joining, level: level, sessionTimeout: sessionTimeout)
        let result: Result<Void, any Error>
        do {
            for voter in cluster.voters { try await cluster.start(voter.id) }
            try await body(cluster)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        for node in cluster.voters + cluster.joining { await cluster.stop(node.id) }
        for client in cluster.clients.values { client.close() }
        try? FileManager.default.removeItem(atPath: cluster.directory)
        try result.get()
    }

    /// Starts a controller on what its directory holds.
    func start(_ id: NodeID) async throws {
        guard let voter = (voters + joining).first(where: { $0.id == id }) else { return }
        var configuration = NodeConfiguration(nodeID: id, role: .controller)
        configuration.bootstrapServers = voters.map(\.endpoint)
        configuration.listener = voter.endpoint
        configuration.advertisedListener = voter.endpoint
        configuration.metadataLogDirectory = directory + "/\(id)"
        configuration.logDirectories = [configuration.metadataLogDirectory]
        configuration.quorumElectionTimeout = .milliseconds(300)
        configuration.brokerSessionTimeout = sessionTimeout
        if try MetaProperties.read(from: configuration.metadataLogDirectory) == nil {
            try FileManager.default.createDirectory(
                atPath: configuration.metadataLogDirectory, withIntermediateDirectories: true)
            let set = VoterSet(
                voters.map {
                    Voter(
                        id: $0.id, directory: directoryIDs[$0.id], host: $0.endpoint.host,
                        port: $0.endpoint.port)
                })
            let level = MetadataRecord.featureLevel(
                name: MetadataFeatures.metadataVersion, level: level)
            if voters.contains(voter) {
                try BootstrapSnapshot.write(
                    to: configuration.metadataLogDirectory, voters: set,
                    records: [level.encoded()])
            }
            try MetaProperties(
                clusterID: Self.clusterID, nodeID: id, directoryID: directoryIDs[id] ?? .random()
            ).write(to: configuration.metadataLogDirectory)
        }
        let node = ControllerNode(configuration: configuration, logger: logger)
        try await node.start()
        nodes.withLock { $0[id] = node }
    }

    func stop(_ id: NodeID) async {
        let node = nodes.withLock { $0.removeValue(forKey: id) }
        await node?.stop()
    }

    func client(_ id: NodeID) throws -> RPCClient { try #require(clients[id]) }

    /// Any controller takes it.
    func admin<A: Message>(
        _ method: String, _ request: some Message, at id: NodeID, returning: A.Type = A.self,
        timeout: Duration = .seconds(20)
    ) async throws -> A {
        try await client(id).call("/millrace.v1." + method, request, timeout: timeout)
    }

    /// The controller that is active, once there is one; asks `id` or the first that runs.
    func active(asking id: NodeID? = nil) async throws -> NodeID {
        let running = nodes.withLock { nodes in nodes.keys.min() }
        let answer: WireDescribeClusterResponse = try await admin(
            "Admin/DescribeCluster", WireDescribeClusterRequest(),
            at: try #require(id ?? running))
        return NodeID(answer.activeController)
    }

    private static func freePorts(_ count: Int) async throws -> [Int] {
        var channels: [any Channel] = []
        for _ in 0..<count {
            channels.append(
                try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .bind(host: "127.0.0.1", port: 0).get())
        }
        let ports = channels.compactMap { $0.localAddress?.port }
        for channel in channels { try await channel.close().get() }
        return ports
    }
}

/// A broker as far as the controllers see one: it registers, heartbeats, and has a port.
final class TestBroker: Sendable {
    let id: NodeID
    private let server: RPCServer
    private let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    private let client: Mutex<RPCClient?> = Mutex(nil)
    let epoch: BrokerEpoch

    /// Registers with the active controller and heartbeats until it is unfenced.
    init(_ id: NodeID, in cluster: TestControllers, serves: Bool = true) async throws {
        self.id = id
        server = try await RPCServer.start(
            host: "127.0.0.1", port: 0, router: Router(),
            group: MultiThreadedEventLoopGroup.singleton, logger: logger)
        var request = WireRegisterBrokerRequest()
        request.clusterID = TestControllers.clusterID
        request.brokerID = id.rawValue
        request.incarnationID = Data(UniqueID.random().bytes)
        request.host = "127.0.0.1"
        request.port = Int32(server.port)
        request.previousBrokerEpoch = -1
        request.minFeatureLevel = MetadataFeatures.supported.lowerBound
        request.maxFeatureLevel = MetadataFeatures.supported.upperBound
        let voter = try #require(cluster.voters.first)
        let active = try await cluster.active(asking: voter.id)
        let endpoint = try #require(cluster.voters.first { $0.id == active }).endpoint
        let client = RPCClient(
            host: endpoint.host, port: endpoint.port,
            eventLoop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger)
        epoch = try await Self.register(request, client)
        self.client.withLock { $0 = client }
        while serves, try await heartbeat().isFenced {}
    }

    private static func register(
        _ request: WireRegisterBrokerRequest, _ client: RPCClient
    ) async throws -> BrokerEpoch {
        while true {
            do {
                let answer: WireRegisterBrokerResponse = try await client.call(
                    "/millrace.internal.v1.Controller/RegisterBroker", request,
                    timeout: .seconds(10))
                return BrokerEpoch(answer.brokerEpoch)
            } catch {
                guard error.code == .duplicateBrokerRegistration else { throw error }
                try await Task.sleep(for: .milliseconds(10))
            }
        }
    }

    @discardableResult
    func heartbeat() async throws -> WireHeartbeatResponse {
        var request = WireHeartbeatRequest()
        request.brokerID = id.rawValue
        request.brokerEpoch = epoch.rawValue
        request.appliedOffset = epoch.rawValue + 1
        let client = try #require(self.client.withLock { $0 })
        return try await client.call(
            "/millrace.internal.v1.Controller/Heartbeat", request, timeout: .seconds(10))
    }

    func producerIDs(
        epoch: Int64? = nil
    ) async throws -> WireAllocateProducerIdsResponse {
        var request = WireAllocateProducerIdsRequest()
        request.brokerID = id.rawValue
        request.brokerEpoch = epoch ?? self.epoch.rawValue
        let client = try #require(self.client.withLock { $0 })
        return try await client.call(
            "/millrace.internal.v1.Controller/AllocateProducerIds", request, timeout: .seconds(10))
    }

    func report(
        _ replicas: [(TopicID, Int32, WireReportReplicasRequest.State)]
    ) async throws -> WireReportReplicasResponse {
        var request = WireReportReplicasRequest()
        request.brokerID = id.rawValue
        request.brokerEpoch = epoch.rawValue
        request.replicas = replicas.map { topic, partition, state in
            .with {
                $0.topicID = Data(topic.bytes)
                $0.partition = partition
                $0.state = state
            }
        }
        let client = try #require(self.client.withLock { $0 })
        return try await client.call(
            "/millrace.internal.v1.Controller/ReportReplicas", request, timeout: .seconds(10))
    }

    /// The process is gone: its port is closed, and its connection breaks.
    func die() async {
        await server.stop(grace: .zero)
        client.withLock { $0 }?.close()
    }

    /// Only the connection breaks.
    func disconnect() {
        client.withLock { $0 }?.close()
    }
}
