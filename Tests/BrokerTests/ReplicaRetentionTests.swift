import Essentials
import Foundation
import Metadata
import NIOCore
import RPC
import Storage
import Synchronization
import Testing

@testable import Broker

@Suite("Old records go")
struct ReplicaRetentionTests {
    private let quick: @Sendable (inout ReplicaManager.Options) -> Void = { options in
        options.retentionCheckInterval = .milliseconds(20)
        options.fileDeleteDelay = .milliseconds(20)
    }

    private func set(_ key: String, _ value: String?, in cluster: ReplicaCluster) {
        cluster.commit([.config(ConfigChange(resource: .topic("t"), name: key, value: value))])
    }

    private func start(_ cluster: ReplicaCluster, at broker: NodeID) async throws -> Offset {
        guard let replica = try cluster.manager(broker).replica(topic: "t", partition: 0) else {
            throw RPCError(.leaderNotAvailable, "not there yet")
        }
        return try await replica.eventLoop.submit { replica.log?.logStartOffset ?? -1 }.get()
    }

    private func delete(
        before offset: Offset?, in cluster: ReplicaCluster, at broker: NodeID = 1,
        timeout: Duration = .seconds(20)
    ) async throws -> Offset {
        let replica = try #require(
            try cluster.manager(broker).replica(topic: "t", partition: 0))
        return try await withCheckedThrowingContinuation { continuation in
            replica.eventLoop.execute {
                replica.deleteRecords(before: offset, timeout: timeout) { result in
                    continuation.resume(with: result)
                }
            }
        }
    }

    private func code(_ body: () async throws -> some Any) async -> ErrorCode? {
        do {
            _ = try await body()
            return nil
        } catch {
            return (error as? RPCError)?.code
        }
    }

    /// The names in a replica's folder that end in `suffix`.
    private func files(
        _ suffix: String, _ cluster: ReplicaCluster, at broker: NodeID
    ) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: "\(cluster.directory)/\(broker)/t-0")
            .filter { $0.hasSuffix(suffix) }
    }

    // The records of these tests are from 2023.

    @Test("By age, while the topic is quiet, from every replica, when the setting changes")
    func age() async throws {
        try await ReplicaCluster.run(configure: quick) { cluster in
            _ = try cluster.createTopic("t")
            set("retention.ms", "-1", in: cluster)
            for number in 0..<5 { _ = try await cluster.produce(["\(number)"], to: "t", at: 1) }
            #expect(try await start(cluster, at: 1) == 0)
            set("retention.ms", "1000", in: cluster)
            for broker: NodeID in [1, 2, 3] {
                try await cluster.eventually("broker \(broker)'s log starts at 5") {
                    try await start(cluster, at: broker) == 5
                }
                try await cluster.eventually("the files are gone") {
                    try files(".log", cluster, at: broker) == ["00000000000000000005.log"]
                        && files(".deleted", cluster, at: broker).isEmpty
                }
            }
            #expect(await code { try await cluster.batches("t", at: 1) } == .offsetOutOfRange)
            set("retention.ms", "-1", in: cluster)
            #expect(try await cluster.produce(["new"], to: "t", at: 1).baseOffset == 5)
            // Nothing comes back with a restart.
            for broker: NodeID in [1, 2, 3] {
                await cluster.stop(broker)
                try await cluster.start(broker)
                try await cluster.eventually("broker \(broker) is back") {
                    try await start(cluster, at: broker) == 5
                }
            }
        }
    }

    @Test("By size, as segments get smaller while the log is open")
    func size() async throws {
        try await ReplicaCluster.run(brokers: [1, 2], configure: quick) { cluster in
            _ = try cluster.createTopic("t", replicas: [1, 2])
            set("retention.ms", "-1", in: cluster)
            set("segment.bytes", "1024", in: cluster)
            let value = String(repeating: "x", count: 500)
            for _ in 0..<20 { _ = try await cluster.produce([value], to: "t", at: 1) }
            set("retention.bytes", "3000", in: cluster)
            try await cluster.eventually("old segments are gone") {
                try await start(cluster, at: 1) > 0
            }
            let first = try await start(cluster, at: 1)
            #expect(first >= 10 && first <= 17)
            try await cluster.eventually("also on the follower") {
                try await start(cluster, at: 2) == first
            }
            let bytes = try cluster.segments("t", at: 1).values.reduce(0) { $0 + $1.count }
            #expect(bytes >= 3_000)
        }
    }

    @Test(
        "D13: a step of the clock makes retention err by no more than the step, and no timer moves")
    func clockSteps() async throws {
        let day: Int64 = 86_400_000
        let clock = SteppingClock(1_700_000_000_000 + day)
        try await ReplicaCluster.run(
            brokers: [1],
            configure: { options in
                quick(&options)
                options.wallClock = { clock.read() }
            }
        ) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            set("retention.ms", "\(3 * day)", in: cluster)
            _ = try await cluster.produce(["x"], to: "t", at: 1)
            // Two days old at most, whatever the clock says: it is kept for one more.
            for step in [day, -day, -day, day, day] {
                clock.step(by: step)
                let readings = clock.readings
                try await cluster.eventually("the checks go on") { clock.readings > readings + 3 }
                #expect(try await start(cluster, at: 1) == 0)
                let outcome = try await cluster.produce(["y"], to: "t", at: 1)
                #expect(outcome.count == 1)
            }
            clock.step(by: day + 1)
            try await cluster.eventually("three days are over") {
                try await start(cluster, at: 1) == 6
            }
        }
    }

    @Test("Not where compaction alone decides")
    func compacted() async throws {
        try await ReplicaCluster.run(brokers: [1], configure: quick) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            set("cleanup.policy", "compact", in: cluster)
            set("retention.ms", "1", in: cluster)
            _ = try await cluster.produce(["x"], keys: ["k"], to: "t", at: 1)
            #expect(await code { try await delete(before: 1, in: cluster) } == .policyViolation)
            for _ in 0..<5 {
                // Each is after a check that began after the last.
                try await Task.sleep(for: .milliseconds(20))
                #expect(try await start(cluster, at: 1) == 0)
            }
            set("cleanup.policy", "compact,delete", in: cluster)
            try await cluster.eventually("it goes") { try await start(cluster, at: 1) == 1 }
        }
    }

    @Test("On request, from every in-sync replica before the answer")
    func deletion() async throws {
        try await ReplicaCluster.run { cluster in
            _ = try cluster.createTopic("t")
            for number in 0..<10 { _ = try await cluster.produce(["\(number)"], to: "t", at: 1) }
            #expect(try await delete(before: 4, in: cluster) == 4)
            for broker: NodeID in [1, 2, 3] { #expect(try await start(cluster, at: broker) == 4) }
            #expect(try await delete(before: 2, in: cluster) == 4)
            #expect(await code { try await delete(before: 11, in: cluster) } == .offsetOutOfRange)
            #expect(
                await code { try await delete(before: 5, in: cluster, at: 2) }
                    == .notLeaderOrFollower)
            #expect(try await delete(before: nil, in: cluster) == 10)
            for broker: NodeID in [1, 2, 3] {
                #expect(try await start(cluster, at: broker) == 10)
                try await cluster.eventually("an empty segment is left") {
                    try files(".log", cluster, at: broker) == ["00000000000000000010.log"]
                }
            }
            #expect(try await cluster.produce(["new"], to: "t", at: 1).baseOffset == 10)
        }
    }

    @Test("A replica that was away learns of it when it is back, and of nothing below")
    func away() async throws {
        try await ReplicaCluster.run(maxReplicaLag: .milliseconds(500)) { cluster in
            _ = try cluster.createTopic("t")
            _ = try await cluster.produce(["0", "1"], to: "t", at: 1)
            await cluster.stop(3)
            let late = await code {
                try await delete(before: 1, in: cluster, timeout: .milliseconds(100))
            }
            #expect([nil, .requestTimedOut].contains(late))
            _ = try await cluster.produce(["2", "3", "4"], to: "t", at: 1)
            #expect(try await delete(before: nil, in: cluster) == 5)
            try await cluster.start(3)
            try await cluster.eventually("it has caught up") {
                try await start(cluster, at: 3) == 5
            }
            #expect(try await cluster.produce(["5"], to: "t", at: 1).baseOffset == 5)
        }
    }
}

/// A clock on the wall that moves by steps only, and knows how often it was looked at.
private final class SteppingClock: Sendable {
    private let state: Mutex<(now: Int64, readings: Int)>

    init(_ now: Int64) { state = Mutex((now, 0)) }

    var readings: Int { state.withLock { $0.readings } }

    func read() -> Int64 {
        state.withLock { state in
            state.readings += 1
            return state.now
        }
    }

    func step(by milliseconds: Int64) {
        state.withLock { $0.now += milliseconds }
    }
}
