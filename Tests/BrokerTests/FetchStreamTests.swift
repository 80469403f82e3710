import Essentials
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import RPC
import Records
import SwiftProtobuf
import Synchronization
import Testing

@testable import Broker

/// Streams of committed batches, over a connection.
@Suite struct FetchStreamTests {
    /// What a reader got.
    private final class Reader: Sendable {
        private struct State {
            var answers: [WireFetchResponse] = []
            var values: [String] = []
            var bytes = 0
            var end: RPCError??
        }
        private let state = Mutex(State())

        func take(_ message: ByteBuffer) {
            do {
                let answer = try PayloadEncoding.protobuf.decode(
                    WireFetchResponse.self, from: message)
                var values: [String] = []
                var reader = RecordReader(ByteBuffer(bytes: answer.recordBatches))
                while let record = try reader.next() {
                    values.append(record.value.map { String(buffer: $0) } ?? "")
                }
                state.withLock { state in
                    state.answers.append(answer)
                    state.values += values
                    state.bytes += message.readableBytes
                }
            } catch {
                Issue.record("\(error)")
            }
        }

        func end(_ error: RPCError?) { state.withLock { $0.end = .some(error) } }

        var answers: [WireFetchResponse] { state.withLock { $0.answers } }
        var values: [String] { state.withLock { $0.values } }
        var bytes: Int { state.withLock { $0.bytes } }
        var hasEnded: Bool { state.withLock { $0.end != nil } }
        var error: RPCError? { state.withLock { $0.end ?? nil } }
    }

