import Essentials
import Glibc
import Logging
import NIOCore
import Records
import Replication
import Storage

/// A replica whose log is not what it was: it leaves service at once, is looked through, and fetched
/// again from where the damage starts.
///
/// It gives nothing up before the metadata show that another replica leads and that this one counts
/// neither as in sync nor as eligible: what it still has could be the last copy.
extension Replica {
    /// Looks at why a read failed, and takes the replica out of service if its records are bad.
    func readFailed(_ error: LogError) {
        switch error {
        case .corruptBatch, .missingRecords:
            foundDamage("\(error)")
        case .io(let cause) where cause.code == EIO:
            // Others have what this disk does not give back.
            foundDamage("\(error)")
        default:
            break
        }
    }

    /// Stops all service, as records are bad, and finds out how many.
    func foundDamage(_ reason: String) {
        eventLoop.preconditionInEventLoop()
        guard let opened, let manager, offlineReason == nil, manager.openings.begin() else {
            return
        }
        goOffline(reason, isDamaged: true)
        // Until it is known what can be kept, the log is the storage threads'.
        self.opened = nil
        manager.examine(self, opened)
    }

    /// The log was opened, or looked through, and is damaged from `offset` on.
    func tookDamage(_ opened: OpenedLog, at offset: Offset, highWatermark: Offset) {
        eventLoop.preconditionInEventLoop()
        invariant(self.opened == nil, "\(name) has another log")
        damaged = DamagedLog(opened: opened, offset: offset)
        self.highWatermark = highWatermark
        goOffline("\(LogError.damaged(at: offset))", isDamaged: true)
        repairIfPossible()
    }

    /// The controller counts on this replica no more than it has to.
    func damageIsKnown() {
        eventLoop.preconditionInEventLoop()
        guard isDamaged else { return }
        isDamageKnown = true
        repairIfPossible()
    }

    /// Asks the leader for what is damaged here, if nobody relies on what is left of it.
    ///
    /// Metadata alone are not enough to cut anything off: they may be old, and the leader that they name
    /// may be gone, or have less. So the controller must have answered that it knows of the damage, and
    /// where it notes that, the note must be in what this broker goes by; and then the leader must show
    /// that it runs and has the records. It is asked as by a follower whose log ends where this one will,
    /// so that it takes the replica to have no more, from before anything is cut off.
    func repairIfPossible() {
        let local = environment.nodeID
        guard let damaged, !damaged.opened.disk.hasFailed, !isClosed, isDamageKnown,
            let assignment, let leader = assignment.leader, leader != local,
            !assignment.isr.contains(local), !assignment.eligibleLeaderReplicas.contains(local),
            !hasOfflineMarks || assignment.offlineReplicas.contains(local)
        else { return endRepairQuestion() }
        if let repairQuestion, repairQuestion.leader == leader,
            repairQuestion.position.leaderEpoch == assignment.leaderEpoch
        {
            return
        }
        endRepairQuestion()
        let log = damaged.opened.log
        let end = damaged.offset
        let question = RepairQuestion(
            leader: leader,
            position: PartitionFollower.Position(
                leaderEpoch: assignment.leaderEpoch, offset: end,
                lastFetchedEpoch: log.epoch(before: end), durableEnd: end,
                logStartOffset: min(log.logStartOffset, end),
                highWatermark: min(highWatermark, end)))
        repairQuestion = question
        environment.fetchers.follow(self, leader: leader, position: question.position)
    }

    func endRepairQuestion() {
        guard let question = repairQuestion else { return }
        repairQuestion = nil
        environment.fetchers.unfollow(
            id, leader: question.leader, leaderEpoch: question.position.leaderEpoch)
    }

