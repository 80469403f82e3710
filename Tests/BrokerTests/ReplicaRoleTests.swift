import Essentials
import Metadata
import NIOCore
import Protocol
import RPC
import Replication
import Storage
import Testing

@testable import Broker

@Suite("Replicas change their roles")
struct ReplicaRoleTests {
    @Test("A flush under way when the leader epoch changes is still made known to the leader")
    func aFlushAcrossEpochsIsMadeKnown() async throws {
        // Nobody is to leave the ISR for it meanwhile.
        try await ReplicaCluster.run(maxReplicaLag: .seconds(300)) { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["first"], to: "t", at: 1)
            let replica = try #require(try cluster.manager(2).replica(topic: "t", partition: 0))
            // As if a flush of broker 2 took its time.
            try await replica.eventLoop.submit { replica.isFlushing = true }.get()
            _ = try await cluster.produce(["second"], to: "t", at: 1, acks: .leader)
            try await cluster.eventually("2 has it, but not for sure") {
                let status = try await cluster.status("t", at: 2)
                return status.end == 2 && status.durable == 1
            }
            cluster.elect(1, isr: [1, 2, 3], of: id)
            let epoch = try cluster.partition(id).leaderEpoch
            try await cluster.eventually("2 follows in the new epoch") {
                try await replica.eventLoop.submit { replica.follower?.leaderEpoch == epoch }.get()
            }
            #expect(try await cluster.consume("t", at: 1) == ["first"])
            try await replica.eventLoop.submit {
                let log = try #require(replica.log)
                let ticket = log.prepareFlush()
                try log.flush()
                replica.flushEnded(ticket, .success(()))
            }.get()
            try await cluster.eventually("it is committed, though nothing more is written") {
                try await cluster.consume("t", at: 1) == ["first", "second"]
            }
        }
    }

    @Test func readersThatHaveGivenUpAreClearedAway() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
            try await replica.eventLoop.submit {
                for _ in 0..<1_000 { replica.whenReadable(beyond: 1) {}.cancel() }
                #expect(replica.readers.count < Replica.minReaderLimit)
            }.get()
        }
    }
}
