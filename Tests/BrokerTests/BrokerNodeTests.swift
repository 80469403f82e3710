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
import Testing

@testable import Broker

/// Whole brokers with a whole controller, in this process.
@Suite(.serialized) struct BrokerNodeTests {
    private static let clusterID = "c"
    private let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private func freePort() async throws -> Int {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(host: "127.0.0.1", port: 0).get()
        let port = channel.localAddress?.port
        try await channel.close().get()
        return try #require(port)
    }

    private func format(_ path: String, _ id: NodeID) throws -> DirectoryID {
        let directory = DirectoryID.random()
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try MetaProperties(clusterID: Self.clusterID, nodeID: id, directoryID: directory)
            .write(to: path)
        return directory
    }

    /// A controller and a place for brokers' directories.
    private struct Cluster {
        var root: String
        var controller: Endpoint
    }

    private func withController(
        session: Duration = .seconds(3), _ body: (Cluster) async throws -> Void
    ) async throws {
        let root = NSTemporaryDirectory() + "broker-nodes-\(UniqueID.random())"
        let cluster = Cluster(
            root: root, controller: Endpoint(host: "127.0.0.1", port: try await freePort()))
        let path = root + "/controller"
        let directory = try format(path, 101)
        let voter = Voter(
            id: 101, directory: directory, host: "127.0.0.1", port: cluster.controller.port)
        try BootstrapSnapshot.write(
            to: path, voters: VoterSet([voter]),
            records: [
                MetadataRecord.featureLevel(
                    name: MetadataFeatures.metadataVersion,
                    level: MetadataFeatures.supported.upperBound
                ).encoded()
            ])
        var configuration = NodeConfiguration(nodeID: 101, role: .controller)
        configuration.bootstrapServers = [cluster.controller]
        configuration.listener = cluster.controller
        configuration.advertisedListener = cluster.controller
        configuration.metadataLogDirectory = path
        configuration.logDirectories = [path]
        configuration.brokerSessionTimeout = session
        let controller = ControllerNode(configuration: configuration, logger: logger)
        let result: Result<Void, any Error>
        do {
            try await controller.start()
            try await body(cluster)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await controller.stop()
        try? FileManager.default.removeItem(atPath: root)
        try result.get()
    }

    private func broker(
        _ id: NodeID, in folder: String, of cluster: Cluster, port: Int,
        session: Duration = .seconds(3)
    ) throws -> BrokerNode {
        let path = "\(cluster.root)/\(folder)"
        if try MetaProperties.read(from: path) == nil { _ = try format(path, id) }
        var configuration = NodeConfiguration(nodeID: id)
        configuration.bootstrapServers = [cluster.controller]
        configuration.listener = Endpoint(host: "127.0.0.1", port: port)
        configuration.advertisedListener = Endpoint(host: "127.0.0.1", port: port)
        configuration.logDirectories = [path]
        configuration.metadataLogDirectory = path
        configuration.networkThreads = 1
        configuration.brokerHeartbeatInterval = .milliseconds(50)
        configuration.brokerSessionTimeout = session
        return BrokerNode(configuration: configuration, logger: logger)
    }

    private func call<Answer: Message>(
        _ port: Int, _ method: String, _ request: some Message,
        returning: Answer.Type = Answer.self
    ) async throws -> Answer {
        let client = RPCClient(
            host: "127.0.0.1", port: port,
            eventLoop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger)
        defer { client.close() }
        return try await client.call("/millrace.v1." + method, request, timeout: .seconds(20))
    }

    private func registration(_ port: Int) async throws -> WireClusterNode {
        let answer: WireDescribeClusterResponse = try await call(
            port, "Admin/DescribeCluster", WireDescribeClusterRequest())
        return try #require(answer.nodes.first { $0.role == "broker" })
    }

    private func produce(_ value: String, _ port: Int) async throws {
        var request = WireProduceRequest()
        request.topic = "t"
        request.records = [.with { $0.value.text = value }]
        while true {
            do {
                let _: WireProduceResponse = try await call(port, "Broker/Produce", request)
                return
            } catch let error as RPCError
                where [.leaderNotAvailable, .unknownTopicOrPartition].contains(error.code)
            {
                // It is about to hear of the topic, and to lead it.
                try await Task.sleep(for: .milliseconds(5))
            }
        }
    }

    @Test(
        "A broker registers, serves, stops in order, and comes back as somebody else with its records",
        .timeLimit(.minutes(1)))
    func comesAndGoes() async throws {
        try await withController { cluster in
            let port = try await freePort()
            let first = try broker(1, in: "b", of: cluster, port: port)
            try await first.start()
            var create = WireCreateTopicRequest()
            create.name = "t"
            let _: WireCreateTopicResponse = try await call(port, "Admin/CreateTopic", create)
            try await produce("x", port)
            let before = try await registration(port)
            #expect(before.id == 1 && !before.fenced && before.leaders == 1)
            await first.stop()
            let gone = try await registration(cluster.controller.port)
            #expect(gone.fenced && gone.leaders == 0)

            let second = try broker(1, in: "b", of: cluster, port: port)
            try await second.start()
            let after = try await registration(port)
            #expect(after.brokerEpoch > before.brokerEpoch && !after.fenced && after.leaders == 1)
            try await produce("y", port)
            await second.stop()
        }
    }

    @Test(
        "C2: a second process under the id of a live broker is refused, and the first goes on",
        .timeLimit(.minutes(1)))
    func duplicateNodeID() async throws {
        try await withController(session: .milliseconds(500)) { cluster in
            let port = try await freePort()
            let first = try broker(
                1, in: "b", of: cluster, port: port, session: .milliseconds(500))
            try await first.start()
            let epoch = try await registration(port).brokerEpoch
            let second = try broker(
                1, in: "other", of: cluster, port: try await freePort(),
                session: .milliseconds(500))
            await #expect {
                try await second.start()
            } throws: { error in
                (error as? RPCError)?.code == .duplicateBrokerRegistration
            }
            await second.stop()
            let now = try await registration(port)
            #expect(now.brokerEpoch == epoch && !now.fenced)
            await first.stop()
        }
    }

    @Test("A broker that is stopped before any controller answers stops", .timeLimit(.minutes(1)))
    func stopWithoutController() async throws {
        let root = NSTemporaryDirectory() + "broker-nodes-\(UniqueID.random())"
        defer { try? FileManager.default.removeItem(atPath: root) }
        let cluster = Cluster(
            root: root, controller: Endpoint(host: "127.0.0.1", port: try await freePort()))
        let port = try await freePort()
        let node = try broker(1, in: "b", of: cluster, port: port)
        let starting = Task { try await node.start() }
        // It listens before it registers.
        while true {
            do {
                let _: WireMetadataResponse = try await call(
                    port, "Broker/Metadata", WireMetadataRequest())
                break
            } catch {
                try await Task.sleep(for: .milliseconds(10))
            }
        }
        await node.stop()
        await #expect(throws: (any Error).self) { try await starting.value }
    }
}
