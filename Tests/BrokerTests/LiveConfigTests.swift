import Essentials
import HashTreeCollections
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import RPC
import Records
import Storage
import Testing

@testable import Broker
@testable import Quorum

@Suite("Configs take effect while the broker runs")
struct LiveConfigTests {
    private func set(
        _ key: String, _ value: String?, of resource: ConfigResource, in cluster: ReplicaCluster
    ) {
        cluster.commit([.config(ConfigChange(resource: resource, name: key, value: value))])
    }

    private func settings(
        _ cluster: ReplicaCluster, at broker: NodeID = 1
    ) async throws -> ReplicaSettings {
        guard let replica = try cluster.manager(broker).replica(topic: "t", partition: 0) else {
            throw RPCError(.leaderNotAvailable, "not there yet")
        }
        return try await replica.eventLoop.submit { replica.settings }.get()
    }

    private func code(_ body: () async throws -> some Any) async -> ErrorCode? {
        do {
            _ = try await body()
            return nil
        } catch {
            return (error as? RPCError)?.code
        }
    }

    @Test("A topic's value comes before the cluster's, and that before the broker's own file's")
    func precedence() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            let steps: [(ConfigResource, String?, Int)] = [
                (.clusterDefault, "2000", 2000), (.topic("t"), "3000", 3000),
                (.clusterDefault, "4000", 3000), (.topic("t"), nil, 4000),
                (.clusterDefault, nil, 1_048_588),
            ]
            for (resource, value, expected) in steps {
                set("max.message.bytes", value, of: resource, in: cluster)
                try await cluster.eventually("\(expected) after \(resource) = \(value ?? "none")") {
                    try await settings(cluster).maxMessageBytes == expected
                }
            }
        }
    }

    @Test("While a topic is written to, the largest batch that is taken changes")
    func maxMessageBytes() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            let large = String(repeating: "x", count: 5_000)
            _ = try await cluster.produce([large], to: "t", at: 1)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    for number in 0..<200 {
                        _ = try await cluster.produce(["\(number)"], to: "t", at: 1)
                    }
                }
                set("max.message.bytes", "1000", of: .topic("t"), in: cluster)
                try await cluster.eventually("a large one is refused") {
                    await code { try await cluster.produce([large], to: "t", at: 1) }
                        == .messageTooLarge
                }
                set("max.message.bytes", nil, of: .topic("t"), in: cluster)
                try await cluster.eventually("and taken again") {
                    await code { try await cluster.produce([large], to: "t", at: 1) } == nil
                }
                try await group.waitForAll()
            }
            let small = try await cluster.consume("t", at: 1).filter { $0 != large }
            #expect(small == (0..<200).map { "\($0)" })
        }
    }

    @Test("While a topic is written to, min.insync.replicas decides over the next write")
    func minInSyncReplicas() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(1)) { cluster in
            _ = try cluster.createTopic("t")
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            await cluster.stop(3)
            _ = try await cluster.produce(["two are enough"], to: "t", at: 1)
            set("min.insync.replicas", "3", of: .topic("t"), in: cluster)
            try await cluster.eventually("two are too few") {
                await code { try await cluster.produce(["x"], to: "t", at: 1) }
                    == .notEnoughReplicas
            }
            set("min.insync.replicas", "1", of: .topic("t"), in: cluster)
            try await cluster.eventually("two are enough again") {
                await code { try await cluster.produce(["x"], to: "t", at: 1) } == nil
            }
        }
    }

    @Test func segmentBytes() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            let value = String(repeating: "x", count: 1_000)
            for _ in 0..<5 { _ = try await cluster.produce([value], to: "t", at: 1) }
            #expect(try cluster.segments("t", at: 1).count == 1)
            set("segment.bytes", "1024", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is known") {
                try await settings(cluster).segmentBytes == 1024
            }
            for _ in 0..<5 { _ = try await cluster.produce([value], to: "t", at: 1) }
            #expect(try cluster.segments("t", at: 1).count == 6)
            #expect(try await cluster.consume("t", at: 1).count == 10)
        }
    }

    @Test("segment.index.bytes, index.interval.bytes and file.delete.delay.ms of a log in use")
    func indexes() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            let value = String(repeating: "x", count: 1_000)
            for _ in 0..<5 { _ = try await cluster.produce([value], to: "t", at: 1) }
            set("index.interval.bytes", "1", of: .topic("t"), in: cluster)
            set("segment.index.bytes", "1024", of: .topic("t"), in: cluster)
            set("segment.bytes", "6000", of: .topic("t"), in: cluster)
            set("file.delete.delay.ms", "3", of: .clusterDefault, in: cluster)
            try await cluster.eventually("it is known") {
                let settings = try await settings(cluster)
                return settings.segmentBytes == 6_000 && settings.indexIntervalBytes == 1
                    && settings.fileDeleteDelay == .milliseconds(3)
            }
            _ = try await cluster.produce([value], to: "t", at: 1)
            set("segment.bytes", nil, of: .topic("t"), in: cluster)
            try await cluster.eventually("it is known") {
                try await settings(cluster).segmentBytes == 1 << 30
            }
            // An entry for each batch, until the index is full.
            for _ in 0..<150 { _ = try await cluster.produce(["y"], to: "t", at: 1) }
            let bases = try cluster.segments("t", at: 1).keys.sorted()
            #expect(bases.count == 3)
            #expect(try await cluster.consume("t", at: 1).count == 156)
            await cluster.stop(1)
            try await cluster.start(1)
            try await cluster.eventually("all is there") {
                try await cluster.status("t", at: 1).end == 156
            }
        }
    }

    private func timestamps(_ cluster: ReplicaCluster) async throws -> [Int64] {
        var reader = RecordReader(try await cluster.batches("t", at: 1))
        var timestamps: [Int64] = []
        while let record = try reader.next() { timestamps.append(record.timestamp) }
        return timestamps
    }

    @Test(
        "message.timestamp.type decides whose time the next records have", arguments: [false, true])
    func timestampType(_ isCompressed: Bool) async throws {
        let now: Int64 = 1_700_000_123_456
        try await ReplicaCluster.run(
            brokers: [1, 2], configure: { $0.wallClock = { now } }
        ) { cluster in
            _ = try cluster.createTopic("t", replicas: [1, 2])
            let first = try await cluster.produce(["a"], to: "t", at: 1)
            #expect(first.appendTime == nil)
            set("message.timestamp.type", "LogAppendTime", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is known") {
                try await settings(cluster).timestamps.type == .append
            }
            let second = try await cluster.produce(
                ["b", "c"], to: "t", at: 1, compression: isCompressed ? .gzip : .none)
            #expect(second.appendTime == now)
            #expect(try await timestamps(cluster) == [1_700_000_000_000, now, now])
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 2))
        }
    }

    @Test("How far a producer's timestamps may be off is the topic's to say")
    func timestampRange() async throws {
        // The producer's are 1,700,000,000,000.
        let early: Int64 = 1_700_000_000_000 - 3_600_000
        try await ReplicaCluster.run(
            brokers: [1], configure: { $0.wallClock = { early - 1 } }
        ) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            #expect(
                await code { try await cluster.produce(["x"], to: "t", at: 1) }
                    == .invalidTimestamp)
            set("message.timestamp.after.max.ms", "3600001", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is taken") {
                await code { try await cluster.produce(["x"], to: "t", at: 1) } == nil
            }
        }
        try await ReplicaCluster.run(
            brokers: [1], configure: { $0.wallClock = { 1_700_000_001_001 } }
        ) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            set("message.timestamp.before.max.ms", "1000", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is refused") {
                await code { try await cluster.produce(["x"], to: "t", at: 1) }
                    == .invalidTimestamp
            }
        }
    }

    @Test("A log that is opened while its topic's configs change has the newest of them")
    func segmentBytesFromTheStart() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            set("segment.bytes", "1024", of: .topic("t"), in: cluster)
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            let bytes = try await replica.eventLoop.submit { replica.log?.config.segmentBytes }
                .get()
            #expect(bytes == 1024)
        }
    }

    @Test("flush.policy decides whether the next write waits for the disk")
    func flushPolicy() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["durable"], to: "t", at: 1)
            #expect(try await cluster.status("t", at: 1).durable == 1)
            set("flush.policy", "os", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is known") {
                try await settings(cluster).flushPolicy == .system
            }
            for number in 0..<5 { _ = try await cluster.produce(["\(number)"], to: "t", at: 1) }
            let lazy = try await cluster.status("t", at: 1)
            #expect(lazy.end == 6 && lazy.highWatermark == 6 && lazy.durable == 1)
            // What was acknowledged without it becomes durable now.
            set("flush.policy", "commit", of: .topic("t"), in: cluster)
            try await cluster.eventually("all is durable") {
                try await cluster.status("t", at: 1).durable == 6
            }
            _ = try await cluster.produce(["more"], to: "t", at: 1)
            #expect(try await cluster.status("t", at: 1).durable == 7)
        }
    }

    @Test("flush.ms decides when logs under flush.policy=interval are flushed")
    func flushInterval() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["one"], to: "t", at: 1)
            set("flush.ms", "3600000", of: .topic("t"), in: cluster)
            set("flush.policy", "interval", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is known") {
                let settings = try await settings(cluster)
                return settings.flushInterval == .seconds(3600)
                    && settings.flushPolicy == .interval
            }
            _ = try await cluster.produce(["two"], to: "t", at: 1)
            #expect(try await cluster.status("t", at: 1).durable == 1)
            set("flush.ms", "1", of: .clusterDefault, in: cluster)
            set("flush.ms", nil, of: .topic("t"), in: cluster)
            try await cluster.eventually("it is flushed") {
                try await cluster.status("t", at: 1).durable == 2
            }
        }
    }

    @Test("flush.messages decides how much stays unflushed under flush.policy=interval")
    func flushMessages() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            set("flush.ms", "3600000", of: .topic("t"), in: cluster)
            set("flush.messages", "3", of: .topic("t"), in: cluster)
            set("flush.policy", "interval", of: .topic("t"), in: cluster)
            try await cluster.eventually("it is known") {
                let settings = try await settings(cluster)
                return settings.flushMessages == 3 && settings.flushPolicy == .interval
            }
            for _ in 0..<2 { _ = try await cluster.produce(["one"], to: "t", at: 1) }
            #expect(try await cluster.status("t", at: 1).durable == 0)
            _ = try await cluster.produce(["one"], to: "t", at: 1)
            try await cluster.eventually("three are flushed") {
                try await cluster.status("t", at: 1).durable == 3
            }
            _ = try await cluster.produce(["one"], to: "t", at: 1)
            #expect(try await cluster.status("t", at: 1).durable == 3)
        }
    }

    @Test("replica.lag.time.max.ms decides when a follower that is cut off leaves the ISR")
    func replicaLag() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(3600)) { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            try await cluster.cut(3, 1)
            #expect(
                await code {
                    try await cluster.produce(
                        ["stuck"], to: "t", at: 1, timeout: .milliseconds(100))
                } == .requestTimedOut)
            // Another broker's setting is not this one's.
            set("replica.lag.time.max.ms", "600", of: .broker(2), in: cluster)
            set("replica.lag.time.max.ms", "500", of: .clusterDefault, in: cluster)
            _ = try await cluster.produce(["second"], to: "t", at: 1)
            #expect(try cluster.partition(id).isr.sorted() == [1, 2])
        }
    }

    @Test("How leaders are asked follows this broker's settings")
    func replicaFetches() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("t")
            set("replica.fetch.wait.max.ms", "50", of: .broker(2), in: cluster)
            set("replica.fetch.response.max.bytes", "2000", of: .clusterDefault, in: cluster)
            let value = String(repeating: "x", count: 1_500)
            for _ in 0..<10 { _ = try await cluster.produce([value], to: "t", at: 1) }
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 2))
            let options = try cluster.manager(2).options
            var image = MetadataImage()
            #expect(BrokerSettings(image: image, defaults: options).maxFetchBytes == 10 << 20)
            image.configs[.clusterDefault] = ["replica.lag.time.max.ms": "100"]
            image.configs[.broker(2)] = ["replica.fetch.wait.max.ms": "5000"]
            let settings = BrokerSettings(image: image, defaults: options)
            #expect(settings.maxFetchWait == .seconds(5))
            #expect(settings.maxReplicaLag == .seconds(5))
        }
    }

    @Test("fetch.max.bytes limits the next fetch")
    func fetchMaxBytes() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            let metadata = BrokerMetadata(logger: logger)
            metadata.setHighWatermarkSource { 0 }
            let service = FetchService(
                local: 1, metadata: metadata, replicas: try cluster.manager(1),
                peers: BrokerPeers(
                    eventLoop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger),
                maxBytes: 5000)
            var request = WireFetchRequest()
            #expect(service.allowedBytes(request) == 5000)
            for (offset, (resource, value, expected)) in [
                (ConfigResource.clusterDefault, "4000", 4000), (.broker(2), "1500", 4000),
                (.broker(1), "2000", 2000),
            ].enumerated() {
                let change = ConfigChange(
                    resource: resource, name: "fetch.max.bytes", value: value)
                metadata.committed(
                    CommittedBatch(
                        baseOffset: Offset(Int64(offset)), nextOffset: Offset(Int64(offset + 1)),
                        epoch: 1, appendTimestamp: 0,
                        records: [MetadataRecord.config(change).encoded()]))
                #expect(service.allowedBytes(request) == expected)
            }
            request.maxBytes = 100
            #expect(service.allowedBytes(request) == 100)
        }
    }
}
