package import Essentials
package import Logging
package import NIOCore
internal import NIOPosix
internal import RPC
internal import Raft
internal import Records
internal import Storage

/// The driver of one replica of the metadata quorum: feeds the state machine what the network, the
/// disk and the clock say, and does what it decides, in its order.
///
/// Everything runs on the control loop; the disk writes on a storage thread and reports back. What
/// depends on durability leaves only after that report, because the state machine holds it until
/// then. When a write fails for want of space, the replica leaves the quorum, tries again from what
/// is on disk, and comes back when it can.
///
/// `@unchecked Sendable`: all state is touched on `eventLoop` only.
package final class QuorumNode: @unchecked Sendable {
    package typealias Options = QuorumOptions

    private enum Phase {
        case idle, running, stopped
    }

    /// How long the replica stays away after its log could not be written.
    private static let retryDelay = TimeAmount.seconds(1)
    /// How often the recovery point is noted, at most.
    private static let checkpointInterval = TimeAmount.seconds(5)
    /// How long a leader that stops waits for the others to hear of it.
    private static let farewell = TimeAmount.milliseconds(300)

    let options: QuorumOptions
    let eventLoop: any EventLoop
    let logger: Logger
    private weak var listener: (any QuorumListener)?
    /// Called when the replica can't go on, and never will by itself.
    package var onFailure: ((any Error) -> Void)?

    private var phase = Phase.idle
    private(set) var raft: RaftNode?
    private(set) var log: MetadataLog?
    private var directory: LogDirectory?
    private let flusher = LogFlusher(threads: 1)
    private let writer = NIOThreadPool(numberOfThreads: 1)
    private let stateFile: QuorumStateFile
    private(set) var peers: [NodeID: RPCClient] = [:]

    /// Effects still to perform, with the batches of the fetch response they belong to.
    private var effects: [(effect: RaftEffect, fetched: ByteBuffer?)] = []
    private var isPerforming = false
    /// Batches that were proposed and not yet appended, oldest first.
    private var proposals: [ByteBuffer] = []
    /// Requests the state machine has still to answer.
    var requests: [RequestToken: PendingRequest] = [:]
    var lastToken: UInt64 = 0
    private var unwrittenState: (state: ElectionState, write: UInt64)?
    private var isWritingState = false
    private var isFlushing = false
    /// Counts how often the log was opened; a report from an earlier time counts for nothing.
    private var incarnation = 0
    private var timer: (scheduled: Scheduled<Void>, deadline: MonotonicTime)?
    private var checkpointTimer: RepeatedTask?
    /// The offset after the last batch given to the listener.
    private var deliveredOffset: Offset = 0
    private var leading: LeaderEpoch?

    package init(
        options: QuorumOptions, listener: any QuorumListener, eventLoop: any EventLoop,
        logger: Logger
    ) {
        self.options = options
        self.listener = listener
        self.eventLoop = eventLoop
        self.logger = logger
        stateFile = QuorumStateFile(directory: options.directoryPath, fileSystem: .local)
    }

    // MARK: What is known

    package var leader: NodeID? { raft?.leader }
    package var epoch: LeaderEpoch { raft?.election.epoch ?? .none }
    /// The end, exclusive, of what is known to be committed.
    package var highWatermark: Offset { raft?.highWatermark ?? 0 }
    package var logEndOffset: Offset { raft?.log.endOffset ?? 0 }

    /// Where a voter listens.
    package func address(of id: NodeID) -> (host: String, port: Int)? {
        options.voters.first { $0.id == id }.map { ($0.host, $0.port) }
    }

    // MARK: Starting and stopping

    /// Opens the log and takes part.
    ///
    /// - Throws: `QuorumError`, when what is on disk is damaged, in use, or another cluster's.
    package func start() throws {
        eventLoop.preconditionInEventLoop()
        guard phase == .idle else { return }
        writer.start()
        for voter in options.voters where voter.id != options.local {
            let client = RPCClient(
                host: voter.host, port: voter.port, eventLoop: eventLoop, logger: logger)
            client.onDisconnect = { [weak self] in self?.step(.connectionLost(to: voter.id)) }
            peers[voter.id] = client
        }
        if options.isVoter {
            do throws(LogError) {
                directory = try LogDirectory.open(options.directoryPath)
            } catch {
                throw QuorumError.storage(error)
            }
        }
        phase = .running
        try open()
        checkpointTimer = eventLoop.scheduleRepeatedTask(
            initialDelay: Self.checkpointInterval, delay: Self.checkpointInterval
        ) { [weak self] _ in self?.writeCheckpoint() }
        step(.timePassed)
    }

    /// Makes a replica of what is on disk.
    private func open() throws(QuorumError) {
        let voters = VoterSet(options.voters.map { ReplicaKey(id: $0.id) })
        guard let voters else {
            throw .invalidOptions("controller.quorum.voters must name each controller once")
        }
        var config = RaftConfig()
        config.electionTimeout = options.electionTimeout
        config.fetchTimeout = options.fetchTimeout
        config.maxFetchWait = min(config.maxFetchWait, options.fetchTimeout / 4)
        config.requestTimeout = max(config.maxFetchWait * 2, .milliseconds(500))
        if let problem = config.problem { throw .invalidOptions(problem) }
        let election = try stateFile.read(clusterID: options.clusterID) ?? .initial
        let log = try MetadataLog(directory: directory, path: options.directoryPath)
        guard let state = log.state else {
            throw .damagedLog(
                path: "\(options.directoryPath)/\(MetadataLog.folder)", at: log.endOffset)
        }
        incarnation += 1
        self.log = log
        effects = []
        proposals = []
        raft = RaftNode(
            local: ReplicaKey(id: options.local, directory: options.directory), voters: voters,
            config: config, election: election, log: state,
            generator: SeededGenerator(seed: .random(in: .min ... .max)), now: .now)
    }

    /// Hands a leadership over, and closes the log.
    package func stop() async {
        let isLeading =
            (try? await eventLoop.submit { () -> Bool in
                self.checkpointTimer?.cancel()
                guard self.phase == .running, case .leader? = self.raft?.role else { return false }
                self.step(.resign)
                return true
            }.get()) ?? false
        if isLeading { try? await eventLoop.scheduleTask(in: Self.farewell) {}.futureResult.get() }
        try? await eventLoop.submit { self.close(clean: true) }.get()
        flusher.stop()
        try? await writer.shutdownGracefully()
        try? await eventLoop.submit { self.finish() }.get()
    }

    private func close(clean: Bool) {
        if phase == .running { phase = .stopped }
        timer?.scheduled.cancel()
        timer = nil
        raft = nil
        for client in peers.values { client.close() }
        peers = [:]
        for request in requests.values { request.fail(.stopped) }
        requests = [:]
    }

    private func finish() {
        guard let log else { return }
        self.log = nil
        do {
            try log.close(clean: true)
            try directory?.close(clean: true)
        } catch {
            logger.warning("the metadata log was not closed in order: \(error)")
        }
        directory = nil
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
        proposals.append(QuorumBatches.data(records))
        perform(effects, fetched: nil)
        return base + Int64(records.count - 1)
    }

    /// Performs effects in order; what they lead to waits until they are done.
    private func perform(_ new: [RaftEffect], fetched: ByteBuffer?) {
        for effect in new { effects.append((effect, fetched)) }
        guard !isPerforming else { return }
        isPerforming = true
        var next = 0
        while next < effects.count {
            let (effect, fetched) = effects[next]
            next += 1
            do throws(LogError) {
                try perform(effect, fetched)
            } catch {
                effects = []
                next = 0
                storageFailed(error)
            }
        }
        effects = []
        isPerforming = false
        flushIfNeeded()
        armTimer()
    }

    private func perform(_ effect: RaftEffect, _ fetched: ByteBuffer?) throws(LogError) {
        switch effect {
        case .persistElectionState(let state, let write):
            unwrittenState = (state, write)
            writeState()
        case .send(let request, let peer, let id):
            send(request, to: peer, id: id)
        case .answer(let token, let response):
            requests.removeValue(forKey: token)?.answer(response)
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
            logger.info("truncating the metadata log", metadata: ["offset": "\(offset)"])
            try log?.truncate(to: offset)
        case .advanceHighWatermark(let offset):
            try deliver(below: offset)
        case .leaderChanged(let leader, let epoch):
            logger.info(
                "quorum leader",
                metadata: [
                    "leader": "\(leader.map { $0.description } ?? "none")", "epoch": "\(epoch)",
                ])
            listener?.leaderChanged(leader, epoch: epoch)
        case .startedLeading(let epoch):
            leading = epoch
            listener?.startedLeading(epoch: epoch)
        case .stoppedLeading(let epoch):
            stoppedLeading(epoch)
        case .halt(let reason):
            let error = QuorumError.diverged("this node can't go on: \(reason)")
            logger.critical("\(error)")
            phase = .stopped
            onFailure?(error)
        }
    }

    private func stoppedLeading(_ epoch: LeaderEpoch) {
        guard leading == epoch else { return }
        leading = nil
        listener?.stoppedLeading(epoch: epoch)
    }

    private func deliver(below end: Offset) throws(LogError) {
        while deliveredOffset < end, let log {
            let bytes = try log.read(from: deliveredOffset, below: end, maxBytes: 1 << 20)
            guard bytes.readableBytes > 0 else { return }
            for batch in try QuorumBatches.committed(in: bytes)
            where batch.baseOffset >= deliveredOffset {
                deliveredOffset = batch.nextOffset
                listener?.committed(batch)
            }
        }
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

    // MARK: The disk

    /// Writes the newest election state, one write at a time.
    private func writeState() {
        guard !isWritingState, let (state, write) = unwrittenState else { return }
        unwrittenState = nil
        isWritingState = true
        let incarnation = incarnation
        writer.submit { [stateFile, options, eventLoop] _ in
            var failure: LogError?
            do throws(LogError) {
                try stateFile.write(state, clusterID: options.clusterID)
            } catch {
                failure = error
            }
            eventLoop.execute { [failure] in
                self.isWritingState = false
                guard self.phase == .running else { return }
                if incarnation == self.incarnation {
                    if let failure {
                        self.storageFailed(failure)
                    } else {
                        self.step(.electionStatePersisted(write: write))
                    }
                }
                self.writeState()
            }
        }
    }

    private func flushIfNeeded() {
        guard phase == .running, !isFlushing, let ticket = log?.prepareFlush(),
            let truncations = raft?.log.truncations
        else { return }
        isFlushing = true
        let incarnation = incarnation
        flusher.submit(ticket) { [eventLoop] result in
            eventLoop.execute {
                self.isFlushing = false
                guard incarnation == self.incarnation else { return self.flushIfNeeded() }
                switch result {
                case .success:
                    self.log?.completeFlush(ticket)
                    self.step(.logDurable(end: ticket.end, truncations: truncations))
                    self.flushIfNeeded()
                case .failure(let error):
                    self.storageFailed(error)
                }
            }
        }
    }

    private func writeCheckpoint() {
        guard phase == .running,
            let (directory, checkpoint) = log?.newCheckpoint(highWatermark: highWatermark)
        else { return }
        writer.submit { [logger] _ in
            do throws(LogError) {
                try directory.checkpoint([MetadataLog.folder: checkpoint])
            } catch {
                logger.warning("the metadata log's recovery point was not noted: \(error)")
            }
        }
    }

    /// A write failed: what the state machine believes of the disk is not true any more.
    private func storageFailed(_ error: LogError) {
        guard phase == .running, raft != nil else { return }
        logger.error(
            "the metadata log can't be written; this node leaves the quorum until it can",
            metadata: ["error": "\(error)"])
        if let leading { stoppedLeading(leading) }
        raft = nil
        unwrittenState = nil
        timer?.scheduled.cancel()
        timer = nil
        for request in requests.values { request.fail(.unavailable) }
        requests = [:]
        try? log?.close(clean: false)
        log = nil
        incarnation += 1
        if let failure = directory?.health.failure {
            // What a failed sync has lost can't be known: nothing more is promised with this disk.
            logger.critical("this node stays out of the quorum: \(failure)")
            phase = .stopped
            onFailure?(QuorumError.storage(failure))
            return
        }
        eventLoop.scheduleTask(in: Self.retryDelay) { [weak self] in self?.reopen() }
    }

    private func reopen() {
        guard phase == .running, raft == nil else { return }
        do throws(QuorumError) {
            try open()
            logger.info("the metadata log is open again")
            step(.timePassed)
        } catch {
            logger.error("the metadata log can't be opened", metadata: ["error": "\(error)"])
            eventLoop.scheduleTask(in: Self.retryDelay) { [weak self] in self?.reopen() }
        }
    }
}

extension MonotonicTime {
    /// This machine's monotonic clock.
    static var now: MonotonicTime {
        MonotonicTime(nanoseconds: Int64(clamping: NIODeadline.now().uptimeNanoseconds))
    }
}
