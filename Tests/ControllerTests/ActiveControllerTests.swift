import Essentials
import Logging
import HashTreeCollections
import Metadata
import NIOCore
import NIOEmbedded
import RPC
import Testing

@testable import Controller
@testable import Quorum

/// The shell on a log whose commits happen when the test says so.
@Suite struct ActiveControllerTests {
    private let harness = ControllerHarness()
    private var log: FakeLog { harness.log }
    private var controller: ActiveController { harness.controller }

    private typealias Answers = ControllerHarness.Answers

    private func lead(_ epoch: LeaderEpoch = 1) { harness.lead(epoch) }
    private func commitAll() { harness.commitAll() }
    private func register(_ id: Int32, _ answers: Answers) { harness.register(id, answers) }

    @Test("R23") func answersWaitForTheCommit() {
        lead()
        let answers = Answers()
        register(1, answers)
        #expect(answers.list == [])
        #expect(controller.committed.brokers.isEmpty)
        commitAll()
        #expect(answers.list == ["epoch 2"])
        #expect(controller.committed.brokers.count == 1)
    }

    @Test("R23") func refusalThatRestsOnAnUncommittedChangeWaitsToo() {
        lead()
        let answers = Answers()
        register(1, answers)
        register(1, answers)
        #expect(answers.list == [])
        commitAll()
        #expect(answers.list == ["epoch 2", "DUPLICATE_BROKER_REGISTRATION"])
        register(1, answers)
        #expect(answers.list.count == 3)
    }

    @Test("Q28") func losingTheLeadershipLeavesProposedChangesUnknown() {
        lead()
        let answers = Answers()
        register(1, answers)
        register(1, answers)
        controller.stoppedLeading(epoch: 1)
        #expect(answers.list == ["REQUEST_TIMED_OUT", "NOT_CONTROLLER"])
        register(1, answers)
        #expect(answers.list.last == "NOT_CONTROLLER")
    }

    @Test("R23, Q28") func speculationEndsWithTheLeadership() {
        lead()
        let answers = Answers()
        register(1, answers)
        controller.stoppedLeading(epoch: 1)
        lead(2)
        register(1, answers)
        commitAll()
        #expect(answers.list == ["REQUEST_TIMED_OUT", "epoch 3"])
    }

    @Test func changeThatTheLogDoesNotTakeIsRefused() {
        lead()
        log.isLeader = false
        let answers = Answers()
        register(1, answers)
        #expect(answers.list == ["NOT_CONTROLLER"])
    }

    @Test func changeThatIsTooLargeIsRefusedAsSuch() {
        lead()
        log.isTooSmall = true
        let answers = Answers()
        register(1, answers)
        #expect(answers.list == ["RECORD_LIST_TOO_LARGE"])
        log.isTooSmall = false
        register(1, answers)
        commitAll()
        #expect(answers.list.last == "epoch 2")
    }

    private func heartbeat(_ id: Int32, epoch: BrokerEpoch, _ answers: Answers) {
        let request = HeartbeatRequest(
            broker: NodeID(id), epoch: epoch, appliedOffset: 0, wantsFence: false,
            wantsShutdown: false)
        controller.heartbeat(request) { result in
            answers.list.append(
                ControllerHarness.text(result.map { $0.isFenced ? "fenced" : "active" }))
        }
    }

    @Test func heartbeatDoesNotWaitForTheChangesOfOthers() {
        lead()
        let answers = Answers()
        register(1, answers)
        heartbeat(1, epoch: 2, answers)
        #expect(answers.list == [])
        commitAll()
        #expect(answers.list == ["epoch 2", "fenced"])
        register(2, answers)
        heartbeat(1, epoch: 2, answers)
        #expect(answers.list == ["epoch 2", "fenced", "fenced"])
        heartbeat(1, epoch: 7, answers)
        #expect(answers.list.count == 3)
        commitAll()
        #expect(answers.list.suffix(2) == ["epoch 3", "STALE_BROKER_EPOCH"])
    }

    @Test func standbyNamesTheActiveController() {
        #expect(controller.notController().message.contains("controller 102 at host:1"))
        #expect(!controller.isActive)
    }

    @Test func standbyFollowsTheLog() {
        controller.committed(
            FakeLog.batch(
                at: 0, epoch: 1,
                records: [MetadataRecord.topic(id: TopicID(high: 1, low: 1), name: "t").encoded()]))
        #expect(controller.committed.topic(named: "t") != nil)
        #expect(controller.committed.nextOffset == 1)
    }

    @Test func recordThatCannotBeAppliedStopsTheController() {
        var failures = 0
        controller.onFailure = { _ in failures += 1 }
        let topic = MetadataRecord.topic(id: TopicID(high: 1, low: 1), name: "t").encoded()
        controller.committed(FakeLog.batch(at: 0, epoch: 1, records: [topic, [0xff]]))
        #expect(failures == 1)
        #expect(controller.committed.topics.isEmpty)
        #expect(controller.committed.nextOffset == 0)
        // Nothing that comes after it counts, and this node leads no more.
        controller.committed(FakeLog.batch(at: 2, epoch: 1, records: [topic]))
        #expect(failures == 1)
        #expect(controller.committed.nextOffset == 0)
        controller.startedLeading(epoch: 1)
        #expect(!controller.isActive)
    }
}
