import Essentials
import Foundation
import Protocol
import RPC
import SwiftProtobuf
import Testing

/// Configs, features, producer ids and brokers that are forgotten, over the wire.
@Suite(.serialized) struct AdminConfigTests {
    private func alter(
        _ cluster: TestControllers, _ type: WireConfigResourceType, _ name: String,
        _ changes: [(String, WireConfigAlteration.Operation, String)], validateOnly: Bool = false
    ) async throws {
        var request = WireAlterConfigsRequest()
        request.resourceType = type
        request.resourceName = name
        request.validateOnly = validateOnly
        request.changes = changes.map { key, operation, value in
            .with {
                $0.name = key
                $0.operation = operation
                $0.value = value
            }
        }
        let _: WireAlterConfigsResponse = try await cluster.admin(
            "Admin/AlterConfigs", request, at: 101)
    }

    private func describe(
        _ cluster: TestControllers, _ type: WireConfigResourceType, _ name: String,
        _ names: [String]
    ) async throws -> [WireConfigEntry] {
        var request = WireDescribeConfigsRequest()
        request.resourceType = type
        request.resourceName = name
        request.names = names
        let answer: WireDescribeConfigsResponse = try await cluster.admin(
            "Admin/DescribeConfigs", request, at: 101)
        return answer.entries
    }

    private func code(_ body: () async throws -> Void) async -> ErrorCode? {
        do {
            try await body()
            return nil
        } catch {
            return (error as? RPCError)?.code
        }
    }

    @Test func configsAreAlteredAndDescribed() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            var create = WireCreateTopicRequest()
            create.name = "t"
            let _: WireCreateTopicResponse = try await cluster.admin(
                "Admin/CreateTopic", create, at: 101)

            let key = "max.message.bytes"
            var entry = try #require(try await describe(cluster, .topic, "t", [key]).first)
            #expect(entry.source == "default" && entry.value == "1048588")
            #expect(!entry.documentation.isEmpty)
            try await alter(cluster, .cluster, "", [(key, .set, "2000")])
            entry = try #require(try await describe(cluster, .topic, "t", [key]).first)
            #expect(entry.source == "cluster" && entry.value == "2000")
            try await alter(cluster, .topic, "t", [(key, .set, "3000")])
            entry = try #require(try await describe(cluster, .topic, "t", [key]).first)
            #expect(entry.source == "topic" && entry.value == "3000")
            #expect(entry.defaultValue == "2000")
            // Checked, and not done.
            try await alter(cluster, .topic, "t", [(key, .set, "4000")], validateOnly: true)
            try await alter(cluster, .topic, "t", [(key, .delete, "")])
            entry = try #require(try await describe(cluster, .topic, "t", [key]).first)
            #expect(entry.source == "cluster" && entry.value == "2000")