    /// A broker's `FetchStream` alone: the metadata is left out.
    private func withClient(
        of cluster: ReplicaCluster, limits: RPCLimits = RPCLimits(),
        clientLimits: RPCLimits = RPCLimits(), _ body: (RPCClient) async throws -> Void
    ) async throws {
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let manager = try cluster.manager(1)
        var router = Router()
        router.register("/test/FetchStream", streaming: true) { call in
            do throws(RPCError) {
                let request = try call.decode(WireFetchRequest.self)
                guard let replica = manager.replica(topic: request.topic, partition: 0) else {
                    throw RPCError(.unknownTopicOrPartition, "none")
                }
                FetchStream(request, from: replica, maxBytes: 1 << 16, call: call).start()
            } catch {
                call.fail(error)
            }
        }
        let group = MultiThreadedEventLoopGroup.singleton
        let server = try await RPCServer.start(
            host: "127.0.0.1", port: 0, router: router, group: group, limits: limits,
            logger: logger)
        let client = RPCClient(
            host: "127.0.0.1", port: server.port, eventLoop: group.next(), limits: clientLimits,
            logger: logger)
        let result: Result<Void, any Error>
        do {
            try await body(client)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        client.close()
        await server.stop(grace: .zero)
        try result.get()
    }

    private func open(
        _ client: RPCClient, from offset: Int64 = 0, epoch: Int32? = nil
    ) throws -> (stream: ClientStream, reader: Reader) {
        var request = WireFetchRequest()
        request.topic = "t"
        request.offset = offset
        if let epoch { request.currentLeaderEpoch = epoch }
        let reader = Reader()
        let stream = client.serverStream(
            "/test/FetchStream", [try PayloadEncoding.protobuf.encode(request)],
            onMessage: { reader.take($0) }, onEnd: { reader.end($0) })
        return (stream, reader)
    }

    private func waiting(_ cluster: ReplicaCluster) async throws -> Int {
        let replica = try #require(try cluster.manager(1).replica(topic: "t", partition: 0))
        return try await replica.eventLoop.submit {
            replica.readers.count { !$0.isCancelled }
        }.get()
    }

    @Test func recordsArePushedAsTheyAreCommitted() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            try await withClient(of: cluster) { client in
                let (stream, reader) = try open(client)
                try await cluster.eventually("the old one") { reader.values == ["old"] }
                for number in 0..<10 {
                    _ = try await cluster.produce(["\(number)"], to: "t", at: 1)
                }
                let all = ["old"] + (0..<10).map { "\($0)" }
                try await cluster.eventually("all in order, each once") { reader.values == all }
                #expect(reader.answers.last?.highWatermark == 11)
                stream.cancel()
            }
        }
    }

    @Test("A reader at the end hears at once where that is, and then only of records")
    func firstAnswerComesAtOnce() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            try await withClient(of: cluster) { client in
                let (stream, reader) = try open(client, from: 1)
                try await cluster.eventually("the first answer") { reader.answers.count == 1 }
                #expect(reader.answers.first?.highWatermark == 1)
                #expect(reader.answers.first?.recordBatches.isEmpty == true)
                try await cluster.eventually("it waits") { try await waiting(cluster) == 1 }
                #expect(reader.answers.count == 1)
                _ = try await cluster.produce(["new"], to: "t", at: 1)
                try await cluster.eventually("the record") { reader.values == ["new"] }
                stream.cancel()
            }
        }
    }

    @Test func readerThatGoesAwayIsForgotten() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            try await withClient(of: cluster) { client in
                let (stream, _) = try open(client)
                try await cluster.eventually("it waits") { try await waiting(cluster) == 1 }
                stream.cancel()
                try await cluster.eventually("nobody waits") { try await waiting(cluster) == 0 }
                let (_, reader) = try open(client)
                try await cluster.eventually("it waits") { try await waiting(cluster) == 1 }
                client.close()
                try await cluster.eventually("nobody waits") { try await waiting(cluster) == 0 }
                #expect(reader.hasEnded)
            }
        }
    }

    @Test("A reader that holds back is sent no more than its window, and the rest when it goes on")
    func slowReader() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            let value = String(repeating: "x", count: 20_000)
            for _ in 0..<60 { _ = try await cluster.produce([value], to: "t", at: 1) }
            var limits = RPCLimits()
            limits.maxQueuedBytes = 50_000
            var clientLimits = RPCLimits()
            clientLimits.streamWindow = 100_000
            try await withClient(of: cluster, limits: limits, clientLimits: clientLimits) {
                client in
                let (stream, reader) = try open(client)
                try await cluster.eventually("the window is full") { reader.values.count >= 3 }
                #expect(reader.values.count < 30)
                #expect(try await waiting(cluster) == 0)
                var used = 0
                try await cluster.eventually("all of it") {
                    let bytes = reader.bytes
                    stream.consume(bytes - used)
                    used = bytes
                    return reader.values.count == 60
                }
                let replica = try #require(
                    try cluster.manager(1).replica(topic: "t", partition: 0))
                try await cluster.eventually("the answers take up no memory") {
                    replica.environment.fetchMemory.usedBytes == 0
                }
                stream.cancel()
            }
        }
    }

    @Test func leaderThatIsReplacedEndsItsStreams() async throws {
        try await ReplicaCluster.run { cluster in
            let id = TopicPartition(topic: try cluster.createTopic("t"), partition: 0)
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            try await withClient(of: cluster) { client in
                let (_, reader) = try open(client)
                try await cluster.eventually("it waits") { try await waiting(cluster) == 1 }
                cluster.elect(2, isr: [1, 2, 3], of: id)
                try await cluster.eventually("it ends") { reader.hasEnded }
                #expect(reader.error?.code == .notLeaderOrFollower)
                #expect(reader.values == ["old"])
            }
        }
    }

    @Test func deletedTopicEndsItsStreams() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            let id = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            try await withClient(of: cluster) { client in
                let (_, reader) = try open(client)
                try await cluster.eventually("it waits") { try await waiting(cluster) == 1 }
                cluster.commit([.removeTopic(id)])
                try await cluster.eventually("it ends") { reader.hasEnded }
                #expect(reader.error != nil)
            }
        }
    }

    @Test func refusalsEndTheStreamBeforeItBegins() async throws {
        try await ReplicaCluster.run(brokers: [1]) { cluster in
            _ = try cluster.createTopic("t", replicas: [1])
            _ = try await cluster.produce(["old"], to: "t", at: 1)
            try await withClient(of: cluster) { client in
                let (_, beyond) = try open(client, from: 5)
                try await cluster.eventually("it ends") { beyond.hasEnded }
                #expect(beyond.error?.code == .offsetOutOfRange)
                let (_, epoch) = try open(client, epoch: 3)
                try await cluster.eventually("it ends") { epoch.hasEnded }
                #expect(epoch.error?.code == .unknownLeaderEpoch)
                #expect(epoch.answers.isEmpty)
            }
        }
    }
}
