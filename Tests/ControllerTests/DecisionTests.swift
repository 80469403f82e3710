import Essentials
import HashTreeCollections
import Metadata
import RPC
import Testing

@testable import Controller
@testable import Quorum

/// Decisions are seen whole or not at all, and only those who may take part in them.
@Suite struct DecisionTests {
    private let harness: ControllerHarness
    private let answers = ControllerHarness.Answers()

    init() {
        var options = ControllerOptions(clusterID: "c")
        // So that losing one broker of many partitions takes several batches.
        options.maxBatchBytes = 400
        harness = ControllerHarness(options: options)
        harness.lead()
    }

    private func leaders(of broker: NodeID) -> Int {
        harness.controller.committed.leaderCount(of: broker)
    }

    private func commitOne() {
        let batch = harness.log.uncommitted.removeFirst()
        harness.log.highWatermark = batch.nextOffset
        harness.controller.committed(batch)
    }

    @Test("R23: the batches of one decision follow each other, and its answer waits for the last")
    func decisionOfSeveralBatches() throws {
        let epoch = try harness.serve(1)
        _ = try harness.serve(2)
        for number in 0..<30 { harness.createTopic("t\(number)", [[1, 2]]) }
        #expect(leaders(of: 1) == 30)
        harness.controller.brokerGone(1, epoch: epoch)
        #expect(harness.log.uncommitted.count > 1)
        harness.register(3, answers)
        while harness.log.uncommitted.count > 1 {
            #expect(answers.list == [])
            commitOne()
            // Each batch leaves a state that breaks no rule.
            for id in harness.controller.committed.partitions(on: 1) {
                let state = try #require(harness.controller.committed.partition(id))
                #expect(state.brokenRule == nil)
            }
        }
        commitOne()
        #expect(answers.list.count == 1)
        #expect(leaders(of: 1) == 0 && leaders(of: 2) == 30)
        #expect(harness.controller.committed.brokers[1]?.fenced == true)
    }

    @Test("Q28: what is left of a decision when the leadership ends is finished by the next leader")
    func lastBatchesAreLost() throws {
        let epoch = try harness.serve(1)
        _ = try harness.serve(2)
        for number in 0..<30 { harness.createTopic("t\(number)", [[1, 2]]) }
        harness.controller.brokerGone(1, epoch: epoch)
        commitOne()
        harness.controller.stoppedLeading(epoch: 1)
        #expect(leaders(of: 1) + leaders(of: 2) <= 30)
        harness.lead(2)
        harness.commitAll()
        // Whatever was left is led by the broker that lives, or the session of the other one ends.
        harness.controller.brokerGone(1, epoch: epoch)
        harness.commitAll()
        #expect(leaders(of: 1) == 0 && leaders(of: 2) == 30)
    }

    @Test(
        "R22: a batch of which one record makes no sense leaves no trace, and no answer rests on it"
    )
    func partialBatchIsNeverVisible() {
        harness.register(1, answers)
        let topic = MetadataRecord.topic(id: TopicID(high: 1, low: 1), name: "t").encoded()
        harness.log.confirmsAtOnce = false
        harness.read(answers)
        harness.controller.committed(
            FakeLog.batch(
                at: harness.controller.committed.nextOffset, epoch: 1, records: [topic, [0xff]]))
        #expect(harness.controller.committed.topics.isEmpty)
        #expect(answers.list == ["REQUEST_TIMED_OUT", "NOT_CONTROLLER"])
        harness.read(answers)
        #expect(answers.list.last == "NOT_CONTROLLER")
    }

    @Test(
        "R23: speculation is dropped with the leadership; the next one starts from what is committed"
    )
    func speculationIsDropped() throws {
        let epoch = try harness.serve(1)
        _ = try harness.serve(2)
        harness.createTopic("t", [[1, 2]])
        // Proposed, never committed, and gone with the leadership.
        harness.controller.brokerGone(1, epoch: epoch)
        harness.controller.submit { state, _ throws(ControllerError) in
            try state.deleteTopic(named: "t")
        } completion: { [answers] result in
            answers.list.append(ControllerHarness.text(result.map { "\($0)" }))
        }
        harness.controller.stoppedLeading(epoch: 1)
        #expect(answers.list == ["REQUEST_TIMED_OUT"])
        #expect(harness.controller.committed.topic(named: "t") != nil)
        #expect(harness.controller.committed.isActive(1))
        harness.lead(2)
        #expect(harness.controller.leadership?.state.image.topic(named: "t") != nil)
        #expect(harness.controller.leadership?.state.image.isActive(1) == true)
        harness.read(answers)
        #expect(answers.list.last == "brokers [1, 2]")
    }

    @Test("C1: nobody decides anything under the epoch of an earlier process")
    func staleBrokerEpochs() throws {
        let epoch = try harness.serve(1)
        _ = try harness.serve(2)
        harness.createTopic("t", [[1, 2]])
        let stale = BrokerEpoch(epoch.rawValue - 1)
        let id = try #require(
            harness.controller.committed.partitions(on: 1).first { $0.partition == 0 })
        let before = harness.controller.committed
        let change = AlterPartitionRequest.Change(
            id: id, leaderEpoch: 0, partitionEpoch: 0, isr: [.init(broker: 1, epoch: stale)])

        submit { state, _ throws(ControllerError) in
            try state.alterPartition(.init(broker: 1, epoch: stale, changes: [change]))
        }
        #expect(answers.list.last == "STALE_BROKER_EPOCH")
        harness.controller.heartbeat(
            HeartbeatRequest(broker: 1, epoch: stale, appliedOffset: 0, wantsShutdown: true)
        ) { [answers] result in
            answers.list.append(ControllerHarness.text(result.map { _ in "heard" }))
        }
        #expect(answers.list.last == "STALE_BROKER_EPOCH")
        submit { state, _ throws(ControllerError) in
            try state.allocateProducerIDs(broker: 1, epoch: stale)
        }
        #expect(answers.list.last == "STALE_BROKER_EPOCH")
        harness.controller.brokerGone(1, epoch: stale)
        #expect(harness.log.uncommitted.isEmpty)
        #expect(harness.controller.committed == before)

        // The members of an ISR, too, are processes and not just numbers.
        var outcomes: [AlterPartitionOutcome] = []
        harness.controller.submit { state, _ throws(ControllerError) in
            try state.alterPartition(.init(broker: 1, epoch: epoch, changes: [change]))
        } completion: { result in
            if case .success(let all) = result { outcomes = all }
        }
        #expect(outcomes.map(\.error) == [.ineligibleReplica])
        #expect(harness.controller.committed == before)
    }

    private func submit<Reply: Sendable>(
        _ command: (inout ControllerState, MonotonicTime) throws(ControllerError) ->
            ControllerResult<Reply>
    ) {
        harness.controller.submit(command) { [answers] result in
            answers.list.append(ControllerHarness.text(result.map { _ in "done" }))
        }
    }
}
