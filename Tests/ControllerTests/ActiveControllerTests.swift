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
    private final class FakeLog: ProposalLog {
        var logEndOffset: Offset = 1
        var uncommitted: [CommittedBatch] = []
        var isLeader = true
        var isTooSmall = false

        func propose(_ records: [[UInt8]], epoch: LeaderEpoch) throws(QuorumError) -> Offset {
            guard isLeader else { throw .notLeader(nil, epoch: epoch) }
            guard !isTooSmall else { throw .batchTooLarge(bytes: 2, limit: 1) }
            uncommitted.append(
                ActiveControllerTests.batch(at: logEndOffset, epoch: epoch, records: records))
            logEndOffset += Int64(records.count)
            return logEndOffset + -1
        }
    }

    private let loop = EmbeddedEventLoop()
    private let log = FakeLog()
    private let controller: ActiveController

    init() {
        controller = ActiveController(
            local: 101, options: ControllerOptions(clusterID: "c"), eventLoop: loop,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            log: { [log] in log }, leaderAddress: { "controller 102 at host:1" })
    }

    private static func batch(
        at offset: Offset, epoch: LeaderEpoch, records: [[UInt8]]
    ) -> CommittedBatch {
        CommittedBatch(
            baseOffset: offset, nextOffset: offset + Int64(max(records.count, 1)), epoch: epoch,
            appendTimestamp: 0, records: records)
    }

    private func lead(_ epoch: LeaderEpoch = 1) {
        controller.committed(
            Self.batch(at: controller.committed.nextOffset, epoch: epoch, records: []))
        log.logEndOffset = controller.committed.nextOffset
        log.uncommitted = []
        controller.startedLeading(epoch: epoch)
        // The level of the metadata records, in a new cluster.
        commitAll()
    }

    private func commitAll() {
        let batches = log.uncommitted
        log.uncommitted = []
        for batch in batches { controller.committed(batch) }
    }

    private final class Answers {
        var list: [String] = []
    }

    private func register(_ id: Int32, _ answers: Answers) {
        let request = RegistrationRequest(
            clusterID: "c", broker: NodeID(id), incarnation: .random(), host: "h", port: 1,
            directories: [], maxFeatureLevel: 1)
        controller.submit { state, now throws(ControllerError) in
            try state.registerBroker(request, now: now)
        } completion: { result in
            answers.list.append(Self.text(result.map { "epoch \($0.epoch)" }))
        }
    }

    private static func text(_ result: Result<String, RPCError>) -> String {
        switch result {
        case .success(let text): text
        case .failure(let error): error.code?.name ?? "\(error.status)"
        }
    }

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
            answers.list.append(Self.text(result.map { $0.isFenced ? "fenced" : "active" }))
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
            Self.batch(
                at: 0, epoch: 1,
                records: [MetadataRecord.topic(id: TopicID(high: 1, low: 1), name: "t").encoded()]))
        #expect(controller.committed.topic(named: "t") != nil)
        #expect(controller.committed.nextOffset == 1)
    }

    @Test func recordThatCannotBeAppliedStopsTheController() {
        var failures = 0
        controller.onFailure = { _ in failures += 1 }
        let topic = MetadataRecord.topic(id: TopicID(high: 1, low: 1), name: "t").encoded()
        controller.committed(Self.batch(at: 0, epoch: 1, records: [topic, [0xff]]))
        #expect(failures == 1)
        #expect(controller.committed.topics.isEmpty)
        #expect(controller.committed.nextOffset == 0)
        // Nothing that comes after it counts, and this node leads no more.
        controller.committed(Self.batch(at: 2, epoch: 1, records: [topic]))
        #expect(failures == 1)
        #expect(controller.committed.nextOffset == 0)
        controller.startedLeading(epoch: 1)
        #expect(!controller.isActive)
    }
}
