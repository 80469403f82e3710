import Essentials
import Foundation
import Metadata
import NIOCore
import Protocol
import RPC
import Records
import Storage
import Testing

@testable import Broker

/// S9, S14.
@Suite("Logs are compacted")
struct ReplicaCompactionTests {
    private let quick: @Sendable (inout ReplicaManager.Options) -> Void = { options in
        options.cleaner.backoff = .milliseconds(20)
        options.fileDeleteDelay = .milliseconds(20)
    }

    private func set(_ configs: [String: String], in cluster: ReplicaCluster) {
        cluster.commit(
            configs.sorted { $0.key < $1.key }.map {
                .config(ConfigChange(resource: .topic("t"), name: $0.key, value: $0.value))
            })
    }

    private func onLog<T: Sendable>(
        of cluster: ReplicaCluster, at broker: NodeID, _ body: @escaping @Sendable (Log) throws -> T
    ) async throws -> T {
        let replica = try cluster.manager(broker).replica(topic: "t", partition: 0)
        guard let replica else { throw RPCError(.leaderNotAvailable, "not there yet") }
        return try await replica.eventLoop.submit {
            guard let log = replica.log else { throw RPCError(.leaderNotAvailable, "not open") }
            return try body(log)
        }.get()
    }

    /// Reads a replica's records piece by piece, as a reader does; each with its offset.
    private func records(
        of cluster: ReplicaCluster, at broker: NodeID
    ) async throws -> [(offset: Offset, key: String, value: String)] {
        var found: [(offset: Offset, key: String, value: String)] = []
        var offset: Offset = 0
        while true {
            let start = offset
            let batches = try await onLog(of: cluster, at: broker) {
                try $0.read(from: start, below: .max, maxBytes: 700)
            }
            guard batches.readableBytes > 0 else { return found }
            var reader = RecordReader(batches)
            while let record = try reader.next() {
                guard record.offset >= start else { continue }
                let key = record.key.map { String(buffer: $0) } ?? ""
                found.append((record.offset, key, record.value.map { String(buffer: $0) } ?? ""))
            }
            offset = try #require(reader.nextOffset)
        }
    }

    private func table(
        of cluster: ReplicaCluster, at broker: NodeID
    ) async throws -> [String: String] {
        var table: [String: String] = [:]
        for record in try await records(of: cluster, at: broker) {
            table[record.key] = record.value
        }
        return table
    }

    @Test("Each replica's by itself, under the eyes of readers, and others copy it")
    func replicas() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .seconds(1), configure: quick) { cluster in
            _ = try cluster.createTopic("t")
            set(
                ["segment.bytes": "1024", "retention.ms": "-1", "cleanup.policy": "compact"],
                in: cluster)
            let filler = String(repeating: "x", count: 100)
            var expected: [String: String] = [:]
            func produce(_ range: Range<Int>, acks: WireAcks = .all) async throws {
                for number in range {
                    let key = "\(number % 10)"
                    expected[key] = "\(number) \(filler)"
                    _ = try await cluster.produce(
                        ["\(number) \(filler)"], keys: [key], to: "t", at: 1, acks: acks)
                }
            }
            try await produce(0..<60)
            await cluster.stop(3)
            // Away while the others compact what it has in part.
            try await produce(60..<200, acks: .leader)
            for broker: NodeID in [1, 2] {
                try await cluster.eventually("broker \(broker) has compacted its log") {
                    let found = try await records(of: cluster, at: broker)
                    #expect(found.allSatisfy { "\($0.offset) \(filler)" == $0.value })
                    #expect(zip(found, found.dropFirst()).allSatisfy { $0.offset < $1.offset })
                    return found.count < 40
                }
                #expect(try await table(of: cluster, at: broker) == expected)
            }
            try await cluster.start(3)
            try await cluster.eventually("broker 3 has caught up") {
                try await onLog(of: cluster, at: 3) { $0.logEndOffset } == 200
            }
            #expect(try await table(of: cluster, at: 3) == expected)
            for broker: NodeID in [1, 2, 3] {
                await cluster.stop(broker)
                try await cluster.start(broker)
                try await cluster.eventually("broker \(broker) is back") {
                    try await table(of: cluster, at: broker) == expected
                }
            }
        }
    }

    @Test("A record without a key is refused, with all of its batch")
    func keyless() async throws {
        try await ReplicaCluster.run(brokers: [1], configure: quick) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            set(["cleanup.policy": "compact,delete"], in: cluster)
            _ = try await cluster.produce(["a"], keys: ["k"], to: "t", at: 1)
            let error = await #expect(throws: RPCError.self) {
                try await cluster.produce(["b", "c"], to: "t", at: 1)
            }
            #expect(error?.code == .invalidRecord)
            #expect(error?.message.contains("has no key") == true)
            #expect(try await onLog(of: cluster, at: 1) { $0.logEndOffset } == 1)
        }
    }

    @Test("A topic where nothing happens is compacted in the end")
    func quiet() async throws {
        try await ReplicaCluster.run(brokers: [1], configure: quick) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            set(["cleanup.policy": "compact", "flush.policy": "os"], in: cluster)
            for number in 0..<20 {
                _ = try await cluster.produce(["\(number)"], keys: ["k"], to: "t", at: 1)
            }
            // The records of these tests are from 2023.
            set(["max.compaction.lag.ms": "1000"], in: cluster)
            try await cluster.eventually("only the last is left") {
                try await records(of: cluster, at: 1).map(\.offset) == [19]
            }
            let cleaner = try cluster.manager(1).cleaner
            try await cluster.eventually("and is told of") { cleaner.status.last != nil }
            let last = try #require(cleaner.status.last)
            #expect(last.summary.bytesAfter < last.summary.bytesBefore)
            #expect(cleaner.status.failedRuns == 0)
        }
    }
}
