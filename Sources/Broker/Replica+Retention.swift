import Essentials
import Logging
import NIOCore
import RPC
import Replication
import Storage

/// A call that waits until a new log start has reached the in-sync replicas.
struct PendingDeletion {
    var start: Offset
    var deadline: MonotonicTime
    var completion: (Result<Offset, RPCError>) -> Void
}

/// Moving the log start: by retention and on request as the leader, behind the leader as a follower.
///
/// One move at a time. Each begins when all below the new start is durable; it is noted on a storage
/// thread, takes effect here, and then the files go, again on a storage thread.
extension Replica {
    // MARK: Retention

    /// Removes what the topic keeps no longer.
    ///
    /// - Parameter wallClock: milliseconds since 1970.
    func retain(wallClock: Int64) {
        eventLoop.preconditionInEventLoop()
        guard let log, let leader, offlineReason == nil, !startMoves.isSurveying,
            let policy = settings.retention, !policy.removesNothing
        else { return }
        let survey = log.survey(below: leader.highWatermark)
        guard !survey.isEmpty else { return }
        startMoves.isSurveying = true
        environment.onPool { [self] in
            var survey = survey
            let result: Result<Offset?, LogError>
            do throws(LogError) {
                result = .success(try survey.start(by: policy, now: wallClock))
            } catch {
                result = .failure(error)
            }
            eventLoop.execute { [survey] in self.surveyed(survey, result) }
        }
    }

    private func surveyed(_ survey: RetentionSurvey, _ result: Result<Offset?, LogError>) {
        startMoves.isSurveying = false
        // Whoever leads now decides for itself.
        guard let log, leader != nil, offlineReason == nil else { return }
        do throws(LogError) {
            guard let found = try result.get(), let start = try log.settle(survey, start: found)
            else { return }
            moveStart(to: start)
        } catch {
            environment.logger.warning(
                "cannot tell what is too old, trying again later",
                metadata: ["partition": "\(name)", "error": "\(error)"])
        }
    }

    // MARK: Deleting records

