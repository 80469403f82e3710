internal import Essentials
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import Raft
internal import Storage

/// What this replica writes, and what becomes of it when it can't.
extension QuorumNode {
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

    func flushIfNeeded() {
        // An observer's log is a copy, and nobody counts on it.
        guard options.isVoter, phase == .running, !isFlushing, let ticket = log?.prepareFlush(),
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

    func writeCheckpoint() {
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
    ///
    /// It is dropped, and another one made from what is on disk, now and again until that works.
    func storageFailed(_ error: LogError) {
        guard phase == .running, let failed = raft else { return }
        raft = nil
        logger.error(
            "the metadata log can't be used; this node leaves the quorum until it can",
            metadata: ["error": "\(error)"])
        sayGoodbye(failed)
        leaveQuorum(epoch: failed.election.epoch)
        if let failure = directory?.health.failure {
            // What a failed sync has lost can't be known: nothing more is promised with this disk.
            return giveUp(.storage(failure))
        }
        eventLoop.scheduleTask(in: Self.retryDelay) { [weak self] in self?.reopen() }
    }

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
                requests.removeValue(forKey: token)?.answer(response)
            case .persistElectionState, .answerFetch, .refuse, .appendLeaderChange,
                .appendProposed, .appendFetched, .truncateLog, .advanceHighWatermark,
                .leaderChanged, .startedLeading, .stoppedLeading, .halt:
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
        try? log?.close(clean: false)
        log = nil
        if let leading { stoppedLeading(leading) }
        listener?.leaderChanged(nil, epoch: epoch)
    }

    private func reopen() {
        guard phase == .running, raft == nil else { return }
        do throws(QuorumError) {
            try open()
            logger.info("the metadata log is open again")
            step(.timePassed)
        } catch {
            switch error {
            case .storage, .stopped, .notLeader, .batchTooLarge:
                logger.error("the metadata log can't be opened", metadata: ["error": "\(error)"])
                eventLoop.scheduleTask(in: Self.retryDelay) { [weak self] in self?.reopen() }
            case .damagedState, .damagedLog, .invalidOptions, .otherCluster, .diverged:
                giveUp(error)
            }
        }
    }

    /// Nothing that happens can make this replica safe again; somebody has to look.
    func giveUp(_ error: QuorumError) {
        guard phase == .running else { return }
        logger.critical("this node stays out of the quorum: \(error)")
        let epoch = epoch
        raft = nil
        leaveQuorum(epoch: epoch)
        phase = .stopped
        onFailure?(error)
    }

    /// How this replica voted, as last written, and certainly on disk.
    func storedElection() throws(QuorumError) -> ElectionState? {
        guard let stored = try stateFile.read(clusterID: options.clusterID) else { return nil }
        // A process that died may have replaced the file without the disk knowing yet.
        do throws(LogError) {
            try stateFile.write(stored, clusterID: options.clusterID)
        } catch {
            throw .storage(error)
        }
        return stored
    }
}
