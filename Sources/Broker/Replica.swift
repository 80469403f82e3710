import DequeModule
import Essentials
import Logging
import NIOCore
import Protocol
import RPC
import Replication
import Storage

/// One partition's replica on this broker: its log, and the core that leads or follows.
///
/// States: *opening* until its log is recovered; *idle* while nobody leads; *leading*; *following*;
/// *offline* after its disk has failed; *closed* once removed. Metadata moves it between idle, leading
/// and following; each leader epoch begins with a new core.
final class Replica: @unchecked Sendable {
    // Sendable: the constants are; all else is touched on `eventLoop` only.

    let id: TopicPartition
    let topic: String
    let eventLoop: any EventLoop
    let shard: ReplicaShard
    let environment: ReplicaEnvironment

    /// The log and the disk it is on; `nil` while opening and once closed.
    var opened: OpenedLog?
    /// The log while it is known to be damaged, and nobody looks at it; it is not `opened` then.
    var damaged: DamagedLog?
    /// Whom the replica asks whether it has what is to be cut off here.
    var repairQuestion: RepairQuestion?
    /// A controller has answered that the log is damaged.
    var isDamageKnown = false
    /// Whether the metadata say of replicas that they are offline.
    var hasOfflineMarks = false
    /// What was assigned when the log was let go of for a moment, to be moved; its role goes on after that.
    var pausedWith: PartitionAssignment??
    /// Whose it is; gone only when the broker is.
    weak var manager: ReplicaManager?
    /// Not both; neither while idle, opening, offline or closed.
    var leader: PartitionLeader?
    var follower: PartitionFollower?
    /// Why the replica cannot be used, as the controller is told.
    private(set) var offlineReason: String?
    /// Committed records are known to be missing or bad, which is why it is offline.
    private(set) var isDamaged = false
    var isClosed = false
    /// It ticks; see `wake`.
    var isAwake = false
    /// Closed because the partition is not this broker's any more, not because the broker stops.
    var isRemoved = false
    /// The log is on disk, if at all, and nobody has it open.
    var hasFailedToOpen = false
    var assignment: PartitionAssignment?
    var settings: ReplicaSettings
    /// The settings when the replica was made; a constant.
    let initialSettings: ReplicaSettings
    /// The last known high watermark, also while nobody leads.
    var highWatermark: Offset = 0

    // Leading.
    /// Writes that wait for the high watermark, by offset.
    var awaitingReplicas = Deque<PendingWrite>()
    /// Writes that wait for this broker's disk, by offset.
    var awaitingDisk = Deque<PendingWrite>()
    var earliestWriteDeadline = MonotonicTime.distantFuture
    var readers: [WaitToken] = []
    /// At so many readers those that have given up are cleared away.
    var readerLimit = minReaderLimit
    static let minReaderLimit = 64
    /// Up to where each follower had what it was last given.
    var served: [NodeID: Offset] = [:]
    /// At most one parked fetch a follower.
    var parkedFetches: [(follower: NodeID, part: FollowerFetchPart)] = []

    /// What is read from the disk for followers, one read each.
    var followerReads: [NodeID: FollowerRead] = [:]

    // Flushing.
    var isFlushing = false
    var needsFlush = false
    /// Followers' rounds that wait until everything below an offset is durable here.
    var flushWaiters: [(end: Offset, body: () -> Void)] = []
    var lastIntervalFlush = MonotonicTime.zero
    /// Where the flush that began last ends.
    var flushedTo: Offset = 0
    var startMoves = StartMoves()
    private var lastCheckpoint: LogCheckpoint?
    /// `nil` while opening.
    var producerExpiry: ProducerExpiry?

    init(
        id: TopicPartition, topic: String, shard: ReplicaShard, environment: ReplicaEnvironment,
        settings: ReplicaSettings
    ) {
        self.id = id
        self.topic = topic
        self.shard = shard
        self.environment = environment
        self.settings = settings
        initialSettings = settings
        eventLoop = shard.eventLoop
    }

    var log: Log? { opened?.log }

    var folder: PartitionFolder { PartitionFolder(topic: topic, partition: id.partition) }

    /// `topic-partition`, as its folder is called.
    var name: String { folder.name }

    // MARK: From opening to closed

    /// The log is there; what was assigned meanwhile takes effect.
    func open(_ opened: OpenedLog, highWatermark: Offset) {
        eventLoop.preconditionInEventLoop()
        invariant(!isClosed, "\(name) was closed while it was being opened")
        if let before = pausedWith, !opened.disk.hasFailed {
            return goOn(with: opened, assignedBefore: before)
        }
        let log = opened.log
        self.opened = opened
        if let failure = opened.disk.directory.health.failure {
            // Whoever looked for the replicas on it did not see this one.
            return goOffline("\(failure)")
        }
        // They may have changed since it was being opened.
        applySettings(to: log)
        producerExpiry = ProducerExpiry(
            expiration: environment.producerExpiration, end: log.logEndOffset, now: shard.now)
        lastIntervalFlush = shard.now
        flushedTo = log.durableOffset
        self.highWatermark = max(min(highWatermark, log.logEndOffset), log.logStartOffset)
        if offlineReason != nil {
            offlineReason = nil
            isDamaged = false
            environment.logger.info(
                "replica online again", metadata: ["partition": "\(name)"])
            environment.reports.report(id, .online)
        } else {
            correctOfflineMark()
        }
        if let assignment { take(assignment) }
    }

