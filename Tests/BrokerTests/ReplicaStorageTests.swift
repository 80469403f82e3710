import Essentials
import Metadata
import Protocol
import RPC
import Storage
import Testing

@testable import Broker

@Suite("Replicas' logs come and go")
struct ReplicaStorageTests {
    @Test func aBrokerThatStopsWhileItOpensItsLogsKeepsThem() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1], partitions: 30)
            for partition: Int32 in 0..<30 {
                _ = try await cluster.produce(["x"], to: "t", partition: partition, at: 1)
            }
            for _ in 0..<5 {
                await cluster.stop(1)
                try await cluster.start(1)
            }
            await cluster.stop(1)
            try await cluster.start(1)
            #expect(try cluster.manager(1).disks.disks[0].directory.wasCleanShutdown)
            for partition: Int32 in 0..<30 {
                try await cluster.eventually("partition \(partition) is there") {
                    try await cluster.consume("t", partition: partition, at: 1) == ["x"]
                }
            }
        }
    }

    @Test func recordsWithoutAReadableTopicIDAreKept() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            await cluster.stop(1)
            let before = try cluster.segments("t", at: 1)
            // The list that a clean stop leaves tells it, too.
            try LocalFileSystem.local.remove("\(cluster.directory)/1/.closed-logs")
            try LocalFileSystem.local.remove("\(cluster.directory)/1/t-0/partition.metadata")
            try await cluster.start(1)
            try await expectOffline("t", because: "partition.metadata", in: cluster)
            #expect(try cluster.segments("t", at: 1) == before)
        }
    }

    @Test func aLogThatHasVanishedIsNotReplacedByAnEmptyOne() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            let id = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            await cluster.stop(1)
            try LocalFileSystem.local.removeRecursively("\(cluster.directory)/1/t-0")
            try await cluster.start(1)
            try await expectOffline("t", because: "damaged", in: cluster)
            // A topic that is deleted is not missed.
            cluster.commit([.removeTopic(id)])
            await cluster.stop(1)
        }
    }

    @Test func anOfflineReplicaCanBeDeletedAndItsNameUsedAgain() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            let old = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["x", "y", "z"], to: "t", at: 1)
            await cluster.stop(1)
            try LocalFileSystem.local.remove("\(cluster.directory)/1/.clean-shutdown")
            let path = "\(cluster.directory)/1/t-0/00000000000000000000.log"
            let file = try LocalFileSystem.local.open(path, .readWrite)
            try [UInt8](repeating: 0xAA, count: 8).withUnsafeBytes { bytes in
                try file.write(bytes, at: 70)
            }
            try await cluster.start(1)
            try await expectOffline("t", because: "damaged", in: cluster)
            cluster.commit([.removeTopic(old)])
            let new = try cluster.createTopic("t", replicas: [1])
            try await cluster.eventually("the new topic's replica is there") {
                try cluster.manager(1).replica(topic: "t", partition: 0)?.id.topic == new
            }
            #expect(try await cluster.produce(["new"], to: "t", at: 1).baseOffset == 0)
            #expect(try await cluster.consume("t", at: 1) == ["new"])
        }
    }

    private func expectOffline(
        _ topic: String, because reason: String, in cluster: ReplicaCluster
    ) async throws {
        try await cluster.eventually("\(topic) says why it is offline") {
            do {
                _ = try await cluster.consume(topic, at: 1)
                return false
            } catch let error as RPCError {
                return error.code == .kafkaStorageError && error.message.contains(reason)
            }
        }
    }
}
