import Essentials
import Metadata
import NIOCore
import Protocol
import RPC
import Records
import Storage
import Testing

@testable import Broker

@Suite("Replicas of several brokers")
struct ReplicaManagerTests {
    @Test func acksAllMeansDurableOnEveryInSyncReplica() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("t")
            for number in 0..<20 {
                let outcome = try await cluster.produce(["value \(number)"], to: "t", at: 1)
                #expect(outcome == ProduceOutcome(baseOffset: Offset(Int64(number)), count: 1))
                for broker: NodeID in [1, 2, 3] {
                    let status = try await cluster.status("t", at: broker)
                    #expect(status.durable > outcome.baseOffset)
                }
            }
            #expect(
                try await cluster.consume("t", at: 1) == (0..<20).map { "value \($0)" })
            try await cluster.eventually("followers know the high watermark") {
                for broker: NodeID in [2, 3] {
                    guard try await cluster.status("t", at: broker).highWatermark == 20 else {
                        return false
                    }
                }
                return true
            }
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 2))
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 3))
        }
    }

    @Test func manyPartitionsTakeWritesAtOnce() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("t", partitions: 12)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for partition in 0..<12 {
                    group.addTask {
                        for number in 0..<15 {
                            _ = try await cluster.produce(
                                ["\(partition)-\(number)"], to: "t", partition: Int32(partition),
                                at: NodeID(Int32(partition % 3 + 1)))
                        }
                    }
                }
                try await group.waitForAll()
            }
            for partition in 0..<12 {
                #expect(
                    try await cluster.consume(
                        "t", partition: Int32(partition), at: NodeID(Int32(partition % 3 + 1)))
                        == (0..<15).map { "\(partition)-\($0)" })
            }
        }
    }

    @Test(
        "P16: acks=all times out as unknown while an in-sync replica is silent; acks=1 does not wait"
    )
    func aSilentInSyncReplicaHoldsBackAcksAll() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("t")
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            try await cluster.cut(3, 1)
            await #expect {
                try await cluster.produce(
                    ["second"], to: "t", at: 1, timeout: .milliseconds(300))
            } throws: { error in
                (error as? RPCError)?.code == .requestTimedOut
            }
            let outcome = try await cluster.produce(["third"], to: "t", at: 1, acks: .leader)
            #expect(outcome.baseOffset == 2)
            // Readers see only what every in-sync replica has.
            #expect(try await cluster.consume("t", at: 1) == ["first"])
            try await cluster.cut(3, 1, false)
            try await cluster.eventually("all is committed") {
                try await cluster.consume("t", at: 1) == ["first", "second", "third"]
            }
        }
    }

    @Test("L6: a silent follower leaves the ISR, and writes go on; it catches up and returns")
    func aSilentFollowerLeavesAndReturns() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(1)) { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            try await cluster.cut(3, 1)
            _ = try await cluster.produce(["second"], to: "t", at: 1)
            #expect(try cluster.partition(id).isr.sorted() == [1, 2])
            try await cluster.cut(3, 1, false)
            try await cluster.eventually("3 is in sync again") {
                try cluster.partition(id).isr.sorted() == [1, 2, 3]
            }
            _ = try await cluster.produce(["third"], to: "t", at: 1)
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 3))
        }
    }

    @Test("P16, L20: below min ISR acks=all is refused, and what waits fails as unknown")
    func belowMinISRWritesFail() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(1)) { cluster in
            _ = try cluster.createTopic("t")
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            try await cluster.cut(2, 1)
            try await cluster.cut(3, 1)
            await #expect {
                try await cluster.produce(["second"], to: "t", at: 1)
            } throws: { error in
                (error as? RPCError)?.code == .notEnoughReplicasAfterAppend
            }
            await #expect {
                try await cluster.produce(["refused"], to: "t", at: 1)
            } throws: { error in
                (error as? RPCError)?.code == .notEnoughReplicas
            }
            try await cluster.cut(2, 1, false)
            try await cluster.eventually("the write that was unknown is committed once") {
                try await cluster.consume("t", at: 1) == ["first", "second"]
            }
        }
    }

    @Test func aFollowerThatWasStoppedCatchesUp() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(1)) { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["before"], to: "t", at: 1)
            await cluster.stop(3)
            for number in 0..<10 {
                _ = try await cluster.produce(["\(number)"], to: "t", at: 1)
            }
            #expect(try cluster.partition(id).isr.sorted() == [1, 2])
            try await cluster.start(3)
            try await cluster.eventually("3 is in sync again") {
                try cluster.partition(id).isr.sorted() == [1, 2, 3]
            }
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 3))
        }
    }

    @Test("L3: what a deposed leader alone had is cut off, and nobody has read it")
    func aDeposedLeadersSuffixIsTruncated() async throws {
        try await ReplicaCluster.run { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["common"], to: "t", at: 1)
            cluster.deafen(1)
            cluster.elect(2, isr: [2, 3], of: id)
            try await cluster.eventually("2 leads") {
                try await cluster.status("t", at: 2).isLeader
            }
            // Fetches of the old epoch may still be parked at 1; their answers come too late.
            for number in 0..<5 {
                _ = try await cluster.produce(["lost \(number)"], to: "t", at: 1, acks: .leader)
            }
            for number in 0..<3 {
                _ = try await cluster.produce(["kept \(number)"], to: "t", at: 2)
            }
            #expect(try await cluster.consume("t", at: 1) == ["common"])
            cluster.listen(1)
            try await cluster.eventually("1 is in sync again") {
                try cluster.partition(id).isr.sorted() == [1, 2, 3]
            }
            #expect(
                try await cluster.consume("t", at: 2) == ["common", "kept 0", "kept 1", "kept 2"])
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 2))
            #expect(try cluster.segments("t", at: 1) == cluster.segments("t", at: 3))
        }
    }

    @Test("C12: a topic created again under its old name inherits nothing")
    func aTopicCreatedAgainIsEmpty() async throws {
        try await ReplicaCluster.run { cluster in
            let old = try cluster.createTopic("t")
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            cluster.commit([.removeTopic(old)])
            let new = try cluster.createTopic("t")
            try await cluster.eventually("broker 1 has heard of it") {
                try cluster.manager(1).replica(topic: "t", partition: 0)?.id.topic == new
            }
            let outcome = try await cluster.produce(["new"], to: "t", at: 1)
            #expect(outcome.baseOffset == 0)
            #expect(try await cluster.consume("t", at: 1) == ["new"])
        }
    }

    @Test("B10: a topic deleted while a broker is down is deleted there when it returns")
    func aTopicDeletedMeanwhileGoesOnReturn() async throws {
        try await ReplicaCluster.run { cluster in
            let doomed = try cluster.createTopic("doomed")
            _ = try cluster.createTopic("kept")
            _ = try await cluster.produce(["x"], to: "doomed", at: 1)
            _ = try await cluster.produce(["y"], to: "kept", at: 1)
            await cluster.stop(3)
            cluster.commit([.removeTopic(doomed)])
            try await cluster.start(3)
            try await cluster.eventually("the folder is gone") {
                (try? cluster.segments("doomed", at: 3)) == nil
            }
            try await cluster.eventually("the other is there") {
                try await cluster.status("kept", at: 3).end == 1
            }
        }
    }

    @Test func everythingIsThereAfterAllHaveStopped() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("t")
            for number in 0..<10 {
                _ = try await cluster.produce(["\(number)"], to: "t", at: 1)
            }
            for broker: NodeID in [1, 2, 3] { await cluster.stop(broker) }
            for broker: NodeID in [1, 2, 3] { try await cluster.start(broker) }
            let disks = try cluster.manager(1).disks
            #expect(disks.previousBrokerEpoch == 1001)
            #expect(disks.disks[0].directory.checkpoint(of: "t-0").highWatermark == 10)
            _ = try await cluster.produce(["more"], to: "t", at: 1)
            #expect(
                try await cluster.consume("t", at: 1) == (0..<10).map { "\($0)" } + ["more"])
        }
    }

    @Test func batchesStayCompressedAsTheirProducerOrTheirTopicWants() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("kept")
            _ = try cluster.createTopic("packed")
            let name = "compression.type"
            cluster.commit([
                .config(ConfigChange(resource: .topic("packed"), name: name, value: "zstd"))
            ])
            let values = (0..<200).map { "value \($0)" }
            for topic in ["kept", "packed"] {
                for codec in Compression.allCases {
                    _ = try await cluster.produce(values, to: topic, at: 1, compression: codec)
                }
                let all = Compression.allCases.flatMap { _ in values }
                #expect(try await cluster.consume(topic, at: 1) == all)
            }
            func codecs(_ topic: String) async throws -> [Compression?] {
                try RecordBatches.headers(of: try await cluster.batches(topic, at: 1))
                    .map(\.compression)
            }
            #expect(try await codecs("kept") == Compression.allCases)
            #expect(try await codecs("packed") == Compression.allCases.map { _ in .zstd })

            cluster.commit([
                .config(ConfigChange(resource: .topic("packed"), name: name, value: "uncompressed"))
            ])
            try await cluster.eventually("the new setting is in force") {
                _ = try await cluster.produce(values, to: "packed", at: 1, compression: .gzip)
                return try await codecs("packed").last == Compression.none
            }
        }
    }

    @Test("S4: a damaged replica alone goes offline, and says why")
    func aDamagedReplicaAloneGoesOffline() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("bad", replicas: [1])
            _ = try cluster.createTopic("good", replicas: [1])
            _ = try await cluster.produce(["x", "y", "z"], to: "bad", at: 1)
            _ = try await cluster.produce(["x"], to: "good", at: 1)
            await cluster.stop(1)
            // As after a crash: nothing is trusted unread.
            try LocalFileSystem.local.remove("\(cluster.directory)/1/.clean-shutdown")
            let path = "\(cluster.directory)/1/bad-0/00000000000000000000.log"
            let file = try LocalFileSystem.local.open(path, .readWrite)
            try [UInt8](repeating: 0xAA, count: 8).withUnsafeBytes { bytes in
                try file.write(bytes, at: 70)
            }
            try await cluster.start(1)
            try await cluster.eventually("the good one leads") {
                try await cluster.consume("good", at: 1) == ["x"]
            }
            try await cluster.eventually("the bad one says why it does not") {
                do {
                    _ = try await cluster.consume("bad", at: 1)
                    return false
                } catch let error as RPCError {
                    return error.code == .kafkaStorageError && error.message.contains("damaged")
                }
            }
        }
    }
}
