import Essentials
import Foundation
import Metadata
import NIOCore
import Protocol
import Storage
import Testing

@testable import Broker

/// Logs whose bytes are not what they were.
@Suite(.timeLimit(.minutes(2))) struct DamagedReplicaTests {
    private static let rounds = 12

    /// Three brokers whose replicas of `t` have several segments each, with committed records.
    private func withRecords(
        _ body: (ReplicaCluster, TopicPartition) async throws -> Void
    ) async throws {
        try await ReplicaCluster.run(configure: { $0.segmentBytes = 300 }) { cluster in
            let topic = try cluster.createTopic("t")
            for round in 0..<Self.rounds {
                _ = try await cluster.produce([value(round)], to: "t", at: 1)
            }
            let id = TopicPartition(topic: topic, partition: 0)
            try await untilEqual(cluster, end: Offset(Int64(Self.rounds)))
            try await body(cluster, id)
        }
    }

    private func value(_ round: Int) -> String { "\(round)-" + String(repeating: "x", count: 60) }

    private func untilEqual(
        _ cluster: ReplicaCluster, end: Offset,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        try await cluster.eventually("all have everything", sourceLocation: sourceLocation) {
            for broker in [1, 2, 3] as [NodeID] {
                let status = try await cluster.status("t", at: broker)
                guard status.end == end, status.durable == end else { return false }
            }
            return try cluster.segments("t", at: 1) == cluster.segments("t", at: 2)
                && cluster.segments("t", at: 1) == cluster.segments("t", at: 3)
        }
    }

    /// Flips a bit in the second segment that `broker` has.
    private func flip(_ position: Int, of broker: NodeID, in cluster: ReplicaCluster) throws {
        let names = try cluster.segments("t", at: broker).keys.sorted()
        let path = "\(cluster.directory)/\(broker)/t-0/\(names[1])"
        let handle = try #require(FileHandle(forUpdatingAtPath: path))
        defer { try? handle.close() }
        try handle.seek(toOffset: UInt64(position))
        var byte = try #require(try handle.read(upToCount: 1))
        byte[byte.startIndex] ^= 0x10
        try handle.seek(toOffset: UInt64(position))
        try handle.write(contentsOf: byte)
    }

    @Test(
        "D6, S4: a follower that was opened damaged is reported, and fetches what is bad again",
        arguments: [16, 75])
    func openedDamaged(position: Int) async throws {
        try await withRecords { cluster, id in
            await cluster.stop(2)
            cluster.elect(1, isr: [1, 3], of: id)
            try flip(position, of: 2, in: cluster)
            // So that all of it is checked.
            for name in [".clean-shutdown", "recovery-point-offset-checkpoint"] {
                try FileManager.default.removeItem(atPath: "\(cluster.directory)/2/\(name)")
            }
            try await cluster.start(2)
            try await cluster.eventually("it is back in sync") {
                try cluster.partition(id).isr.contains(2)
                    && cluster.reports(of: id, by: 2).last == .online
            }
            try await untilEqual(cluster, end: Offset(Int64(Self.rounds)))
        }
    }

    @Test("A damaged replica that may be the last keeps what it has")
    func lastReplica() async throws {
        try await withRecords { cluster, id in
            await cluster.stop(2)
            let before = try cluster.segments("t", at: 2)
            try flip(16, of: 2, in: cluster)
            let damaged = try cluster.segments("t", at: 2)
            #expect(before != damaged)
            for name in [".clean-shutdown", "recovery-point-offset-checkpoint"] {
                try FileManager.default.removeItem(atPath: "\(cluster.directory)/2/\(name)")
            }
            // As the controller has it when nobody else is left.
            cluster.commit([
                .partitionChange(
                    PartitionChange(
                        id: id, isr: [], eligibleLeaderReplicas: [2],
                        leader: PartitionChange.NewLeader.none))
            ])
            try await cluster.start(2)
            try await cluster.eventually("it is reported") {
                cluster.reports(of: id, by: 2).contains(.damaged)
            }
            #expect(try cluster.segments("t", at: 2) == damaged)
            // Another turns up; but this one still counts as eligible.
            cluster.elect(1, isr: [1, 3], of: id)
            try await cluster.eventually("it is reported again") {
                cluster.reports(of: id, by: 2).count { $0 == .damaged } >= 2
            }
            #expect(try cluster.segments("t", at: 2) == damaged)
            cluster.commit([.partitionChange(PartitionChange(id: id, eligibleLeaderReplicas: []))])
            try await cluster.eventually("it is fetched again") {
                try cluster.partition(id).isr.contains(2)
            }
            try await untilEqual(cluster, end: Offset(Int64(Self.rounds)))
        }
    }

    @Test("A leader that reads a damaged header leads no longer, and is repaired")
    func leaderReadsDamage() async throws {
        try await withRecords { cluster, id in
            // Nothing is left in memory.
            await cluster.stop(1)
            try flip(16, of: 1, in: cluster)
            try await cluster.start(1)
            cluster.elect(1, isr: [1, 2, 3], of: id)
            try await cluster.eventually("its records are read") {
                guard let replica = try cluster.manager(1).replica(topic: "t", partition: 0) else {
                    return false
                }
                // It may have been repaired before anybody looks.
                guard cluster.reports(of: id, by: 1).isEmpty else { return true }
                return try await replica.eventLoop.submit {
                    for offset in 0..<Int64(Self.rounds) where replica.leader != nil {
                        ReplicaRead(
                            of: replica, from: Offset(offset), maxBytes: 10,
                            currentLeaderEpoch: nil, owner: ObjectIdentifier(replica)
                        ) { _ in }.start()
                    }
                    return replica.offlineReason != nil
                }.get()
            }
            try await cluster.eventually("another leads, and it is back in sync") {
                let state = try cluster.partition(id)
                return state.leader != 1 && state.isr.contains(1)
                    && cluster.reports(of: id, by: 1).last == .online
            }
            let leader = try #require(try cluster.partition(id).leader)
            _ = try await cluster.produce([value(99)], to: "t", at: leader)
            try await untilEqual(cluster, end: Offset(Int64(Self.rounds) + 1))
        }
    }

    @Test(
        "D6: records that a follower refuses are looked at by the leader, which then leads no longer"
    )
    func followerRefusesRecords() async throws {
        try await withRecords { cluster, id in
            await cluster.stop(2)
            await cluster.stop(1)
            // In the records: the header is as it should be.
            try flip(75, of: 1, in: cluster)
            try await cluster.start(1)
            cluster.elect(1, isr: [1, 3], of: id)
            // A replica that starts from nothing fetches everything.
            try FileManager.default.removeItem(atPath: "\(cluster.directory)/2")
            try await cluster.start(2)
            try await cluster.eventually("3 leads, and all are back in sync") {
                let state = try cluster.partition(id)
                return state.leader == 3 && Set(state.isr) == [1, 2, 3]
                    && cluster.reports(of: id, by: 1).last == .online
            }
            try await untilEqual(cluster, end: Offset(Int64(Self.rounds)))
        }
    }
}
