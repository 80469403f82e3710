import Configuration
import Essentials
import Metadata
import NIOCore
import RPC
import Replication
import Storage
import Testing

@testable import Broker

@Suite("Replicas take the broker's settings")
struct ReplicaSettingsTests {
    @Test func whatTheBrokerIsConfiguredWithHoldsForTopicsWithoutTheirOwn() async throws {
        var configuration = NodeConfiguration()
        configuration.nodeID = 1
        configuration.flushPolicy = .os
        configuration.flushInterval = .milliseconds(123)
        configuration.logSegmentBytes = 1_048_576
        configuration.messageMaxBytes = 2_000
        configuration.replicaLagTimeMax = .seconds(40)
        configuration.replicaFetchMaxWait = .milliseconds(250)
        configuration.replicaFetchResponseMaxBytes = 5_000_000
        let options = ReplicaManager.Options(
            configuration, clusterID: "test",
            directories: try LogDirectorySurvey(of: [], required: "", nodeID: 1))
        #expect(options.maxReplicaLag == .seconds(40))
        #expect(options.maxFetchWait == .milliseconds(250))
        #expect(options.maxFetchBytes == 5_000_000)
        #expect(options.flushInterval == .milliseconds(123))
        try await ReplicaCluster.run(
            brokers: [1],
            configure: { given in
                let directories = given.logDirectories
                given = options
                given.logDirectories = directories
            }
        ) { cluster in
            _ = try cluster.createTopic("plain", replicas: [1])
            cluster.commit([
                .config(
                    ConfigChange(
                        resource: .topic("own"), name: "flush.policy", value: "interval")),
                .config(
                    ConfigChange(
                        resource: .topic("own"), name: "segment.bytes", value: "2000000")),
            ])
            _ = try cluster.createTopic("own", replicas: [1])
            for topic in ["plain", "own"] {
                _ = try await cluster.produce(["x"], to: topic, at: 1)
                let replica = try #require(
                    try cluster.manager(1).replica(topic: topic, partition: 0))
                let settings = try await replica.eventLoop.submit { replica.settings }.get()
                #expect(settings.flushPolicy == (topic == "own" ? .interval : .system))
                #expect(settings.maxMessageBytes == 2_000)
                let segmentBytes = try await replica.eventLoop.submit {
                    replica.log?.config.segmentBytes
                }.get()
                #expect(segmentBytes == (topic == "own" ? 2_000_000 : 1_048_576))
            }
            await #expect {
                try await cluster.produce(
                    [String(repeating: "x", count: 2_000)], to: "plain", at: 1)
            } throws: { error in
                (error as? RPCError)?.code == .messageTooLarge
            }
        }
    }

    @Test func aFollowerTakesABatchOfAnySize() async throws {
        // Larger than what a message may be elsewhere.
        let size = (64 << 20) + 1_000
        #expect(size > RPCLimits().maxMessageBytes)
        try await ReplicaCluster.run(
            brokers: [1, 2],
            configure: { options in options.maxMessageBytes = size + 1_000 }
        ) { cluster in
            _ = try cluster.createTopic("t", replicas: [1, 2])
            let value = String(repeating: "x", count: size)
            _ = try await cluster.produce([value], to: "t", at: 1, timeout: .seconds(60))
            _ = try await cluster.produce(["small"], to: "t", at: 1)
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 2))
        }
    }
}
