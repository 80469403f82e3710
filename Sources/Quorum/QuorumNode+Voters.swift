internal import Configuration
package import Essentials
internal import Logging
package import NIOCore
internal import Protocol
internal import RPC
package import Raft

/// Changing the voters, one at a time, and handing the leadership over.
extension QuorumNode {
    /// How long after a refusal that may pass the change is tried again.
    private static let changePause = TimeAmount.milliseconds(50)

    /// Makes a controller that observes the log a voter.
    ///
    /// While it has not caught up, or another change is under way, it is tried again until `deadline`.
    /// - Parameters:
    ///   - directory: the id of its metadata log directory; `nil` if only one replica has this id.
    ///   - check: refuses a replica, before each try, by the levels of metadata that it understands;
    ///     `nil` if it has not said.
    ///   - completion: called once, on the event loop, with the voters when that is committed.
    package func addVoter(
        id: NodeID, directory: DirectoryID?, host: String, port: Int, deadline: NIODeadline,
        check: @escaping (_ levels: ClosedRange<Int32>?) throws(QuorumError) -> Void = { _ in },
        completion: @escaping (Result<[Voter], QuorumError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        guard id >= 0, (1...65_535).contains(port), (1...1_024).contains(host.utf8.count) else {
            return completion(
                .failure(
                    .refused(
                        .invalidRequest,
                        "a voter needs an id of 0 or more, and the host and port that it listens at"
                    )))
        }
        change(
            { node throws(QuorumError) in
                try check(nil)
                let directory: DirectoryID =
                    if let directory { directory } else { try node.onlyDirectory(of: id) }
                let voter = Voter(id: id, directory: directory, host: host, port: port)
                // A repetition of a call whose answer was lost.
                if node.raft?.voterSet?[id] == voter { return nil }
                try check(node.metadataLevels(of: voter.key))
                return .add(voter)
            }, deadline: deadline, completion)
    }

    /// Makes a voter an observer.
    ///
    /// - Parameter directory: if it is given, only a voter with this directory is removed.
    package func removeVoter(
        id: NodeID, directory: DirectoryID?, deadline: NIODeadline,
        completion: @escaping (Result<[Voter], QuorumError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        change(
            { _ throws(QuorumError) in .remove(id: id, directory: directory) },
            deadline: deadline, completion)
    }

    /// The directory of the one replica that observes under this id.
    private func onlyDirectory(of id: NodeID) throws(QuorumError) -> DirectoryID {
        guard let raft, case .leader(let leading) = raft.role else { throw notLeader }
        if let voter = raft.voterSet?[id], let directory = voter.directory { return directory }
        let known = leading.observers.keys.filter { $0.id == id }.compactMap(\.directory)
        guard let first = known.first else { throw Self.notObserving(id) }
        guard known.count == 1 else {
            throw .refused(
                .invalidVoterKey,
                "replicas with \(known.count) directories observe as node \(id); name the directory"
            )
        }
        return first
    }

    private var notLeader: QuorumError { .notLeader(leader, epoch: epoch) }

    private static func notObserving(_ id: NodeID) -> QuorumError {
        .refused(
            .voterNotFound,
            "no controller \(id) with this directory follows the metadata log; start it, with this "
                + "cluster's bootstrap servers, and try again")
    }

    /// Decides on a change, appends it, and waits until it is committed.
    ///
    /// - Parameter decide: called before each try; `nil` if there is nothing left to change.
    private func change(
        _ decide: @escaping (QuorumNode) throws(QuorumError) -> VoterChange?,
        deadline: NIODeadline, _ completion: @escaping (Result<[Voter], QuorumError>) -> Void
    ) {
        let retry = { (error: QuorumError) in
            guard self.phase == .running, .now() + Self.changePause < deadline else {
                return completion(.failure(error))
            }
            _ = self.eventLoop.assumeIsolated().scheduleTask(in: Self.changePause) {
                self.change(decide, deadline: deadline, completion)
            }
        }
        guard phase == .running, raft != nil else { return completion(.failure(.stopped)) }
        guard let leading else { return completion(.failure(notLeader)) }
        let wanted: VoterChange?
        do throws(QuorumError) {
            wanted = try decide(self)
        } catch {
            if case .refused(.voterNotFound, _) = error { return retry(error) }
            return completion(.failure(error))
        }
        let offset: Offset
        do throws(VoterChangeError) {
            guard let wanted else {
                // It may still be uncommitted.
                guard let last = raft?.voters.currentOffset, last >= highWatermark else {
                    return completion(.success(voters))
                }
                return wait(for: last, in: leading, deadline, completion)
            }
            guard let made = try raft?.changeVoters(wanted, now: .now) else {
                throw VoterChangeError.notLeader(nil, epoch: epoch)
            }
            offset = made.offset
            // Before the effects, which may commit it at once.
            wait(for: offset, in: leading, deadline, completion)
            perform(made.effects, fetched: nil)
        } catch {
            let (failure, mayPass) = Self.meaning(of: error, wanted)
            if mayPass { retry(failure) } else { completion(.failure(failure)) }
        }
    }

    /// What a refusal is called, and whether it may be gone in a moment.
    private static func meaning(
        of error: VoterChangeError, _ change: VoterChange?
    ) -> (QuorumError, mayPass: Bool) {
        let id: NodeID? =
            switch change {
            case .add(let voter), .update(let voter): voter.id
            case .remove(let id, _): id
            case nil: nil
            }
        let name = id.map { "controller \($0)" } ?? "the controller"
        switch error {
        case .notLeader(let leader, let epoch):
            return (.notLeader(leader, epoch: epoch), false)
        case .pending(let offset):
            return (
                .refused(
                    .requestTimedOut,
                    "another change of the voters, at offset \(offset), is not committed yet; try "
                        + "again later"), true
            )
        case .notReady:
            return (
                .refused(.requestTimedOut, "the new leader is not ready yet; try again later"),
                true
            )
        case .alreadyVoter(let voter):
            return (
                .refused(
                    .duplicateVoter,
                    "controller \(voter.id) is a voter already, with directory "
                        + "\(voter.directory?.description ?? "unknown") at \(voter.host):"
                        + "\(voter.port); remove it first if its disk was replaced"), false
            )
        case .notVoter:
            return (
                .refused(
                    .voterNotFound,
                    "\(name) is no voter, or votes with another directory; see the quorum's status"
                ), false
            )
        case .notObserving:
            return (notObserving(id ?? -1), true)
        case .notDurable:
            return (
                .refused(
                    .invalidVoterKey, "\(name) is a broker; only a controller can be a voter"),
                false
            )
        case .behind(let records):
            return (
                .refused(
                    .requestTimedOut,
                    "\(name) is still \(records) records behind the leader; try again when it has "
                        + "caught up"), true
            )
        case .lastVoter:
            return (
                .refused(
                    .invalidRequest,
                    "\(name) is the last voter; add another one before it is removed"), false
            )
        }
    }

    private func wait(
        for offset: Offset, in epoch: LeaderEpoch, _ deadline: NIODeadline,
        _ completion: @escaping (Result<[Voter], QuorumError>) -> Void
    ) {
        lastToken += 1
        let key = lastToken
        let timeout = eventLoop.scheduleTask(deadline: deadline) {
            guard let change = self.waiting.changes.removeValue(forKey: key) else { return }
            change.complete(
                .failure(
                    .unknownOutcome(
                        "the change of the voters was written, and is not committed yet; look at "
                            + "the quorum's status before trying again")))
        }
        waiting.changes[key] = WaitingCallers.Change(
            offset: offset, epoch: epoch, complete: completion, timeout: timeout)
    }

    func changesCommitted(below end: Offset) {
        for (key, change) in waiting.changes.sorted(by: { $0.key < $1.key })
        where change.offset < end {
            waiting.changes[key] = nil
            change.timeout.cancel()
            change.complete(.success(voters))
        }
    }

    func changesInterrupted(_ epoch: LeaderEpoch) {
        for (key, change) in waiting.changes.sorted(by: { $0.key < $1.key })
        where change.epoch <= epoch {
            waiting.changes[key] = nil
            change.timeout.cancel()
            change.complete(
                .failure(
                    .unknownOutcome(
                        "this controller lost the leadership before it knew whether the change was "
                            + "committed; look at the quorum's status before trying again")))
        }
    }

    func failWaiting(_ error: QuorumError) {
        let all = waiting
        waiting = WaitingCallers()
        for change in all.changes.values {
            change.timeout.cancel()
            change.complete(.failure(error))
        }
        for handOver in Array(all.transfers.values) + Array(all.handOvers.values) {
            handOver.timeout.cancel()
            handOver.complete(.failure(error))
        }
        for complete in all.reads.values { complete(.failure(error)) }
        for read in all.confirmedReads { read.complete(.failure(error)) }
    }

    // MARK: This node's own entry

    /// A voter that listens elsewhere than the voter set says tells the leader.
    func updateOwnVoter() {
        guard phase == .running, !isUpdatingVoter, let listener = options.listener,
            listener.port > 0, let raft, raft.isVoter,
            let entry = raft.voterSet?[options.local],
            entry.host != listener.host || entry.port != listener.port,
            let leader = raft.leader
        else { return }
        if leader == options.local {
            var voter = entry
            voter.host = listener.host
            voter.port = listener.port
            return updateVoter(voter)
        }
        var request = WireUpdateVoterRequest()
        request.clusterID = options.clusterID
        request.currentLeaderEpoch = epoch.rawValue
        request.voterID = options.local.rawValue
        request.voterDirectoryID =
            ReplicaKey(id: options.local, directory: options.directory)
            .wireDirectory
        request.endpoint.host = listener.host
        request.endpoint.port = Int32(clamping: listener.port)
        guard let client = client(of: leader),
            let body = try? PayloadEncoding.protobuf.encode(request)
        else { return }
        isUpdatingVoter = true
        client.unary(Self.updateVoterPath, [body], timeout: .seconds(1)) { [weak self] result in
            guard let self else { return }
            // It is asked again until the voter set says what it should.
            self.isUpdatingVoter = false
            if case .failure(let error) = result {
                self.logger.debug(
                    "the leader did not take this voter's address", metadata: ["error": "\(error)"])
            }
        }
    }

    private func updateVoter(_ voter: Voter) {
        guard leading != nil else { return }
        do throws(VoterChangeError) {
            guard let made = try raft?.changeVoters(.update(voter), now: .now) else { return }
            logger.info("a voter listens elsewhere", metadata: ["voter": "\(voter)"])
            perform(made.effects, fetched: nil)
        } catch {
            // It will be asked for again.
            logger.debug("a voter was not updated", metadata: ["error": "\(error)"])
        }
    }

    func registerUpdateVoter(in router: inout Router) {
        router.register(Self.updateVoterPath) { call in
            let request: WireUpdateVoterRequest
            do throws(RPCError) {
                request = try call.decode(WireUpdateVoterRequest.self)
                try self.check(clusterID: request.clusterID)
            } catch {
                return call.fail(error)
            }
            let pending = PendingRequest(call: call, maxBytes: 0)
            self.onLoop {
                self.takeUpdate(request)
                var answer = WireUpdateVoterResponse()
                answer.leaderID = NodeID.wire(self.leader)
                answer.leaderEpoch = self.epoch.rawValue
                pending.respond(answer)
            }
        }
    }

    private func takeUpdate(_ request: WireUpdateVoterRequest) {
        let key = ReplicaKey(id: request.voterID, directory: request.voterDirectoryID)
        guard let entry = raft?.voterSet?[key.id], entry.isSame(as: key),
            (1...1_024).contains(request.endpoint.host.utf8.count),
            (1...65_535).contains(request.endpoint.port)
        else { return }
        var voter = entry
        voter.host = request.endpoint.host
        voter.port = Int(request.endpoint.port)
        if voter != entry { updateVoter(voter) }
    }

    // MARK: Levels

    /// Notes which metadata records a replica that fetches understands.
    func noteLevels(_ least: Int32, _ most: Int32, of replica: ReplicaKey) {
        guard case .leader? = raft?.role, least <= most else { return }
        if levels[replica] == nil, levels.count >= Self.maxLevels { levels = [:] }
        levels[replica] = least...most
    }

    private static let maxLevels = 8_192

    /// What each replica understands that has fetched from this leader and is no voter.
    package var observerLevels: [ReplicaKey: ClosedRange<Int32>] {
        guard let set = raft?.voterSet else { return levels }
        return levels.filter { !set.isVoter($0.key) }
    }

    /// The levels of metadata records that a replica understands; `nil` if it has not fetched from
    /// this leader since it leads.
    package func metadataLevels(of replica: ReplicaKey) -> ClosedRange<Int32>? {
        if replica.id == options.local, replica.directory.map({ $0 == options.directory }) ?? true {
            return options.metadataLevels
        }
        return levels[replica]
    }
}