    /// The leader has answered; cuts off what is damaged if it has that, or all that is known to be
    /// committed.
    func repairAnswered(_ delivery: FollowerDelivery, to question: RepairQuestion)
        -> FollowerReceipt
    {
        guard let damaged, let manager, delivery.asked == question.position,
            delivery.leaderEpoch == question.position.leaderEpoch
        else { return .ignored }
        let hasRecords: Bool
        switch delivery.content {
        case .batches(let bytes):
            hasRecords = bytes.readableBytes > 0 || delivery.highWatermark >= highWatermark
        case .diverging(let end):
            // As a follower does, only without cutting anything off yet.
            let log = damaged.opened.log
            let common = min(end.endOffset, log.endOffset(for: end.epoch).endOffset)
            if common < damaged.offset, damaged.offset > log.logStartOffset {
                self.damaged?.offset = max(common, log.logStartOffset)
                endRepairQuestion()
                repairIfPossible()
                return .ignored
            }
            hasRecords = false
        case .failed(.offsetOutOfRange):
            // Retention has passed what is left here.
            hasRecords = delivery.logStartOffset > damaged.offset
        case .failed:
            hasRecords = false
        }
        guard hasRecords else {
            if !question.isRefused {
                repairQuestion?.isRefused = true
                environment.logger.warning(
                    "the leader does not show that it has what is damaged here, which is kept",
                    metadata: ["partition": "\(name)", "leader": "\(question.leader)"])
            }
            return .failed
        }
        guard manager.openings.begin() else { return .ignored }
        endRepairQuestion()
        self.damaged = nil
        environment.logger.info(
            "cutting off what is damaged, to fetch it again",
            metadata: [
                "partition": "\(name)", "from": "\(damaged.offset)",
                "leader": "\(question.leader)",
            ])
        manager.repair(self, damaged)
        return .ignored
    }

    /// Checks what a follower gets for the second time: it may have refused it.
    ///
    /// - Throws: when it had every reason to.
    func checkRepeated(_ fetch: FollowerFetch, _ bytes: ByteBuffer) throws(LogError) {
        guard bytes.readableBytes > 0 else { return }
        let last = served.updateValue(fetch.position, forKey: fetch.follower)
        guard last == fetch.position else { return }
        let flaw = bytes.withUnsafeReadableBytes { bytes -> RecordError? in
            var rest = bytes[...]
            do throws(RecordError) {
                while !rest.isEmpty {
                    let start = UnsafeRawBufferPointer(rebasing: rest)
                    let header = try RecordBatchHeader(parsing: start)
                    guard header.totalSize <= start.count else { break }
                    try header.checkCRC(
                        UnsafeRawBufferPointer(rebasing: start[..<header.totalSize]))
                    rest = rest.dropFirst(header.totalSize)
                }
                return nil
            } catch {
                return error
            }
        }
        guard let flaw else { return }
        throw .corruptBatch(segment: "\(name) from offset \(fetch.position)", position: 0, flaw)
    }
}

/// What a leader is asked before a damaged log is cut.
struct RepairQuestion {
    var leader: NodeID
    /// Where a follower would be whose log is cut already.
    var position: PartitionFollower.Position
    /// It has answered that it has less.
    var isRefused = false
}

/// A log that takes nothing, and is good only below `offset`.
struct DamagedLog: Sendable {
    var opened: OpenedLog
    var offset: Offset
}

extension ReplicaManager {
    /// Reads all of a log that was found damaged; ends what the caller has begun with `openings`.
    func examine(_ replica: Replica, _ opened: OpenedLog) {
        onPool { [self] in
            let log = opened.log
            let outcome: Result<Opening, LogError>
            do throws(LogError) {
                try log.markDamaged(at: log.logStartOffset)
                if let (offset, _) = try log.verify() {
                    try log.markDamaged(at: offset)
                    outcome = .success(.damaged(DamagedLog(opened: opened, offset: offset)))
                } else {
                    try log.markSound()
                    outcome = .success(.sound(opened))
                }
            } catch {
                // What can't even be read is as good as gone, once another replica has it.
                let damaged = DamagedLog(opened: opened, offset: log.logStartOffset)
                outcome = .success(.damaged(damaged))
            }
            replica.eventLoop.execute {
                self.opened(replica, outcome.map { ($0, replica.highWatermark) })
            }
        }
    }

    /// Cuts off what is damaged; ends what the caller has begun with `openings`.
    func repair(_ replica: Replica, _ damaged: DamagedLog) {
        onPool { [self] in
            let outcome: Opening
            do throws(LogError) {
                try damaged.opened.log.cutDamage(at: damaged.offset)
                outcome = .sound(damaged.opened)
            } catch {
                logger.error(
                    "cannot cut off what is damaged, trying again",
                    metadata: ["partition": "\(replica.name)", "error": "\(error)"])
                outcome = .damaged(damaged)
            }
            let pause: TimeAmount = if case .sound = outcome { .zero } else { .seconds(1) }
            replica.eventLoop.scheduleTask(in: pause) {
                self.opened(replica, .success((outcome, replica.highWatermark)))
            }
        }
    }
}