    /// Removes the records below `offset`, or all that are committed, from every in-sync replica.
    ///
    /// On the replica's event loop, as is `completion`, which gets the new log start.
    func deleteRecords(
        before offset: Offset?, timeout: Duration,
        completion: @escaping (Result<Offset, RPCError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        let start: Offset
        do throws(RPCError) {
            start = try deletionStart(offset)
        } catch {
            completion(.failure(error))
            return
        }
        let pending = PendingDeletion(
            start: start, deadline: shard.now + timeout, completion: completion)
        moveStart(to: start) { [self] result in
            switch result {
            case .failure(let error):
                completion(
                    .failure(
                        RPCError(error.code, "the records of \(name) are not deleted: \(error)"))
                )
            case .success:
                startMoves.deletions.append(pending)
                wake()
                confirmDeletions()
            }
        }
    }

    private func deletionStart(_ offset: Offset?) throws(RPCError) -> Offset {
        guard let log, let leader else { throw unavailable() }
        guard settings.retention != nil else {
            throw RPCError(
                .policyViolation,
                "the cleanup.policy of '\(topic)' is compact alone; records can be deleted only where"
                    + " it includes delete")
        }
        guard let latest = leader.latestOffset else {
            throw RPCError(
                .offsetNotAvailable,
                "the new leader of \(name) does not yet know how far its records are committed;"
                    + " try again in a moment")
        }
        let start = offset ?? latest
        guard start >= 0, start <= latest else {
            throw RPCError(
                .offsetOutOfRange,
                "\(name) has committed offsets up to \(latest); records before \(start) can't be"
                    + " deleted")
        }
        return max(start, log.logStartOffset)
    }

    /// Answers the calls whose new start has reached every in-sync replica, or can't any more.
    func confirmDeletions() {
        guard !startMoves.deletions.isEmpty else { return }
        let waiting = startMoves.deletions
        guard let leader else {
            startMoves.deletions = []
            for deletion in waiting { deletion.completion(.failure(unavailable())) }
            return
        }
        let reached = leader.leastLogStart
        startMoves.deletions.removeAll { $0.start <= reached }
        for deletion in waiting where deletion.start <= reached {
            deletion.completion(.success(leader.logStartOffset))
        }
    }

    func failOverdueDeletions(now: MonotonicTime) {
        let overdue = startMoves.deletions.filter { $0.deadline <= now }
        guard !overdue.isEmpty else { return }
        startMoves.deletions.removeAll { $0.deadline <= now }
        let error = RPCError(
            .requestTimedOut,
            "the records of \(name) are deleted on its leader, but not yet on every in-sync replica;"
                + " that follows by itself")
        for deletion in overdue { deletion.completion(.failure(error)) }
    }

    // MARK: Following

    /// Follows the leader's log start, as far as that is committed here.
    ///
    /// - Returns: whether the log start is on its way; see `whenSettled`.
    func followStart(_ leadersStart: Offset) -> Bool {
        guard let log, let follower else { return false }
        let start = min(leadersStart, follower.highWatermark)
        guard start > log.logStartOffset, shard.now >= startMoves.retryAt else { return false }
        moveStart(to: start)
        return true
    }

    /// Calls `body` once what was appended is durable, if that matters, and the log start has moved.
    func whenSettled(_ body: @escaping () -> Void) {
        let afterFlush: () -> Void = { [self] in
            if startMoves.isMoving { startMoves.waiters.append(body) } else { body() }
        }
        guard let follower, settings.flushPolicy == .commit,
            follower.durableEnd < follower.logEndOffset
        else { return afterFlush() }
        whenDurable(to: follower.logEndOffset, afterFlush)
    }

    // MARK: Moving

    /// Moves the log start up to `start`, which is committed, and removes what lies below.
    func moveStart(
        to start: Offset, _ done: @escaping (Result<Void, LogError>) -> Void = { _ in }
    ) {
        startMoves.requested.append((start, done))
        if !startMoves.isMoving { beginMove() }
    }

    private func beginMove() {
        guard let start = startMoves.requested.map(\.start).max() else { return }
        startMoves.isMoving = true
        startMoves.underWay = startMoves.requested
        startMoves.requested = []
        guard let log, log.durableOffset < start else { return noteStart(start) }
        // A log may not start above what is durable, or it could not tell a loss.
        whenDurable(to: start) { [self] in noteStart(start) }
        flushSoon()
    }

    private func noteStart(_ start: Offset) {
        guard let log, offlineReason == nil else { return endMove(.failure(.closed)) }
        // What was committed when the move was asked for may be gone since, by an unclean election.
        let committed = leader?.highWatermark ?? follower?.highWatermark ?? highWatermark
        guard start <= committed else {
            return endMove(
                .failure(
                    .offsetOutOfRange(
                        start, valid: log.logStartOffset...max(committed, log.logStartOffset))))
        }
        let ticket: LogStartTicket?
        do throws(LogError) {
            ticket = try log.prepareStart(start)
        } catch {
            return endMove(.failure(error))
        }
        guard let ticket else { return endMove(.success(())) }
        environment.onPool { [self] in
            let result: Result<Void, LogError>
            do throws(LogError) {
                result = .success(try ticket.perform())
            } catch {
                result = .failure(error)
            }
            eventLoop.execute { self.startNoted(ticket, result) }
        }
    }

    private func startNoted(_ ticket: LogStartTicket, _ result: Result<Void, LogError>) {
        guard let log, offlineReason == nil else { return endMove(.failure(.closed)) }
        guard case .success = result else {
            if case .failure(.offline(let reason)) = result { goOffline(reason) }
            return endMove(result)
        }
        let old = log.logStartOffset
        let retired = log.completeStart(ticket)
        // Unless it was truncated meanwhile, and starts where that left it.
        guard log.logStartOffset > old else { return endMove(.failure(.closed)) }
        highWatermark = max(highWatermark, log.logStartOffset)
        leader?.startMoved(to: log.logStartOffset)
        follower?.startMoved(to: log.logStartOffset)
        environment.logger.info(
            "the log starts later",
            metadata: [
                "partition": "\(name)", "from": "\(old)", "to": "\(log.logStartOffset)",
                "segments": "\(retired?.count ?? 0)", "bytes": "\(retired?.byteCount ?? 0)",
            ])
        for (_, part) in parkedFetches { part.newsArrived() }
        if let retired { remove(retired) }
        endMove(.success(()))
    }

    private func endMove(_ result: Result<Void, LogError>) {
        let ended = startMoves.underWay
        startMoves.underWay = []
        startMoves.isMoving = false
        if case .failure(let error) = result, !isClosed, offlineReason == nil {
            // The leader tells of its log start with every answer until it is followed.
            startMoves.retryAt = shard.now + .seconds(1)
            environment.logger.warning(
                "the log start could not be moved",
                metadata: ["partition": "\(name)", "error": "\(error)"])
        }
        for move in ended { move.done(result) }
        beginMove()
        guard !startMoves.isMoving else { return }
        let waiters = startMoves.waiters
        startMoves.waiters = []
        for waiter in waiters { waiter() }
    }

    /// Renames the files now and removes them a little later, when whoever reads them has finished.
    func remove(_ retired: RetiredSegments) {
        let environment = environment
        let delay = TimeAmount.nanoseconds(settings.fileDeleteDelay.nanoseconds)
        let name = name
        let eventLoop = eventLoop
        let attempt: @Sendable (String, () throws(LogError) -> Void) -> Void = { what, body in
            do throws(LogError) {
                try body()
            } catch {
                // The next start finishes it.
                environment.logger.error(
                    "cannot \(what) old segments",
                    metadata: ["partition": "\(name)", "error": "\(error)"])
            }
        }
        environment.onPool {
            attempt("rename") { () throws(LogError) in try retired.rename() }
            eventLoop.scheduleTask(in: delay) {
                environment.onPool {
                    attempt("remove") { () throws(LogError) in try retired.remove() }
                }
            }
        }
    }
}

/// What is going on with a replica's log start.
struct StartMoves {
    /// Somebody finds out what is too old.
    var isSurveying = false
    /// A new start is being made durable.
    var isMoving = false
    var underWay: [(start: Offset, done: (Result<Void, LogError>) -> Void)] = []
    /// What comes next, all at once.
    var requested: [(start: Offset, done: (Result<Void, LogError>) -> Void)] = []
    /// After a failure the leader's start is not followed before this.
    var retryAt = MonotonicTime.zero
    /// Called when nothing moves any more.
    var waiters: [() -> Void] = []
    /// Calls whose records are gone here, and perhaps not yet everywhere.
    var deletions: [PendingDeletion] = []
}
