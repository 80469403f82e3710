import Essentials
import NIOCore
import Protocol
import Replication
import SwiftProtobuf
import Testing

@testable import Broker

@Suite("Replica fetch messages")
struct ReplicaFetchCodingTests {
    private let id = TopicPartition(topic: TopicID(high: 1, low: 2), partition: 3)

    @Test func aHandWrittenRequestIsWhatProtobufReads() throws {
        let position = PartitionFollower.Position(
            leaderEpoch: 4, offset: 100, lastFetchedEpoch: .none, durableEnd: 90,
            logStartOffset: 10, highWatermark: 80)
        let bytes = ReplicaFetchCoding.encode(
            clusterID: "cluster", follower: 7, brokerEpoch: 55, maxBytes: 1 << 20,
            maxWait: .milliseconds(500), positions: [(id, position)], count: 1)
        let wire = try WireReplicaFetchRequest(serializedBytes: Array(bytes.readableBytesView))
        #expect(wire.clusterID == "cluster")
        #expect(wire.replicaID == 7)
        #expect(wire.brokerEpoch == 55)
        #expect(wire.maxBytes == 1 << 20)
        #expect(wire.maxWaitMs == 500)
        let partition = try #require(wire.partitions.first)
        #expect(Array(partition.topicID) == id.topic.bytes)
        #expect(partition.partition == 3)
        #expect(partition.leaderEpoch == 4)
        #expect(partition.fetchOffset == 100)
        #expect(partition.lastFetchedEpoch == -1)
        #expect(partition.durableOffset == 90)
        #expect(partition.logStartOffset == 10)
        #expect(partition.highWatermark == 80)

        let request = try ReplicaFetchCoding.Request(bytes)
        #expect(request.follower == 7)
        #expect(request.fetches.first?.id == id)
        #expect(request.fetches.first?.fetch.lastFetchedEpoch == LeaderEpoch.none)
        #expect(request.fetches.first?.fetch.durableEnd == 90)
    }

    @Test func answersKeepEachPartitionsBytesApart() throws {
        let other = TopicPartition(topic: TopicID(high: 9, low: 9), partition: 0)
        func answer(_ id: TopicPartition, _ content: FollowerAnswer.Content) -> FollowerAnswer {
            FollowerAnswer(
                id: id, leaderEpoch: 5, fetchOffset: 20, highWatermark: 30, logStartOffset: 1,
                hasMore: true, content: content)
        }
        let pieces = ReplicaFetchCoding.encode([
            answer(id, .batches(ByteBuffer(string: "abc"))),
            answer(other, .diverging(EpochEnd(epoch: 3, endOffset: 17))),
            answer(other, .failed(.fencedLeaderEpoch)),
            answer(other, .batches(ByteBuffer(string: "defg"))),
        ])
        var message = ByteBuffer()
        for piece in pieces { message.writeImmutableBuffer(piece) }
        let wire = try WireReplicaFetchResponse(serializedBytes: Array(message.readableBytesView))
        #expect([UInt8](wire.recordBatches) == Array("abcdefg".utf8))
        #expect(wire.partitions.map(\.size) == [3, 0, 0, 4])
        #expect(wire.partitions[1].divergingEpoch == 3)
        #expect(wire.partitions[2].error == "FENCED_LEADER_EPOCH")

        let answers = try ReplicaFetchCoding.decodeAnswers(message)
        #expect(answers.map(\.id) == [id, other, other, other])
        #expect(answers.allSatisfy { $0.hasMore && $0.fetchOffset == 20 })
        guard case .batches(let bytes) = answers[3].content else {
            Issue.record("no batches")
            return
        }
        #expect(String(buffer: bytes) == "defg")
    }

    @Test("D15: cut and random messages are refused, never a crash")
    func nonsenseIsRefused() {
        var generator = SeededGenerator(seed: 7)
        for _ in 0..<2_000 {
            let count = Int.random(in: 0..<60, using: &generator)
            let bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
            _ = try? ReplicaFetchCoding.decodeAnswers(ByteBuffer(bytes: bytes))
            _ = try? ReplicaFetchCoding.Request(ByteBuffer(bytes: bytes))
        }
        var truncated = ByteBuffer()
        let answer = FollowerAnswer(
            id: id, leaderEpoch: 5, fetchOffset: 20, highWatermark: 30, logStartOffset: 1,
            hasMore: false, content: .batches(ByteBuffer(string: "abcdef")))
        for piece in ReplicaFetchCoding.encode([answer]) { truncated.writeImmutableBuffer(piece) }
        truncated.moveWriterIndex(to: truncated.writerIndex - 1)
        #expect(throws: (any Error).self) { try ReplicaFetchCoding.decodeAnswers(truncated) }
    }
}
