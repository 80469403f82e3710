import Essentials
import HashTreeCollections
import Logging
import Metadata
import NIOCore
import NIOEmbedded
import RPC
import Testing

@testable import Controller
@testable import Quorum

/// A log whose commits happen when the test says so, and whose leadership is confirmed at once unless
/// the test wants to do it.
final class FakeLog: ProposalLog {
    var logEndOffset: Offset = 1
    var uncommitted: [CommittedBatch] = []
    var isLeader = true
    var isTooSmall = false
    /// The end of what is committed, as far as the quorum knows.
    var highWatermark: Offset = 0
    var confirmsAtOnce = true
    private(set) var reads: [(Result<Offset, QuorumError>) -> Void] = []

    func propose(_ records: [[UInt8]], epoch: LeaderEpoch) throws(QuorumError) -> Offset {
        guard isLeader else { throw .notLeader(nil, epoch: epoch) }
        guard !isTooSmall else { throw .batchTooLarge(bytes: 2, limit: 1) }
        uncommitted.append(Self.batch(at: logEndOffset, epoch: epoch, records: records))
        logEndOffset += Int64(records.count)
        return logEndOffset + -1
    }

    func read(_ completion: @escaping (Result<Offset, QuorumError>) -> Void) {
        guard !confirmsAtOnce else { return completion(.success(highWatermark)) }
        reads.append(completion)
    }

    /// A majority has said that this node leads, or not.
    func answerReads(_ isLeader: Bool = true) {
        let reads = reads
        self.reads = []
        for read in reads {
            read(isLeader ? .success(highWatermark) : .failure(.notLeader(nil, epoch: 1)))
        }
    }

    static func batch(
        at offset: Offset, epoch: LeaderEpoch, records: [[UInt8]]
    ) -> CommittedBatch {
        CommittedBatch(
            baseOffset: offset, nextOffset: offset + Int64(max(records.count, 1)), epoch: epoch,
            appendTimestamp: 0, records: records)
    }
}

/// The shell of the active controller on such a log.
final class ControllerHarness {
    final class Answers {
        var list: [String] = []
    }

    let loop = EmbeddedEventLoop()
    let log = FakeLog()
    let controller: ActiveController

    init(options: ControllerOptions = ControllerOptions(clusterID: "c")) {
        controller = ActiveController(
            local: 101, options: options, eventLoop: loop,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            log: { [log] in log }, leaderAddress: { "controller 102 at host:1" })
    }

    func lead(_ epoch: LeaderEpoch = 1) {
        controller.committed(
            FakeLog.batch(at: controller.committed.nextOffset, epoch: epoch, records: []))
        log.logEndOffset = controller.committed.nextOffset
        log.uncommitted = []
        controller.startedLeading(epoch: epoch)
        // The level of the metadata records, in a new cluster.
        commitAll()
    }

    func commitAll() {
        let batches = log.uncommitted
        log.uncommitted = []
        for batch in batches {
            log.highWatermark = batch.nextOffset
            controller.committed(batch)
        }
    }

    func register(_ id: Int32, _ answers: Answers) {
        let request = RegistrationRequest(
            clusterID: "c", broker: NodeID(id), incarnation: .random(), host: "h", port: 1,
            directories: [], maxFeatureLevel: 3)
        controller.submit { state, now throws(ControllerError) in
            try state.registerBroker(request, now: now)
        } completion: { result in
            answers.list.append(Self.text(result.map { "epoch \($0.epoch)" }))
        }
    }

    /// Registers a broker and lets it serve.
    func serve(_ id: NodeID) throws -> BrokerEpoch {
        register(id.rawValue, Answers())
        commitAll()
        let epoch = try #require(controller.committed.brokers[id]?.epoch)
        controller.heartbeat(
            HeartbeatRequest(
                broker: id, epoch: epoch, appliedOffset: controller.committed.nextOffset)
        ) { _ in }
        commitAll()
        #expect(controller.committed.isActive(id))
        return epoch
    }

    /// Creates a topic with one replica list for each partition.
    func createTopic(_ name: String, _ assignments: [[NodeID]]) {
        controller.submit { state, _ throws(ControllerError) in
            try state.createTopic(NewTopic(name: name, assignments: assignments))
        } completion: { _ in
        }
        commitAll()
    }

    func read(_ answers: Answers) {
        controller.read { result in
            answers.list.append(Self.text(result.map { "brokers \($0.brokers.keys.sorted())" }))
        }
    }

    static func text(_ result: Result<String, RPCError>) -> String {
        switch result {
        case .success(let text): text
        case .failure(let error): error.code?.name ?? "\(error.status)"
        }
    }
}
