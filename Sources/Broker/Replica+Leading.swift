import DequeModule
import Essentials
import NIOCore
import Protocol
import RPC
import Records
import Replication
import Storage

/// A write that is appended and waits for its answer.
struct PendingWrite {
    /// The records' end, exclusive.
    var end: Offset
    var outcome: ProduceOutcome
    var deadline: MonotonicTime
    var completion: (Result<ProduceOutcome, RPCError>) -> Void
}

extension Replica {
    // MARK: Writing

    /// Checks and appends batches; answers when `acks` is satisfied, has failed, or takes too long.
    ///
    /// On the replica's event loop, as is `completion`.
    func produce(
        _ batches: ByteBuffer, acks: WireAcks, timeout: Duration,
        completion: @escaping (Result<ProduceOutcome, RPCError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        let write: PendingWrite
        do throws(RPCError) {
            write = try append(batches, acks: acks, timeout: timeout, completion: completion)
        } catch {
            completion(.failure(error))
            return
        }
        switch acks {
        case .none:
            completion(.success(write.outcome))
        case .leader:
            if let leader, write.end <= leader.countedEnd {
                completion(.success(write.outcome))
            } else {
                wait(write, in: \.awaitingDisk)
            }
        case .unspecified, .all, .UNRECOGNIZED:
            if write.end <= highWatermark {
                completion(.success(write.outcome))
            } else {
                wait(write, in: \.awaitingReplicas)
            }
        }
        // Last, so that an answer that needs no waiting for is not waited for.
        for (_, part) in parkedFetches { part.newsArrived() }
        flushIfDue()
    }

    private func append(
        _ batches: ByteBuffer, acks: WireAcks, timeout: Duration,
        completion: @escaping (Result<ProduceOutcome, RPCError>) -> Void
    ) throws(RPCError) -> PendingWrite {
        guard let log, let leader else { throw unavailable() }
        switch acks {
        case .none, .leader: break
        case .unspecified, .all, .UNRECOGNIZED:
            if leader.isBelowMinISR {
                throw RPCError(
                    .notEnoughReplicas,
                    "\(name) has \(leader.assignment.isr.count) in-sync replicas and acks=all needs"
                        + " \(leader.effectiveMinISR); nothing was written, try again when more are back"
                )
            }
        }
        let wallClock = environment.wallClock()
        let stored: ByteBuffer
        let headers: [RecordBatchHeader]
        do throws(RecordError) {
            (stored, headers) = try settings.appendRules(at: wallClock).apply(to: batches)
        } catch {
            throw RPCError(error.code, "\(error)")
        }
        // Nobody could end the transaction, and what follows would never be stable.
        guard !headers.contains(where: \.isTransactional) else {
            throw RPCError(
                .invalidTransactionState,
                "nothing was written to \(name): transactions are not served yet: produce without a"
                    + " transactional id")
        }
        let admission: ProducerStates.Admission
        var end = log.logEndOffset
        var start = end
        do throws(LogError) {
            admission = try log.admit(headers)
            if admission.duplicates < headers.count {
                let offsets = try log.appendAsLeader(
                    stored, headers, after: admission.duplicates, leaderEpoch: leader.leaderEpoch)
                (start, end) = (offsets.lowerBound, offsets.upperBound)
                withLeader { $0.appended(to: end, now: shard.now) }
            } else {
                // In the log, but perhaps not committed yet.
                end = admission.endOffset ?? end
            }
        } catch {
            opened?.disk.writeFailed(error)
            if case .offline = error { goOffline("\(error)") }
            throw RPCError(error.code, "nothing was written to \(name): \(error)")
        }
        let appendTime = admission.firstOffset == nil ? wallClock : admission.timestamp
        return PendingWrite(
            end: end,
            outcome: ProduceOutcome(
                baseOffset: admission.firstOffset ?? start,
                count: headers.reduce(0) { $0 + Int($1.recordCount) },
                appendTime: settings.timestamps.isAppendTime ? appendTime : nil),
            deadline: shard.now + timeout, completion: completion)
    }

    private func wait(
        _ write: PendingWrite, in queue: ReferenceWritableKeyPath<Replica, Deque<PendingWrite>>
    ) {
        // A repeated batch may end anywhere below.
        let place = self[keyPath: queue].lastIndex { $0.end <= write.end }.map { $0 + 1 } ?? 0
        self[keyPath: queue].insert(write, at: place)
        earliestWriteDeadline = min(earliestWriteDeadline, write.deadline)
        wake()
    }

    /// Answers, in the order of their offsets, the writes that are now where they must be.
    func confirmWrites() {
        while let write = awaitingReplicas.first, write.end <= highWatermark {
            awaitingReplicas.removeFirst()
            write.completion(.success(write.outcome))
        }
        guard let countedEnd = leader?.countedEnd else { return }
        while let write = awaitingDisk.first, write.end <= countedEnd {
            awaitingDisk.removeFirst()
            write.completion(.success(write.outcome))
        }
    }

    /// Gives up on all waiting writes; `acks=leader` ones too when this is no leader any more.
    func failWrites(_ code: ErrorCode, _ message: String) {
        var failed = awaitingReplicas
        awaitingReplicas.removeAll()
        if leader == nil {
            failed.append(contentsOf: awaitingDisk)
            awaitingDisk.removeAll()
        }
        for write in failed { write.completion(.failure(RPCError(code, message))) }
    }

    func failOverdueWrites(now: MonotonicTime) {
        let overdue =
            awaitingReplicas.filter { $0.deadline <= now }
            + awaitingDisk.filter { $0.deadline <= now }
        awaitingReplicas.removeAll { $0.deadline <= now }
        awaitingDisk.removeAll { $0.deadline <= now }
        earliestWriteDeadline =
            (awaitingReplicas.map(\.deadline) + awaitingDisk.map(\.deadline)).min()
            ?? .distantFuture
        guard !overdue.isEmpty else { return }
        let error = RPCError(
            .requestTimedOut,
            "the records are appended to \(name), but not enough replicas confirmed them in time;"
                + " whether they remain is unknown")
        for write in overdue { write.completion(.failure(error)) }
    }

    // MARK: Reading

    /// The log of a leader that may be read from `offset`, and the epoch that it leads.
    func readable(
        from offset: Offset, currentLeaderEpoch: LeaderEpoch?
    ) throws(RPCError) -> (log: Log, leaderEpoch: LeaderEpoch) {
        eventLoop.preconditionInEventLoop()
        guard let log, let leaderEpoch = leader?.leaderEpoch else { throw unavailable() }
        try check(currentLeaderEpoch, against: leaderEpoch)
        guard offset >= log.logStartOffset, offset <= log.logEndOffset else {
            throw RPCError(
                .offsetOutOfRange,
                "\(name) has offsets \(log.logStartOffset) to \(log.logEndOffset), not \(offset)")
        }
        return (log, leaderEpoch)
    }

    /// Calls `body` once, when the high watermark is past `offset` or this broker leads no longer.
    func whenReadable(beyond offset: Offset, _ body: @escaping () -> Void) -> WaitToken {
        eventLoop.preconditionInEventLoop()
        let token = WaitToken(offset: offset, body: body)
        if leader == nil || highWatermark > offset {
            eventLoop.assumeIsolated().execute { token.fire() }
        } else {
            readers.append(token)
            if readers.count >= readerLimit {
                readers.removeAll { $0.isCancelled }
                readerLimit = max(Self.minReaderLimit, readers.count * 2)
            }
        }
        return token
    }

    func wakeReaders(all: Bool) {
        guard !readers.isEmpty else { return }
        let (due, waiting) = readers.reduce(into: ([WaitToken](), [WaitToken]())) { split, token in
            if token.isCancelled { return }
            if all || token.offset < highWatermark {
                split.0.append(token)
            } else {
                split.1.append(token)
            }
        }
        readers = waiting
        for token in due { token.fire() }
    }

    func check(
        _ known: LeaderEpoch?, against epoch: LeaderEpoch
    ) throws(RPCError) {
        guard let known, known != epoch else { return }
        if known < epoch {
            throw RPCError(
                .fencedLeaderEpoch,
                "\(name) is in leader epoch \(epoch), not \(known); refresh the metadata")
        }
        throw RPCError(
            .unknownLeaderEpoch,
            "\(name) is in leader epoch \(epoch) here, and \(known) is not known yet; try again")
    }

    /// Why this replica cannot do what only a leader can.
    func unavailable() -> RPCError {
        if let offlineReason {
            return RPCError(
                .kafkaStorageError, "the log of \(name) is offline on this broker: \(offlineReason)"
            )
        }
        if log == nil, !isClosed {
            return RPCError(
                .leaderNotAvailable, "\(name) is still being recovered here; try again in a moment")
        }
        return RPCError(
            .notLeaderOrFollower,
            "this broker does not lead \(name); refresh the metadata and go to its leader")
    }
}
