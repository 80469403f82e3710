import Essentials
import HashTreeCollections
import Logging
import Metadata
import Testing

@testable import Broker
@testable import Quorum

/// The broker's copy of the metadata, fed by hand, where the test runs.
@Suite struct BrokerMetadataTests {
    private struct Seen: Equatable {
        var offset: Offset
        var delta: MetadataDelta
    }

    private final class Box {
        var seen: [Seen] = []
        var answers: [String] = []
        var failures = 0
        var highWatermark: Offset = 0
    }

    private let metadata = BrokerMetadata(
        logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    private let box = Box()

    init() {
        metadata.setHighWatermarkSource { [box] in box.highWatermark }
        metadata.onFailure = { [box] _ in box.failures += 1 }
    }

    private func subscribe() {
        metadata.subscribe { [box] image, delta in
            box.seen.append(Seen(offset: image.nextOffset, delta: delta))
        }
    }

    private func wait(below offset: Offset, _ name: String) {
        metadata.whenApplied(below: offset) { [box] result in
            switch result {
            case .success: box.answers.append(name)
            case .failure: box.answers.append("\(name) failed")
            }
        }
    }

    private func commit(_ records: [[UInt8]], at offset: Offset, epoch: LeaderEpoch = 1) {
        metadata.committed(
            CommittedBatch(
                baseOffset: offset, nextOffset: offset + Int64(max(1, records.count)),
                epoch: epoch, appendTimestamp: 0, records: records))
    }

    private static func topic(_ number: UInt64) -> MetadataRecord {
        .topic(id: TopicID(high: 0, low: number), name: "t\(number)")
    }

    @Test func recordsAreAppliedAndPublished() {
        subscribe()
        #expect(box.seen == [Seen(offset: 0, delta: MetadataDelta())])
        box.highWatermark = 1
        commit([Self.topic(1).encoded()], at: 0)
        #expect(metadata.current.topic(named: "t1") != nil)
        #expect(box.seen.last?.offset == 1)
        #expect(box.seen.last?.delta.createdTopics == [TopicID(high: 0, low: 1)])
        // What was handed out once does not come again.
        box.highWatermark = 2
        commit([Self.topic(2).encoded()], at: 1)
        #expect(box.seen.last?.delta.createdTopics == [TopicID(high: 0, low: 2)])
    }

    @Test("A burst of old records is one publication, with all that it changed")
    func aBurstIsPublishedOnce() {
        subscribe()
        box.highWatermark = 30
        for number in 0..<30 {
            commit([Self.topic(UInt64(number)).encoded()], at: Offset(Int64(number)))
            if number < 29 {
                #expect(metadata.current.topics.isEmpty)
                #expect(metadata.appliedOffset == 0)
            }
        }
        #expect(box.seen.map(\.offset) == [0, 30])
        #expect(box.seen.last?.delta.createdTopics.count == 30)
    }

    @Test("Control batches move the offset, and nothing else")
    func controlBatchesAreFollowed() {
        subscribe()
        box.highWatermark = 3
        commit([], at: 2, epoch: 7)
        #expect(metadata.appliedOffset == 3)
        #expect(metadata.current.lastEpoch == 7)
        #expect(box.seen.last?.delta.isEmpty == true)
    }

    @Test func whoeverWaitsForAnOffsetIsCalledOnceItIsPublished() {
        box.highWatermark = 2
        wait(below: 0, "nothing")
        wait(below: 1, "first")
        wait(below: 2, "second")
        wait(below: 3, "third")
        #expect(box.answers == ["nothing"])
        commit([Self.topic(1).encoded()], at: 0)
        // Applied, but more is on its way: nobody can see it yet.
        wait(below: 1, "late")
        #expect(box.answers == ["nothing"])
        commit([Self.topic(2).encoded()], at: 1)
        #expect(box.answers == ["nothing", "first", "second", "late"])
        box.highWatermark = 3
        commit([Self.topic(3).encoded()], at: 2)
        #expect(box.answers.last == "third")
    }

    @Test func waiterMayWaitAgain() {
        box.highWatermark = 1
        metadata.whenApplied(below: 1) { [self] _ in wait(below: 2, "again") }
        commit([Self.topic(1).encoded()], at: 0)
        #expect(box.answers == [])
        box.highWatermark = 2
        commit([Self.topic(2).encoded()], at: 1)
        #expect(box.answers == ["again"])
    }

    @Test("R22: a record that can't be understood ends the copy, and its batch leaves no trace")
    func recordThatCannotBeUnderstood() {
        subscribe()
        box.highWatermark = 1
        commit([Self.topic(1).encoded()], at: 0)
        box.highWatermark = 3
        wait(below: 3, "waiter")
        commit([Self.topic(2).encoded(), [0xff, 0xff]], at: 1)
        #expect(box.failures == 1)
        #expect(box.answers == ["waiter failed"])
        #expect(metadata.current.nextOffset == 1)
        #expect(metadata.current.topic(named: "t2") == nil)
        #expect(box.seen.map(\.offset) == [0, 1])
        // Nothing that comes after counts, nobody is told, and nobody waits for it.
        commit([Self.topic(3).encoded()], at: 3)
        #expect(metadata.current.nextOffset == 1 && box.failures == 1)
        wait(below: 1, "after")
        #expect(box.answers.last == "after failed")
        subscribe()
        #expect(box.seen.map(\.offset) == [0, 1])
    }

    @Test("A record of a kind that a later release brought ends the copy, too")
    func recordOfAnUnknownKind() {
        // Field 1000, with an empty message.
        box.highWatermark = 1
        commit([[0xc2, 0x3e, 0x00]], at: 0)
        #expect(box.failures == 1)
        #expect(metadata.current.nextOffset == 0)
    }

    @Test("A record that contradicts the image ends the copy, too")
    func recordThatDoesNotApply() {
        box.highWatermark = 2
        commit([Self.topic(1).encoded()], at: 0)
        commit([Self.topic(1).encoded()], at: 1)
        #expect(box.failures == 1)
        // What was applied before and not published is not published any more.
        #expect(metadata.current.nextOffset == 0)
    }

    @Test func subscriberThatComesLateGetsTheWholeImage() {
        box.highWatermark = 2
        commit([Self.topic(1).encoded()], at: 0)
        subscribe()
        #expect(box.seen.map(\.offset) == [1])
        commit([Self.topic(2).encoded()], at: 1)
        #expect(box.seen.map(\.offset) == [1, 2])
        #expect(box.seen.last?.delta.createdTopics == [TopicID(high: 0, low: 2)])
    }
}
