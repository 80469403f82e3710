internal import Essentials
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import Raft
internal import Records
internal import Storage

/// What this replica writes, and what becomes of it when it can't.
extension QuorumNode {
    /// How often a flush is tried that has no records to make durable.
    private static let idleFlushInterval = Duration.seconds(1)
    private static let reopenPause = TimeAmount.milliseconds(100)

    /// Writes the newest election state, one write at a time.
    func writeState() {
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
                if let failure {
                    self.storageFailed(failure, in: incarnation)
                } else if incarnation == self.incarnation {
                    self.step(.electionStatePersisted(write: write))
                }
                self.writeState()
            }
        }
    }

    func flushIfNeeded() {
        // An observer's log is a copy, and nobody counts on it.
        guard options.isController, phase == .running, !isFlushing, let log,
            let ticket = log.prepareFlush(), let truncations = raft?.log.truncations
        else { return }
        let hasRecords = log.durableOffset < log.endOffset
        // What else there is to write may have to wait until the disk has space again.
        if !hasRecords, let deadline = idleFlushDeadline, .now < deadline { return }
        idleFlushDeadline = hasRecords ? nil : .now + Self.idleFlushInterval
        isFlushing = true
        let incarnation = incarnation
        flusher.submit(ticket) { [eventLoop] result in
            eventLoop.execute {
                self.isFlushing = false
                switch result {
                case .success:
                    guard incarnation == self.incarnation else { return self.flushIfNeeded() }
                    self.log?.completeFlush(ticket)
                    self.step(.logDurable(end: ticket.end, truncations: truncations))
                    self.advanceLogStart()
                    self.flushIfNeeded()
                case .failure(let error):
                    self.storageFailed(error, in: incarnation)
                }
            }
        }
    }

    func writeCheckpoint() {
        guard phase == .running, !isCheckpointing,
            let (directory, checkpoint) = log?.newCheckpoint(highWatermark: highWatermark)
        else { return }
        isCheckpointing = true
        let incarnation = incarnation
        writer.submit { [logger, eventLoop] _ in
            var isWritten = false
            do throws(LogError) {
                try directory.checkpoint([MetadataLog.folder: checkpoint])
                isWritten = true
            } catch {
                logger.warning("the metadata log's recovery point was not noted: \(error)")
            }
            eventLoop.execute { [isWritten] in
                self.isCheckpointing = false
                guard isWritten, incarnation == self.incarnation else { return }
                self.log?.completeCheckpoint(checkpoint)
            }
        }
    }

    /// A write failed: what the state machine believes of the disk is not true any more.
    ///
    /// It is dropped, and another one made from what is on disk, now and again until that works. A
    /// voter does so only when it is certain that nothing was lost.
    ///
    /// - Parameter origin: when the write began, if it was not just now.
    func storageFailed(_ error: LogError, in origin: Int? = nil) {
        guard phase == .running else { return }
        let permanent = permanentFailure(error)
        if origin ?? incarnation != incarnation {
            // That state machine is gone, but the next one would rely on the same disk.
            if let permanent { giveUp(permanent) }
            return
        }
        guard let failed = raft else { return }
        dropRaft()
        logger.error(
            "the metadata log can't be used; this node leaves the quorum until it can",
            metadata: ["error": "\(error)"])
        sayGoodbye(failed)
        if permanent == nil, !options.isController {
            interruptedElection = ElectionState(epoch: failed.election.epoch, leader: failed.leader)
        }
        if let permanent { return giveUp(permanent) }
        leaveQuorum(epoch: failed.election.epoch)
        eventLoop.scheduleTask(in: Self.retryDelay) { [weak self] in self?.reopen() }
    }

    /// Why this replica can't come back after `error`; `nil` if it can.
    private func permanentFailure(_ error: LogError) -> QuorumError? {
        // What a failed sync has lost can't be known: nothing more is promised with this disk.
        if let failure = directory?.health.failure { return .storage(failure) }
        // An observer's log is a copy.
        guard options.isController else { return nil }
        switch error {
        case .io(let error) where error.isOutOfSpace:
            // A file that is written anew each time is no loss; the log would be believed as it is.
            return error.isFailedSync ? .storage(.io(error)) : nil
        case .refused, .producer, .notContiguous, .epochFell, .epochTooNew:
            // Another replica's batches were no good; the log is as it was.
            return nil
        case .corruptBatch, .missingRecords, .damaged:
            return damagedLog
        case .io, .offline, .offsetOutOfRange, .inUse, .unexpectedFile, .closed:
            return .storage(error)
        }
    }

    var damagedLog: QuorumError { .damagedLog(path: metadataFolder, at: deliveredOffset) }

    /// Lets the others know that they need another leader, if it was this one.
    private func sayGoodbye(_ failed: RaftNode) {
        var failed = failed
        guard case .leader = failed.role else { return }
        // Nothing of this touches the disk.
        for effect in failed.step(.resign, now: .now) {
            switch effect {
            case .send(let request, let peer, let id):
                send(request, to: peer, id: id)
            case .answer(let token, let response):
                answer(token, response)
            case .persistElectionState, .answerFetch, .refuse, .appendLeaderChange,
                .appendProposed, .appendFetched, .appendVoters, .truncateLog, .resetLog,
                .advanceLogStart, .loadSnapshot, .appendSnapshotChunk, .discardSnapshotDownload,
                .answerSnapshot, .advanceHighWatermark, .leaderChanged, .startedLeading,
                .stoppedLeading, .votersChanged, .readConfirmed, .readRefused, .transferred, .halt:
                break
            }
        }
    }

    private func leaveQuorum(epoch: LeaderEpoch) {
        // Answers to what was asked until now are no answers to what is asked later.
        incarnation += 1
        unwrittenState = nil
        timer?.scheduled.cancel()
        timer = nil
        for request in requests.values { request.fail(.unavailable) }
        requests = [:]
        deliveries = []
        loading = nil
        closeSnapshots()
        failWaiting(.unknownOutcome("this controller can't use its disk at present; ask again"))
        try? log?.close(clean: false)
        log = nil
        if let leading { stoppedLeading(leading) }
        if interruptedElection == nil { listener?.leaderChanged(nil, epoch: epoch) }
    }

    private func reopen() {
        guard phase == .running, raft == nil else { return }
        guard !isWritingState, !isFlushing, !snapshots.isTaking, !snapshots.isVerifying,
            !snapshots.isMovingLogStart
        else {
            // What was begun before must not end after what is read now.
            eventLoop.scheduleTask(in: Self.reopenPause) { [weak self] in self?.reopen() }
            return
        }
        if let failure = directory?.health.failure { return giveUp(.storage(failure)) }
        do throws(QuorumError) {
            try open()
            logger.info("the metadata log is open again")
            step(.timePassed)
        } catch {
            switch error {
            case .storage(let failure):
                if let permanent = permanentFailure(failure) { return giveUp(permanent) }
                logger.error("the metadata log can't be opened", metadata: ["error": "\(error)"])
                eventLoop.scheduleTask(in: Self.retryDelay) { [weak self] in self?.reopen() }
            case .damagedState, .damagedLog, .damagedSnapshot, .missingSnapshot, .unreadable,
                .invalidOptions, .otherCluster, .diverged, .stopped, .notLeader, .batchTooLarge,
                .refused, .unknownOutcome:
                giveUp(error)
            }
        }
    }

    /// Nothing that happens can make this replica safe again; somebody has to look.
    func giveUp(_ error: QuorumError) {
        guard phase == .running else { return }
        logger.critical("this node stays out of the quorum: \(error)")
        dropRaft()
        interruptedElection = nil
        leaveQuorum(epoch: lastEpoch)
        phase = .stopped
        onFailure?(error)
    }

    /// How this replica voted, as last written, and certainly on disk.
    func storedElection() throws(QuorumError) -> ElectionState? {
        guard let stored = try stateFile.read(clusterID: options.clusterID) else { return nil }
        // A process that died may have replaced the file without the disk knowing yet.
        try storeElection(stored)
        return stored
    }

    /// Writes the election state while there is no state machine yet; blocks.
    func storeElection(_ state: ElectionState) throws(QuorumError) {
        do throws(LogError) {
            try stateFile.write(state, clusterID: options.clusterID)
        } catch {
            throw .storage(error)
        }
    }

    /// Everything below is known to be committed, from now or from before the last start.
    var committedOffset: Offset {
        // Not the directory's own note, which is locked while it is written.
        max(deliveredOffset, log?.committedOffset ?? 0)
    }
}