    /// Takes the replica, and it alone, out of service, and has the controller told.
    func goOffline(_ reason: String, isDamaged: Bool = false) {
        eventLoop.preconditionInEventLoop()
        guard !isClosed, offlineReason == nil || (isDamaged && !self.isDamaged) else { return }
        offlineReason = reason
        self.isDamaged = isDamaged
        isDamageKnown = false
        pausedWith = nil
        environment.logger.error(
            "replica offline: its log cannot be used",
            metadata: ["partition": "\(name)", "reason": "\(reason)"])
        leaveRole()
        reportOutage()
    }

    private func reportOutage() {
        environment.reports.report(id, isDamaged ? .damaged : .offline)
    }

    /// A controller that knows less than was reported, as after a change of controllers it may, is told
    /// again.
    private func offlineAndAssigned(_ assignment: PartitionAssignment) {
        let local = environment.nodeID
        let isElsewhere = assignment.leader != nil && assignment.leader != local
        if assignment.leader == local || assignment.isr.contains(local)
            || (isDamaged && isElsewhere && assignment.eligibleLeaderReplicas.contains(local))
            || (hasOfflineMarks && !assignment.offlineReplicas.contains(local))
        {
            reportOutage()
        }
        repairIfPossible()
    }

    /// A controller that has this replica down as offline although it is in use is told again.
    private func correctOfflineMark() {
        guard log != nil, assignment?.offlineReplicas.contains(environment.nodeID) == true else {
            return
        }
        environment.reports.report(id, .online)
    }

