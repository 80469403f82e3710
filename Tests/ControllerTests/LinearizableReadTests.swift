import Essentials
import HashTreeCollections
import Metadata
import RPC
import Testing

@testable import Controller
@testable import Quorum

/// What the active controller answers only once a majority has said that it still leads.
@Suite struct LinearizableReadTests {
    private let harness = ControllerHarness()
    private let answers = ControllerHarness.Answers()

    init() {
        harness.lead()
        harness.log.confirmsAtOnce = false
    }

    @Test func answerWaitsForTheConfirmation() {
        harness.read(answers)
        #expect(answers.list == [])
        harness.log.answerReads()
        #expect(answers.list == ["brokers []"])
    }

    @Test("A confirmed answer has everything that was committed when it was asked for")
    func answerWaitsForTheImage() {
        harness.register(1, answers)
        // Committed, as the quorum knows; this node is about to apply it.
        harness.log.highWatermark = harness.log.logEndOffset
        harness.read(answers)
        harness.log.answerReads()
        #expect(answers.list == [])
        harness.commitAll()
        #expect(answers.list == ["epoch 2", "brokers [1]"])
    }

    @Test("What is committed later is not waited for")
    func laterCommitsAreNotWaitedFor() {
        harness.log.highWatermark = harness.controller.committed.nextOffset
        harness.read(answers)
        harness.register(1, answers)
        harness.log.answerReads()
        #expect(answers.list == ["brokers []"])
    }

    @Test("Q28: a controller that was replaced refuses, and says who leads")
    func deposedControllerRefuses() {
        harness.read(answers)
        harness.log.answerReads(false)
        #expect(answers.list == ["NOT_CONTROLLER"])
    }

    @Test("Answers that wait end with the leadership, whether confirmed or not")
    func endOfTheLeadership() {
        harness.log.highWatermark = 100
        harness.read(answers)
        harness.log.answerReads()
        harness.read(answers)
        #expect(answers.list == [])
        harness.controller.stoppedLeading(epoch: 1)
        #expect(answers.list == ["NOT_CONTROLLER", "NOT_CONTROLLER"])
        // The quorum's own answer comes late.
        harness.log.answerReads()
        #expect(answers.list.count == 2)
        harness.read(answers)
        #expect(answers.list.last == "NOT_CONTROLLER")
    }

    @Test("A confirmation of one leadership says nothing about the next")
    func confirmationOfAnEarlierLeadership() {
        harness.read(answers)
        harness.controller.stoppedLeading(epoch: 1)
        harness.lead(2)
        harness.log.answerReads()
        #expect(answers.list == ["NOT_CONTROLLER"])
    }

    @Test("R23: a refusal is an answer too, and no deposed controller gives it")
    func refusalsAreConfirmed() {
        harness.register(1, answers)
        harness.commitAll()
        harness.register(1, answers)
        #expect(answers.list == ["epoch 2"])
        harness.log.answerReads()
        #expect(answers.list == ["epoch 2", "DUPLICATE_BROKER_REGISTRATION"])
        harness.register(1, answers)
        harness.log.answerReads(false)
        #expect(answers.list.last == "NOT_CONTROLLER")
    }

    @Test("A change that is committed needs no further confirmation")
    func changesNeedNoConfirmation() {
        harness.register(1, answers)
        harness.commitAll()
        #expect(answers.list == ["epoch 2"])
        #expect(harness.log.reads.isEmpty)
    }

    @Test("A command that changes nothing is confirmed like a read")
    func emptyAnswersAreConfirmed() {
        harness.controller.submit { state, _ in
            state.electPreferred(limit: 1)
        } completion: { [answers] result in
            answers.list.append(ControllerHarness.text(result.map { "\($0) moved" }))
        }
        #expect(answers.list == [])
        harness.log.answerReads()
        #expect(answers.list == ["0 moved"])
    }

    @Test("Heartbeats wait for no confirmation: brokers must not be lost because voters are slow")
    func heartbeatsAreNotConfirmed() {
        harness.register(1, answers)
        harness.commitAll()
        harness.controller.heartbeat(
            HeartbeatRequest(
                broker: 1, epoch: 2, appliedOffset: 0, wantsFence: false, wantsShutdown: false)
        ) { [answers] result in
            answers.list.append(ControllerHarness.text(result.map { "\($0.isFenced)" }))
        }
        #expect(answers.list == ["epoch 2", "true"])
    }

    @Test func readsThatWaitAreLimited() {
        for _ in 0..<20_000 { harness.controller.read { _ in } }
        harness.read(answers)
        #expect(answers.list == ["THROTTLING_QUOTA_EXCEEDED"])
        harness.log.answerReads()
        harness.read(answers)
        harness.log.answerReads()
        #expect(answers.list.last == "brokers []")
    }
}
