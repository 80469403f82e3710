import Essentials
import Foundation
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import RPC
import Storage
import Synchronization
import Testing

@testable import Broker

/// From the first image to the first replicas, while the disk does not answer.
@Suite struct ReplicaStartupTests {
    private static let broker: NodeID = 1

    private func image(_ topics: [(TopicID, String)]) throws -> MetadataImage {
        var image = MetadataImage()
        for (id, name) in topics {
            try image.apply(.topic(id: id, name: name), at: image.nextOffset)
            try image.apply(
                .partition(
                    TopicPartition(topic: id, partition: 0),
                    PartitionState(
                        replicas: [Self.broker], isr: [Self.broker], leader: Self.broker)),
                at: image.nextOffset)
        }
        return image
    }

    private func withManager(
        in directory: String, _ body: (ReplicaManager) async throws -> Void
    ) async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let manager = try ReplicaManager(
            options: ReplicaManager.Options(
                clusterID: "c", nodeID: Self.broker, logDirectories: [directory]),
            eventLoops: [group.next()], controlLoop: group.next(),
            alterPartition: { _ in WireAlterPartitionResponse() },
            reportReplicas: { .accepting($0) },
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        manager.registered(epoch: 1)
        let result: Result<Void, any Error>
        do {
            try await body(manager)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await manager.stop()
        try result.get()
    }

    private func apply(_ image: MetadataImage, to manager: ReplicaManager) async throws {
        try await manager.controlLoop.submit {
            manager.apply(image: image, delta: MetadataDelta())
        }.get()
    }

    private func isReady(_ manager: ReplicaManager) async throws -> Bool {
        try await manager.controlLoop.submit { manager.isReady }.get()
    }

    private func untilReady(_ manager: ReplicaManager) async throws {
        while try await !isReady(manager) { try await Task.sleep(for: .milliseconds(5)) }
    }

    @Test(
        "A broker is ready once its logs are open, and the control loop never waits for them",
        .timeLimit(.minutes(1)))
    func readiness() async throws {
        let directory = NSTemporaryDirectory() + "startup-\(UniqueID.random())"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let (stray, kept, later) = (TopicID.random(), TopicID.random(), TopicID.random())
        try await withManager(in: directory) { manager in
            #expect(try await !isReady(manager))
            try await apply(try image([(stray, "stray"), (kept, "kept")]), to: manager)
            try await untilReady(manager)
        }
        #expect(FileManager.default.fileExists(atPath: directory + "/stray-0"))
        try await withManager(in: directory) { manager in
            // The disk's threads are held up.
            let (gate, opening) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
            for _ in 0..<2 {
                manager.onPool {
                    opening.signal()
                    gate.wait()
                }
            }
            try await apply(try image([(kept, "kept")]), to: manager)
            // Newer images come meanwhile, and none of them is lost.
            try await apply(try image([(kept, "kept"), (later, "later")]), to: manager)
            #expect(try await !isReady(manager))
            #expect(manager.replica(topic: "kept", partition: 0) == nil)
            for _ in 0..<2 { gate.signal() }
            try await untilReady(manager)
            #expect(manager.replica(topic: "kept", partition: 0) != nil)
            #expect(manager.replica(topic: "later", partition: 0)?.id.topic == later)
            #expect(!FileManager.default.fileExists(atPath: directory + "/stray-0"))
        }
    }

    @Test("A log that can't be opened does not keep a broker from serving the others")
    func damagedLog() async throws {
        let directory = NSTemporaryDirectory() + "startup-\(UniqueID.random())"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let (good, bad) = (TopicID.random(), TopicID.random())
        let image = try image([(good, "good"), (bad, "bad")])
        try await withManager(in: directory) { manager in
            try await apply(image, to: manager)
            try await untilReady(manager)
        }
        try FileManager.default.removeItem(atPath: directory + "/bad-0/partition.metadata")
        try "x".write(
            toFile: directory + "/bad-0/00000000000000000000.log", atomically: true,
            encoding: .utf8)
        try await withManager(in: directory) { manager in
            try await apply(image, to: manager)
            try await untilReady(manager)
            #expect(manager.replica(topic: "good", partition: 0) != nil)
        }
    }
}
