import Essentials

/// What only a leader can do: hand its leadership over, and say what is committed right now.
extension RaftNode {
    // MARK: - Handing over

    mutating func transfer(
        to successor: NodeID?, _ token: RequestToken, _ now: MonotonicTime
    ) {
        let outcome: TransferOutcome
        if case .leader(var leader) = role {
            if leader.transfer != nil {
                outcome = .busy
            } else if successor == local.id {
                outcome = .handedOver(to: local.id)
            } else if let successor = successor ?? bestSuccessor(leader, now) {
                if leader.voters[successor] != nil {
                    leader.transfer = Transfer(
                        successor: successor, token: token,
                        deadline: now + config.electionTimeout)
                    role = .leader(leader)
                    return
                }
                outcome = .notVoter
            } else {
                outcome = .noSuccessor
            }
        } else {
            outcome = .notLeader(leader, epoch: election.epoch)
        }
        effects.append(.transferred(token, outcome))
    }

    /// Of the voters heard from of late, the one with most of the log.
    private func bestSuccessor(_ leader: Leader, _ now: MonotonicTime) -> NodeID? {
        let recent = leader.voters.filter { isRecent($0.value, now) }
        let candidates = recent.isEmpty ? leader.voters : recent
        return candidates.min { left, right in
            (right.value.endOffset ?? -1, left.key) < (left.value.endOffset ?? -1, right.key)
        }?.key
    }

    private func isRecent(_ progress: ReplicaProgress, _ now: MonotonicTime) -> Bool {
        progress.lastFetch.map { now <= $0 + config.fetchTimeout } ?? false
    }

    /// Resigns once the successor holds everything, or gives up waiting for that.
    ///
    /// Returns whether anything changed.
    mutating func passTransfer(_ leader: Leader, _ now: MonotonicTime) -> Bool {
        guard let transfer = leader.transfer else { return false }
        let progress = leader.voters[transfer.successor]
        let end = progress?.endOffset ?? log.startOffset
        let isReady = end == log.endOffset && progress.map { isRecent($0, now) } ?? false
        guard isReady || now >= transfer.deadline else { return false }
        var leader = leader
        leader.transfer = nil
        role = .leader(leader)
        if isReady {
            effects.append(.transferred(transfer.token, .handedOver(to: transfer.successor)))
            resign(leader, inFavourOf: transfer.successor, now)
        } else {
            effects.append(
                .transferred(transfer.token, .behind(records: max(0, log.endOffset - end))))
        }
        return true
    }

    // MARK: - Reading

    /// A leader that knows what is committed asks a majority whether it still leads.
    mutating func read(_ token: RequestToken, _ now: MonotonicTime) {
        guard case .leader(var leader) = role, leader.highWatermark != nil,
            leader.waitingReads.count < config.maxHeldAnswers
        else {
            effects.append(.readRefused(token))
            return
        }
        guard !breaks(.readWithoutConfirmation) else {
            effects.append(.readConfirmed(token))
            return
        }
        leader.waitingReads.append(token)
        role = .leader(leader)
    }

    /// Starts a round for the reads that wait: a question that was sent before they came proves
    /// nothing for them.
    mutating func beginReadRound(_ leader: inout Leader, _ now: MonotonicTime) {
        guard leader.readRound == nil, !leader.waitingReads.isEmpty else { return }
        let round = ReadRound(
            tokens: leader.waitingReads,
            errands: Dictionary(
                uniqueKeysWithValues: otherVoters().map { ($0, Errand.due(now)) }),
            deadline: now + config.checkQuorumTimeout)
        leader.waitingReads = []
        leader.readRound = round
        finishReadRound(&leader)
    }

    /// Refuses the reads of a round that no majority has answered; returns whether there was one.
    mutating func passReadRound(_ leader: Leader, _ now: MonotonicTime) -> Bool {
        guard let round = leader.readRound, now >= round.deadline else { return false }
        effects += round.tokens.map { .readRefused($0) }
        var leader = leader
        leader.readRound = nil
        role = .leader(leader)
        return true
    }

    private mutating func finishReadRound(_ leader: inout Leader) {
        guard let round = leader.readRound, let voterSet,
            round.confirmed.count + (isVoter ? 1 : 0) >= voterSet.majority
        else { return }
        leader.readRound = nil
        effects += round.tokens.map { .readConfirmed($0) }
    }

    /// Counts the answer for the reads that wait for it; returns whether it is one of theirs.
    ///
    /// A voter that is still in our epoch when it answers has elected nobody since.
    mutating func confirm(
        _ response: EpochResponse, to id: RequestID, _ now: MonotonicTime
    ) -> Bool {
        guard case .leader(var leader) = role, var round = leader.readRound,
            let voter = round.errands.first(where: { $0.value.outstanding == id })?.key
        else { return false }
        if response.epoch == leader.epoch {
            round.confirmed.insert(voter)
            round.errands[voter] = .done
        } else {
            // It did not believe our epoch yet.
            round.errands[voter] = .due(now + randomBackoff())
        }
        leader.readRound = round
        finishReadRound(&leader)
        role = .leader(leader)
        return true
    }
}