    /// Ends all service; the log is the caller's to close or delete.
    func close() -> OpenedLog? {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return nil }
        isClosed = true
        leaveRole()
        shard.remove(self)
        defer {
            opened = nil
            damaged = nil
        }
        return opened ?? damaged?.opened
    }

    // MARK: Metadata

    /// The metadata log's newest word on this partition.
    func assign(_ newAssignment: PartitionAssignment, settings: ReplicaSettings) {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return }
        defer { wake() }
        let countsDurableNow =
            settings.flushPolicy == .commit && self.settings.flushPolicy != .commit
        if settings.flushPolicy == .interval, self.settings.flushPolicy != .interval {
            lastIntervalFlush = shard.now
        }
        self.settings = settings
        if let log { applySettings(to: log) }
        let old = assignment
        assignment = newAssignment
        guard offlineReason == nil else { return offlineAndAssigned(newAssignment) }
        guard log != nil else { return }
        correctOfflineMark()
        if let old, old.leaderEpoch == newAssignment.leaderEpoch, leader != nil {
            standingChanged()
            withLeader { $0.apply(newAssignment, now: shard.now) }
        } else if old?.leaderEpoch != newAssignment.leaderEpoch
            || old?.leader != newAssignment.leader
        {
            take(newAssignment)
            return
        }
        guard countsDurableNow, let log else { return }
        if follower != nil {
            tellDurableEnd()
        } else if log.durableOffset < log.logEndOffset {
            flushSoon()
        }
    }

    func applySettings(to log: Log) {
        settings.apply(to: &log.config)
    }

    /// Brokers or settings changed.
    func standingChanged() {
        guard leader != nil else { return }
        let configuration = leaderConfiguration
        withLeader {
            $0.update(brokers: shard.brokers, configuration: configuration, now: shard.now)
        }
    }

    /// Leaves one leader epoch and begins the next.
    func take(_ assignment: PartitionAssignment) {
        guard let log, offlineReason == nil else { return }
        leaveRole()
        // An image older than the log: this broker has seen a later epoch and will again.
        guard log.latestEpoch <= assignment.leaderEpoch else { return }
        if assignment.leader == environment.nodeID {
            lead(assignment, log)
        } else if let leader = assignment.leader {
            follow(leader, assignment, log)
        }
    }

    private func lead(_ assignment: PartitionAssignment, _ log: Log) {
        let core = PartitionLeader(
            id: environment.nodeID, assignment: assignment, configuration: leaderConfiguration,
            brokers: shard.brokers, logStartOffset: log.logStartOffset,
            logEndOffset: log.logEndOffset, durableEnd: log.durableOffset,
            highWatermark: highWatermark, now: shard.now)
        log.assignEpoch(assignment.leaderEpoch, startOffset: log.logEndOffset)
        leader = core
        environment.logger.info(
            "leading",
            metadata: [
                "partition": "\(name)", "epoch": "\(assignment.leaderEpoch)",
                "logEndOffset": "\(log.logEndOffset)",
            ])
        withLeader { $0.start(now: shard.now) }
        if log.durableOffset < log.logEndOffset { flushSoon() }
    }

    private func follow(_ newLeader: NodeID, _ assignment: PartitionAssignment, _ log: Log) {
        let core = PartitionFollower(
            leader: newLeader, leaderEpoch: assignment.leaderEpoch,
            logStartOffset: log.logStartOffset, logEndOffset: log.logEndOffset,
            durableEnd: log.durableOffset, lastEpoch: log.latestEpoch,
            highWatermark: highWatermark)
        follower = core
        environment.logger.info(
            "following",
            metadata: [
                "partition": "\(name)", "leader": "\(newLeader)",
                "epoch": "\(assignment.leaderEpoch)", "logEndOffset": "\(log.logEndOffset)",
            ])
        environment.fetchers.follow(self, leader: newLeader, position: core.position)
        if log.durableOffset < log.logEndOffset { tellDurableEnd() }
    }

    /// Ends the present role; whoever waits on it hears so.
    private func leaveRole() {
        if let leader { highWatermark = leader.highWatermark }
        if let follower {
            highWatermark = follower.highWatermark
            environment.fetchers.unfollow(
                id, leader: follower.leader, leaderEpoch: follower.leaderEpoch)
        }
        endRepairQuestion()
        let wasLeading = leader != nil
        leader = nil
        follower = nil
        if wasLeading {
            failWrites(
                .notEnoughReplicasAfterAppend,
                "\(name) got another leader, or none, before enough replicas had confirmed the records;"
                    + " whether they remain is unknown")
            wakeReaders(all: true)
            for follower in Array(followerReads.keys) { forgetRead(for: follower) }
            let parked = parkedFetches
            parkedFetches = []
            served = [:]
            for (_, part) in parked { part.newsArrived() }
        }
        confirmDeletions()
        let waiters = flushWaiters
        flushWaiters = []
        for waiter in waiters { waiter.body() }
    }

    /// What is to be noted of the log, if it has changed since the last time.
    func takeCheckpoint() -> LogCheckpoint? {
        // Here, since it is asked of those too that nothing happens at.
        expireProducers(now: shard.now)
        let checkpoint = log?.checkpoint(highWatermark: highWatermark)
        guard checkpoint != lastCheckpoint else { return nil }
        lastCheckpoint = checkpoint
        return checkpoint
    }

    var leaderConfiguration: PartitionLeader.Configuration {
        PartitionLeader.Configuration(
            minInSyncReplicas: settings.minInSyncReplicas,
            maxReplicaLag: shard.maxReplicaLag,
            countsDurableOnly: settings.flushPolicy == .commit)
    }

    // MARK: Time

    /// Sees to it that the replica ticks if something here may become due; call it after whatever brings
    /// that about.
    func wake() {
        guard !isAwake, !isClosed, waitsForTime else { return }
        isAwake = true
        shard.tick(self)
    }

    private var waitsForTime: Bool {
        if earliestWriteDeadline < .distantFuture || !startMoves.deletions.isEmpty { return true }
        if leader?.nextDeadline != nil { return true }
        guard settings.flushPolicy == .interval, offlineReason == nil, let log else { return false }
        return log.durableOffset < log.logEndOffset
    }

    func tick(now: MonotonicTime) {
        // The ISR may have shrunk.
        confirmDeletions()
        failOverdueDeletions(now: now)
        expireProducers(now: now)
        if now >= earliestWriteDeadline { failOverdueWrites(now: now) }
        if let deadline = leader?.nextDeadline, now >= deadline {
            withLeader { $0.tick(now: now) }
        }
        if settings.flushPolicy == .interval, now - lastIntervalFlush > settings.flushInterval,
            let log, log.durableOffset < log.logEndOffset
        {
            flushSoon()
        }
    }

    // MARK: Effects

    /// Steps the leader's core and carries out what follows.
    func withLeader(_ step: (inout PartitionLeader) -> [PartitionLeader.Effect]) {
        // In place: a copy of the core would copy what it knows of each follower.
        guard let effects = leader?.perform(step) else { return }
        for effect in effects {
            switch effect {
            case .advanceHighWatermark(let end):
                highWatermark = end
                confirmWrites()
                wakeReaders(all: false)
                for (_, part) in parkedFetches { part.highWatermarkMoved() }
            case .fellBelowMinISR:
                failWrites(
                    .notEnoughReplicasAfterAppend,
                    "the records are appended to \(name), but its in-sync replicas fell below"
                        + " min.insync.replicas; whether they remain is unknown")
            case .propose(let proposal):
                environment.proposals.send(proposal, of: self)
            }
        }
        wake()
    }

    /// What the controller, or the way to it, made of a proposal.
    func proposalSettled(
        attempt: UInt64, leaderEpoch: LeaderEpoch, _ outcome: ISRProposalOutcome
    ) {
        eventLoop.preconditionInEventLoop()
        // An earlier epoch's attempt: nothing of it counts any more.
        guard leader?.leaderEpoch == leaderEpoch else { return }
        withLeader { $0.proposalSettled(attempt: attempt, outcome, now: shard.now) }
    }
}

extension PartitionLeader {
    /// Changes the value where it is.
    fileprivate mutating func perform(_ step: (inout Self) -> [Effect]) -> [Effect] {
        step(&self)
    }
}