            try await alter(cluster, .topic, "t", [("cleanup.policy", .append, "compact")])
            let policy = try await describe(cluster, .topic, "t", ["cleanup.policy"])
            #expect(policy.first?.value == "delete,compact")
            try await alter(
                cluster, .broker, "1", [("replica.lag.time.max.ms", .set, "5000")])
            let lag = try await describe(cluster, .broker, "1", ["replica.lag.time.max.ms"])
            #expect(lag.first?.source == "broker" && lag.first?.value == "5000")
            #expect(try await describe(cluster, .topic, "t", []).count > 5)
            await broker.die()
        }
    }

    @Test func alterationsThatMakeNoSenseAreRefused() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            let key = "max.message.bytes"
            #expect(
                await code { try await alter(cluster, .topic, "none", [(key, .set, "1")]) }
                    == .unknownTopicOrPartition)
            #expect(
                await code { try await alter(cluster, .cluster, "", [(key, .set, "many")]) }
                    == .invalidConfig)
            #expect(
                await code { try await alter(cluster, .cluster, "", [("nonsense", .set, "1")]) }
                    == .invalidConfig)
            #expect(
                await code { try await alter(cluster, .broker, "x", [(key, .set, "1")]) }
                    == .invalidRequest)
            #expect(
                await code { try await alter(cluster, .unspecified, "", [(key, .set, "1")]) }
                    == .invalidRequest)
            #expect(
                await code { try await alter(cluster, .cluster, "", []) } == .invalidRequest)
            #expect(
                await code {
                    try await alter(cluster, .cluster, "", [(key, .UNRECOGNIZED(9), "1")])
                } == .invalidRequest)
            // Of two changes with one mistake neither is made.
            #expect(
                await code {
                    try await alter(
                        cluster, .cluster, "", [(key, .set, "2000"), ("nonsense", .set, "1")])
                } == .invalidConfig)
            let entry = try await describe(cluster, .cluster, "", [key]).first
            #expect(entry?.source == "default")
            await broker.die()
        }
    }

    @Test("Feature levels are described and raised, and what they bring is refused before")
    func features() async throws {
        try await TestControllers.run(1, level: 1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            #expect(await code { _ = try await broker.producerIDs() } == .unsupportedVersion)
            let before: WireDescribeFeaturesResponse = try await cluster.admin(
                "Admin/DescribeFeatures", WireDescribeFeaturesRequest(), at: 101)
            let feature = try #require(before.features.first)
            #expect(feature.name == "metadata.version" && feature.finalizedLevel == 1)
            #expect(feature.minSupportedLevel == 1 && feature.maxSupportedLevel == 3)

            var update = WireUpdateFeaturesRequest()
            #expect(
                await code {
                    let _: WireUpdateFeaturesResponse = try await cluster.admin(
                        "Admin/UpdateFeatures", update, at: 101)
                } == .invalidRequest)
            update.updates = [.with { $0.name = "metadata.version" }]
            update.validateOnly = true
            let checked: WireUpdateFeaturesResponse = try await cluster.admin(
                "Admin/UpdateFeatures", update, at: 101)
            #expect(checked.features.first?.finalizedLevel == 3)
            #expect(await code { _ = try await broker.producerIDs() } == .unsupportedVersion)
            update.validateOnly = false
            let done: WireUpdateFeaturesResponse = try await cluster.admin(
                "Admin/UpdateFeatures", update, at: 101)
            #expect(done.features.first?.finalizedLevel == 3)
            let after: WireDescribeFeaturesResponse = try await cluster.admin(
                "Admin/DescribeFeatures", WireDescribeFeaturesRequest(), at: 101)
            #expect(after.features.first?.finalizedLevel == 3)
            update.updates[0].level = 4
            #expect(
                await code {
                    let _: WireUpdateFeaturesResponse = try await cluster.admin(
                        "Admin/UpdateFeatures", update, at: 101)
                } == .featureUpdateFailed)

            let first = try await broker.producerIDs()
            let second = try await broker.producerIDs()
            #expect(first.count == 1000 && second.count == 1000)
            #expect(second.firstProducerID == first.firstProducerID + 1000)
            await broker.die()
        }
    }

    @Test("C1: nobody gets producer ids under the epoch of an earlier process")
    func producerIDsOfAStaleEpoch() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            #expect(
                await code { _ = try await broker.producerIDs(epoch: broker.epoch.rawValue + 1) }
                    == .staleBrokerEpoch)
            await broker.die()
        }
    }

    @Test("A broker that is gone and holds nothing is forgotten; one that lives is not")
    func unregister() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            func unregister(_ id: Int32?) async -> ErrorCode? {
                await code {
                    let _: WireUnregisterBrokerResponse = try await cluster.admin(
                        "Admin/UnregisterBroker",
                        WireUnregisterBrokerRequest.with { if let id { $0.id = id } }, at: 101)
                }
            }
            #expect(await unregister(1) == .invalidRequest)
            #expect(await unregister(nil) == .invalidRequest)
            #expect(await unregister(9) == .brokerIDNotRegistered)
            await broker.die()
            while await unregister(1) == .invalidRequest {
                try await Task.sleep(for: .milliseconds(20))
            }
            #expect(await unregister(1) == .brokerIDNotRegistered)
            let cluster: WireDescribeClusterResponse = try await cluster.admin(
                "Admin/DescribeCluster", WireDescribeClusterRequest(), at: 101)
            #expect(cluster.nodes.map(\.role) == ["controller"])
        }
    }
}
