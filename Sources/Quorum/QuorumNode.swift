internal import Configuration
package import Essentials
package import Logging
package import NIOCore
internal import NIOPosix
internal import RPC
package import Raft
package import Storage

/// The driver of one replica of the metadata quorum: feeds the state machine what the network, the
/// disk and the clock say, and does what it decides, in its order.
///
/// Everything runs on the control loop; the disk writes on a storage thread and reports back, and
/// snapshots are written, checked and loaded on threads of their own. What depends on durability
/// leaves only after that report, because the state machine holds it until then. When a write fails
/// for want of space, the replica leaves the quorum, tries again from what is on disk, and comes back
/// when it can.
///
/// Where the others are it knows from three places: the voter set in force, the messages that name a
/// leader, and the bootstrap servers, which stand for any controller.
///
/// `@unchecked Sendable`: all state is touched on `eventLoop` only.
package final class QuorumNode: @unchecked Sendable {
    package typealias Options = QuorumOptions

    enum Phase {
        case idle, running, stopped
    }

    /// How long the replica stays away after its log could not be written.
    static let retryDelay = TimeAmount.seconds(1)
    /// How often the recovery point is noted, at most.
    private static let checkpointInterval = TimeAmount.seconds(5)
    /// How often a voter looks whether the others know where it listens.
    private static let voterInterval = TimeAmount.seconds(1)
    /// Larger batches may not reach the others in the time that a fetch has.
    private static let maxBatchBytes = 4 << 20
    /// How long a leader that stops waits for the others to hear of it.
    private static let farewell = TimeAmount.milliseconds(300)

    let options: QuorumOptions
    package let eventLoop: any EventLoop
    let fileSystem: any FileSystem
    let logger: Logger
    weak var listener: (any QuorumListener)?
    /// Called when the replica can't go on, and never will by itself.
    package var onFailure: ((any Error) -> Void)?

    var phase = Phase.idle
    var raft: RaftNode?
    var log: MetadataLog?
    var directory: LogDirectory?
    let flusher = LogFlusher(threads: 1)
    let writer = NIOThreadPool(numberOfThreads: 1)
    /// One thread for the snapshot that is taken, and one for the one that is fetched or loaded.
    let snapshotThreads = NIOThreadPool(numberOfThreads: 2)
    let stateFile: QuorumStateFile

    /// Connections, by the id that the state machine calls the peer by.
    var peers: [NodeID: RPCClient] = [:]
    /// Where leaders listen, as messages said; newer than the voter set.
    var learned: [NodeID: Endpoint] = [:]
    /// Voters that were not found where they should be, and how often they were looked for.
    var searches: [NodeID: Int] = [:]
    /// The voter set that the listener was told last, by id.
    var lastAnnounced: [NodeID: Voter] = [:]
    /// What each replica that fetches from this leader understands.
    var levels: [ReplicaKey: ClosedRange<Int32>] = [:]

    /// Effects still to perform, with the batches of the fetch response they belong to.
    private var effects: [(effect: RaftEffect, fetched: ByteBuffer?)] = []
    private var isPerforming = false
    /// Batches that were proposed and not yet appended, oldest first.
    private var proposals: [ByteBuffer] = []
    /// Requests the state machine has still to answer.
    var requests: [RequestToken: PendingRequest] = [:]
    var lastToken: UInt64 = 0
    var unwrittenState: (state: ElectionState, write: UInt64)?
    var isWritingState = false
    var isFlushing = false
    var isCheckpointing = false
    /// Counts how often the log was opened; a report from an earlier time counts for nothing.
    var incarnation = 0
    var timer: (scheduled: Scheduled<Void>, deadline: MonotonicTime)?
    private var checkpointTimer: RepeatedTask?
    /// What the listener has still to be told, in this order.
    var deliveries: [Delivery] = []
    var isDelivering = false
    /// The offset after the last batch given to the listener.
    var deliveredOffset: Offset = 0
    /// When that batch was appended, in milliseconds since 1970.
    var deliveredTimestamp: Int64 = -1
    /// The snapshot that is being read for the listener; what comes after it waits.
    var loading: SnapshotID?
    var leading: LeaderEpoch?
    var snapshots = SnapshotState()
    /// Who waits for a voter change, a read or a hand-over.
    var waiting = WaitingCallers()
    /// Tells the leader where this voter listens; `nil` while there is nothing to tell.
    var isUpdatingVoter = false
    private var voterTimer: RepeatedTask?
    /// The first records of a new cluster, for its first leader to write.
    package internal(set) var bootstrapRecords: [[UInt8]] = []
    /// The voter set when the state machine was last dropped.
    private var lastVoters: [Voter] = []
    /// Where the log ended when the state machine was last dropped.
    private var lastEndOffset: Offset = 0
    /// The epoch when the state machine was last dropped.
    private(set) var lastEpoch = LeaderEpoch.none
    /// What an observer knew when it left the quorum for a moment; it goes back to that leader.
    var interruptedElection: ElectionState?
    /// Until when a flush that has no records to make durable waits.
    var idleFlushDeadline: MonotonicTime?
    /// The most bytes to ask a leader for; less when its answers don't arrive in time.
    var fetchBytes: Int

    package init(
        options: QuorumOptions, listener: any QuorumListener, eventLoop: any EventLoop,
        fileSystem: any FileSystem = .local, logger: Logger
    ) {
        self.options = options
        self.fileSystem = fileSystem
        self.listener = listener
        self.eventLoop = eventLoop
        self.logger = logger
        fetchBytes = options.maxFetchBytes
        stateFile = QuorumStateFile(directory: options.directoryPath, fileSystem: fileSystem)
    }

    // MARK: What is known

    package var leader: NodeID? { raft.map(\.leader) ?? interruptedElection?.leader }
    package var epoch: LeaderEpoch { raft?.election.epoch ?? .none }
    /// The end, exclusive, of what is known to be committed.
    package var highWatermark: Offset { max(raft?.highWatermark ?? 0, deliveredOffset) }
    package var logEndOffset: Offset { raft?.log.endOffset ?? lastEndOffset }

    /// The voters in force, sorted by id; none while this node has not learned of any.
    package var voters: [Voter] { raft.map { $0.voterSet?.voters ?? [] } ?? lastVoters }

    // MARK: Starting and stopping

    /// Opens the log and takes part.
    ///
    /// - Throws: `QuorumError`, when what is on disk is damaged, in use, or another cluster's.
    package func start() throws {
        eventLoop.preconditionInEventLoop()
        guard phase == .idle else { return }
        writer.start()
        snapshotThreads.start()
        if options.isController {
            do throws(LogError) {
                directory = try LogDirectory.open(
                    options.directoryPath, fileSystem: fileSystem)
            } catch {
                endThreads()
                throw QuorumError.storage(error)
            }
        }
        phase = .running
        do throws(QuorumError) {
            try open()
        } catch {
            // Whoever repairs what is wrong may start another node here.
            close()
            finish()
            endThreads()
            throw error
        }
        checkpointTimer = eventLoop.scheduleRepeatedTask(
            initialDelay: Self.checkpointInterval, delay: Self.checkpointInterval
        ) { [weak self] _ in self?.writeCheckpoint() }
        voterTimer = eventLoop.scheduleRepeatedTask(
            initialDelay: Self.voterInterval, delay: Self.voterInterval
        ) { [weak self] _ in
            self?.updateOwnVoter()
            self?.considerSnapshot()
        }
        step(.timePassed)
    }

    /// After a start that failed: nobody stops this node.
    private func endThreads() {
        flusher.stop()
        writer.shutdownGracefully { _ in }
        snapshotThreads.shutdownGracefully { _ in }
    }

    /// Hands a leadership over, and closes the log.
    package func stop() async {
        let isLeading =
            (try? await eventLoop.submit { () -> Bool in
                self.checkpointTimer?.cancel()
                self.voterTimer?.cancel()
                guard self.phase == .running, case .leader? = self.raft?.role else { return false }
                self.step(.resign)
                return true
            }.get()) ?? false
        if isLeading { try? await eventLoop.scheduleTask(in: Self.farewell) {}.futureResult.get() }
        try? await eventLoop.submit { self.close() }.get()
        flusher.stop()
        try? await writer.shutdownGracefully()
        try? await snapshotThreads.shutdownGracefully()
        try? await eventLoop.submit { self.finish() }.get()
    }

    private func close() {
        if phase == .running { phase = .stopped }
        timer?.scheduled.cancel()
        timer = nil
        dropRaft()
        if let leading { stoppedLeading(leading) }
        deliveries = []
        loading = nil
        for client in peers.values { client.close() }
        peers = [:]
        for request in requests.values { request.fail(.stopped) }
        requests = [:]
        failWaiting(.stopped)
    }

    private func finish() {
        let committed = committedOffset
        let log = log
        self.log = nil
        do {
            try log?.close(clean: true, committed: committed)
            try directory?.close(clean: true)
        } catch {
            logger.warning("the metadata log was not closed in order: \(error)")
        }
        directory = nil
    }

    /// Ends the present state machine; the listener may still ask where the log ended.
    func dropRaft() {
        if let raft {
            lastEndOffset = raft.log.endOffset
            lastVoters = raft.voterSet?.voters ?? []
            lastEpoch = raft.election.epoch
        }
        raft = nil
    }

    // MARK: Stepping

    func step(_ input: RaftInput, fetched: ByteBuffer? = nil) {
        eventLoop.preconditionInEventLoop()
        guard phase == .running, let effects = raft?.step(input, now: .now) else { return }
        perform(effects, fetched: fetched)
    }

    /// Appends one atomic batch as leader of `epoch`, and returns its last record's offset.
    ///
    /// Nothing is committed yet: the listener is told when it is, or that this node leads no more.
    package func propose(
        _ records: [[UInt8]], epoch: LeaderEpoch
    ) throws(QuorumError) -> Offset {
        eventLoop.preconditionInEventLoop()
        guard phase == .running, let base = raft?.log.endOffset else { throw .stopped }
        let batch = QuorumBatches.data(records)
        guard batch.readableBytes <= Self.maxBatchBytes else {
            throw .batchTooLarge(bytes: batch.readableBytes, limit: Self.maxBatchBytes)
        }
        let effects: [RaftEffect]
        do throws(ProposeError) {
            guard
                let made = try raft?.propose(
                    recordCount: records.count, epoch: epoch, now: .now)
            else { throw ProposeError.notLeader(nil, epoch: epoch) }
            effects = made
        } catch {
            switch error {
            case .notLeader(let leader, let epoch): throw .notLeader(leader, epoch: epoch)
            }
        }
        proposals.append(batch)
        perform(effects, fetched: nil)
        return base + Int64(records.count - 1)
    }

    /// Makes the node that of what was found on disk.
    func begin(_ raft: RaftNode, _ log: MetadataLog) {
        incarnation += 1
        interruptedElection = nil
        self.raft = raft
        self.log = log
        effects = []
        proposals = []
        deliveries = []
        loading = nil
    }

    /// Performs effects in order; what they lead to waits until they are done.
    func perform(_ new: [RaftEffect], fetched: ByteBuffer?) {
        for effect in new { effects.append((effect, fetched)) }
        guard !isPerforming else { return }
        isPerforming = true
        var next = 0
        // Without a state machine, what it wanted is of no meaning.
        while next < effects.count, raft != nil {
            let (effect, fetched) = effects[next]
            next += 1
            do throws(LogError) {
                try perform(effect, fetched)
            } catch {
                storageFailed(error)
            }
        }
        effects = []
        if raft == nil { proposals = [] }
        isPerforming = false
        flushIfNeeded()
        armTimer()
    }

    private func perform(_ effect: RaftEffect, _ fetched: ByteBuffer?) throws(LogError) {
        switch effect {
        case .persistElectionState(let state, let write):
            guard options.isController else {
                // Without a vote there is nothing to forget; what it knows of epochs it is told again.
                step(.electionStatePersisted(write: write))
                break
            }
            unwrittenState = (state, write)
            writeState()
        case .send(let request, let peer, let id):
            send(request, to: peer, id: id)
        case .answer(let token, let response):
            answer(token, response)
        case .answerFetch(let token, let answer):
            answerFetch(token, answer)
        case .refuse(let token):
            requests.removeValue(forKey: token)?.fail(.refused)
        case .appendLeaderChange(let change):
            try log?.append(
                QuorumBatches.leaderChange(change), epoch: change.epoch, at: change.offset)
        case .appendProposed(let span):
            invariant(!proposals.isEmpty, "nothing was proposed at \(span.baseOffset)")
            try log?.append(proposals.removeFirst(), epoch: span.epoch, at: span.baseOffset)
        case .appendFetched(let spans):
            guard let fetched else { break }
            try log?.appendFetched(fetched)
            invariant(
                log?.endOffset == spans.last.map { $0.lastOffset + 1 },
                "the log ends at \(log?.endOffset ?? -1) after \(spans)")
        case .truncateLog(let offset):
            let committed = committedOffset
            guard offset >= committed else {
                return giveUp(
                    .diverged(
                        "the leader's log lacks records from offset \(offset), but those below "
                            + "\(committed) are known to be committed"))
            }
            logger.info("truncating the metadata log", metadata: ["offset": "\(offset)"])
            try log?.truncate(to: offset)
        case .appendVoters(let set, let offset, let epoch):
            try log?.append(QuorumBatches.voters(set), epoch: epoch, at: offset)
        case .resetLog(let id):
            try resetLog(to: id)
        case .advanceLogStart(let id):
            snapshots.logStart = id.endOffset
            advanceLogStart()
        case .loadSnapshot(let id):
            deliver(.load(id))
        case .advanceHighWatermark(let offset):
            deliver(.batches(below: offset))
            changesCommitted(below: offset)
        case .leaderChanged(let leader, let epoch):
            logger.info(
                "quorum leader",
                metadata: [
                    "leader": "\(leader.map { $0.description } ?? "none")", "epoch": "\(epoch)",
                ])
            listener?.leaderChanged(leader, epoch: epoch)
            leaderMayBeKnown()
            updateOwnVoter()
        case .startedLeading(let epoch):
            levels = [:]
            deliver(.startedLeading(epoch))
        case .stoppedLeading(let epoch):
            deliver(.stoppedLeading(epoch))
            changesInterrupted(epoch)
        case .votersChanged(let set):
            votersChanged(set)
        case .appendSnapshotChunk(let id, let position, let isLast):
            appendSnapshot(fetched ?? ByteBuffer(), of: id, at: position, isLast: isLast)
        case .discardSnapshotDownload:
            discardDownload()
        case .answerSnapshot(let token, let id, let position, let maxBytes):
            answerSnapshot(token, id, position: position, maxBytes: Int(maxBytes))
        case .readConfirmed(let token):
            readConfirmed(token)
        case .readRefused(let token):
            readRefused(token)
        case .transferred(let token, let outcome):
            transferred(token, outcome)
        case .halt(let reason):
            giveUp(.diverged("this node can't go on: \(reason)"))
        }
    }

    func stoppedLeading(_ epoch: LeaderEpoch) {
        guard leading == epoch else { return }
        leading = nil
        listener?.stoppedLeading(epoch: epoch)
    }

    // MARK: The clock

    private func armTimer() {
        guard phase == .running, let deadline = raft?.nextDeadline else { return }
        if let timer, timer.deadline == deadline { return }
        timer?.scheduled.cancel()
        let scheduled = eventLoop.scheduleTask(
            deadline: .uptimeNanoseconds(UInt64(clamping: deadline.nanoseconds))
        ) { [weak self] in
            guard let self else { return }
            timer = nil
            step(.timePassed)
        }
        timer = (scheduled, deadline)
    }
}

extension MonotonicTime {
    /// This machine's monotonic clock.
    static var now: MonotonicTime {
        MonotonicTime(nanoseconds: Int64(clamping: NIODeadline.now().uptimeNanoseconds))
    }
}
