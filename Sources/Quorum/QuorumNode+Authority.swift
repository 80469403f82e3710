package import Essentials
package import NIOCore
internal import Raft

/// What only a leader that still leads may do.
extension QuorumNode {
    // MARK: Reading

    /// Makes sure that this node leads, and that all that was committed before was handed out.
    ///
    /// - Parameter completion: called once, on the event loop, with the end, exclusive, of what was
    ///   committed; with `notLeader` when another one leads or this one can't tell.
    package func read(_ completion: @escaping (Result<Offset, QuorumError>) -> Void) {
        eventLoop.preconditionInEventLoop()
        guard phase == .running, raft != nil else { return completion(.failure(.stopped)) }
        guard leading != nil else {
            return completion(.failure(.notLeader(leader, epoch: epoch)))
        }
        lastToken += 1
        let token = RequestToken(rawValue: lastToken)
        waiting.reads[token] = completion
        step(.read(token))
    }

    func readConfirmed(_ token: RequestToken) {
        guard let complete = waiting.reads.removeValue(forKey: token) else { return }
        waiting.confirmedReads.append((highWatermark, complete))
        readsMayBeDone()
    }

    func readRefused(_ token: RequestToken) {
        guard let complete = waiting.reads.removeValue(forKey: token) else { return }
        let leader = leader == options.local ? nil : leader
        complete(.failure(.notLeader(leader, epoch: epoch)))
    }

    /// Answers the reads whose records were all handed out.
    func readsMayBeDone() {
        let due = waiting.confirmedReads.filter { $0.end <= deliveredOffset }
        guard !due.isEmpty else { return }
        waiting.confirmedReads.removeAll { $0.end <= deliveredOffset }
        for read in due { read.complete(.success(read.end)) }
    }

    // MARK: Handing over

    /// Hands the leadership to another voter, or to the best one.
    ///
    /// - Parameter completion: called once, on the event loop, with whoever leads then.
    package func transferLeadership(
        to successor: NodeID?, deadline: NIODeadline,
        completion: @escaping (Result<(leader: NodeID, epoch: LeaderEpoch), QuorumError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        guard phase == .running, raft != nil else { return completion(.failure(.stopped)) }
        guard let leading else {
            return completion(.failure(.notLeader(leader, epoch: epoch)))
        }
        lastToken += 1
        let key = lastToken
        let token = RequestToken(rawValue: key)
        let timeout = eventLoop.scheduleTask(deadline: deadline) {
            let waiting =
                self.waiting.transfers.removeValue(forKey: token)
                ?? self.waiting.handOvers.removeValue(forKey: key)
            waiting?.complete(
                .failure(
                    .unknownOutcome(
                        "no other controller led in time; look at the quorum's status")))
        }
        waiting.transfers[token] = WaitingCallers.HandOver(
            epoch: leading, complete: completion, timeout: timeout)
        step(.transfer(to: successor, token))
    }

    func transferred(_ token: RequestToken, _ outcome: TransferOutcome) {
        guard let waiter = waiting.transfers.removeValue(forKey: token) else { return }
        let failure: QuorumError
        switch outcome {
        case .handedOver:
            waiting.handOvers[token.rawValue] = waiter
            return leaderMayBeKnown()
        case .notLeader(let leader, let epoch):
            failure = .notLeader(leader, epoch: epoch)
        case .notVoter:
            failure = .refused(
                .voterNotFound, "only a voter can lead; see the quorum's status for who votes")
        case .noSuccessor:
            failure = .refused(
                .invalidRequest, "there is no other voter to hand the leadership to; add one first")
        case .busy:
            failure = .refused(
                .requestTimedOut, "another hand-over is under way; try again in a moment")
        case .behind(let records):
            failure = .refused(
                .requestTimedOut,
                "that controller is \(records) records behind and did not catch up in time; this "
                    + "one goes on leading")
        }
        waiter.timeout.cancel()
        waiter.complete(.failure(failure))
    }

    /// Answers hand-overs once the successor leads.
    func leaderMayBeKnown() {
        guard let leader else { return }
        for (key, waiter) in waiting.handOvers.sorted(by: { $0.key < $1.key })
        where epoch > waiter.epoch {
            waiting.handOvers[key] = nil
            waiter.timeout.cancel()
            waiter.complete(.success((leader, epoch)))
        }
    }
}
