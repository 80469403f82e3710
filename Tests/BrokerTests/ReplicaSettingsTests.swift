import Configuration
import Essentials
import HashTreeCollections
import Metadata
import NIOCore
import RPC
import Records
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

    @Test func logsAreLaidOutAndCleanedAsTheBrokersFileAndThenTheTopicSay() async throws {
        var configuration = NodeConfiguration()
        configuration.nodeID = 1
        configuration.logRoll = .seconds(60)
        configuration.logIndexMaxBytes = 2_000
        configuration.logIndexIntervalBytes = 300
        configuration.logCleanupPolicy = [.compact, .delete]
        configuration.logRetentionMilliseconds = -1
        configuration.logRetentionBytes = 5_000
        configuration.logSegmentDeleteDelay = .seconds(7)
        configuration.messageTimestampType = .append
        configuration.messageTimestampBeforeMaxMilliseconds = 10
        configuration.messageTimestampAfterMaxMilliseconds = 20
        let options = ReplicaManager.Options(
            configuration, clusterID: "test",
            directories: try LogDirectorySurvey(of: [], required: "", nodeID: 1))
        var image = MetadataImage()
        let state = PartitionState(replicas: [1], isr: [1], leader: 1)
        func settings() -> ReplicaSettings {
            ReplicaSettings(image: image, topic: "t", state: state, defaults: options)
        }
        #expect(settings().segmentAge == .seconds(60))
        #expect(settings().segmentIndexBytes == 2_000)
        #expect(settings().indexIntervalBytes == 300)
        #expect(settings().fileDeleteDelay == .seconds(7))
        #expect(settings().retention == RetentionPolicy(maxAge: nil, minBytes: 5_000))
        #expect(
            settings().timestamps
                == TimestampSettings(type: .append, beforeMax: 10, afterMax: 20))

        image.configs[.topic("t")] = [
            "segment.ms": "1", "segment.index.bytes": "3000", "index.interval.bytes": "400",
            "file.delete.delay.ms": "5", "retention.ms": "6", "retention.bytes": "-1",
            "message.timestamp.type": "CreateTime", "message.timestamp.before.max.ms": "7",
            "message.timestamp.after.max.ms": "8",
        ]
        #expect(settings().segmentAge == .milliseconds(1))
        #expect(settings().segmentIndexBytes == 3_000)
        #expect(settings().indexIntervalBytes == 400)
        #expect(settings().fileDeleteDelay == .milliseconds(5))
        #expect(settings().retention == RetentionPolicy(maxAge: .milliseconds(6), minBytes: nil))
        #expect(
            settings().timestamps == TimestampSettings(type: .create, beforeMax: 7, afterMax: 8))
        image.configs[.topic("t")]?["cleanup.policy"] = "compact"
        #expect(settings().retention == nil)
    }

    @Test func howFarTimestampsMayBeOffHasNoTrapsAtItsEnds() {
        func range(_ before: Int64, _ after: Int64, at now: Int64) -> ClosedRange<Int64>? {
            let settings = TimestampSettings(beforeMax: before, afterMax: after)
            guard case .create(let range) = settings.rule(at: now) else { return nil }
            return range
        }
        #expect(range(.max, .max, at: 1_000) == 0...Int64.max)
        #expect(range(.max, 5, at: 1_000) == 0...1_005)
        #expect(range(5, 5, at: 1_000) == 995...1_005)
        #expect(range(0, 0, at: .max) == Int64.max...Int64.max)
        // A clock before 1970.
        #expect(range(.max, 5, at: -1_000) == 0...0)
        #expect(range(.max, 5, at: .min) == 0...0)
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
