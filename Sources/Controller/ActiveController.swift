internal import Essentials
internal import HashTreeCollections
internal import Logging
internal import Metadata
internal import NIOCore
internal import Quorum
internal import RPC

/// The metadata log, as far as decisions are written to it.
protocol ProposalLog: AnyObject {
    /// Appends one atomic batch and returns its last offset; not yet committed.
    func propose(_ records: [[UInt8]], epoch: LeaderEpoch) throws(QuorumError) -> Offset
    var logEndOffset: Offset { get }
    /// Makes sure that this node still leads: a majority says so, asked after this call.
    ///
    /// Gives the end of what was committed by then. Fails once this node leads no more.
    func read(_ completion: @escaping (Result<Offset, QuorumError>) -> Void)
}

extension QuorumNode: ProposalLog {}

/// Runs commands while this node is the active controller, and keeps the committed image always.
///
/// States: *standby*, without a leadership; *active*, from `startedLeading` to `stoppedLeading`. A
/// command sees the speculative image; its records are proposed at once, and its answer, a refusal
/// too, waits until everything that it was decided on is committed. An answer that changes nothing
/// also waits until a majority has confirmed that this node still leads. When the leadership ends,
/// the speculation is dropped, and answers that still wait say so.
final class ActiveController: QuorumListener, @unchecked Sendable {
    // Sendable: all state is touched on `eventLoop` only.

    /// An answer that waits for the log to be committed up to `end`.
    fileprivate struct Pending {
        let end: Offset
        /// Something was proposed for it, and may or may not take effect.
        let hasRecords: Bool
        let complete: (RPCError?) -> Void
    }

    final class Leadership {
        let epoch: LeaderEpoch
        var state: ControllerState
        fileprivate var pending: [Pending] = []
        /// Answers that wait for the confirmation that this node still leads.
        var unconfirmed: [UInt64: (RPCError?) -> Void] = [:]
        var lastRead: UInt64 = 0
        /// Confirmed answers that wait until the image has what was committed when they were asked.
        var reads: [(offset: Offset, complete: (RPCError?) -> Void)] = []

        init(epoch: LeaderEpoch, state: ControllerState) {
            self.epoch = epoch
            self.state = state
        }
    }

    /// Answers that may wait at one time.
    private static let maxPending = 20_000

    let eventLoop: any EventLoop
    private let local: NodeID
    /// What changes of them while this node leads is told to its leadership, too.
    var options: ControllerOptions
    let logger: Logger
    let log: () -> (any ProposalLog)?
    private let leaderAddress: () -> String?
    /// The image of everything committed.
    var committed = MetadataImage()
    /// When the last batch of it was appended, in milliseconds since 1970.
    var committedTimestamp: Int64 = -1
    private(set) var leadership: Leadership?
    /// A committed record could not be applied: `committed` stays what it was before.
    private(set) var hasFailed = false

    /// The first records of a new cluster, as this controller was formatted.
    var bootstrapRecords: () -> [[UInt8]] = { [] }

    /// Called when this node has become the active controller.
    var onActive: (() -> Void)?
    /// Called when another leader of the quorum is known, or none.
    var onLeaderChange: (() -> Void)?
    /// Called when a committed record can't be applied: to go on would mean a wrong image.
    var onFailure: ((any Error) -> Void)?

    /// - Parameters:
    ///   - log: the quorum, once there is one.
    ///   - leaderAddress: how to reach the quorum's leader, in words; `nil` when it is not known.
    init(
        local: NodeID, options: ControllerOptions, eventLoop: any EventLoop, logger: Logger,
        log: @escaping () -> (any ProposalLog)?, leaderAddress: @escaping () -> String?
    ) {
        self.local = local
        self.options = options
        self.eventLoop = eventLoop
        self.logger = logger
        self.log = log
        self.leaderAddress = leaderAddress
    }

    var isActive: Bool { leadership != nil }

    /// The refusal of a node that is not the active controller; it names the one that is.
    func notController() -> RPCError {
        RPCError(
            .notController,
            "controller \(local) is not the active one; "
                + (leaderAddress().map { "send this to \($0)" }
                    ?? "an election is under way, try again in a moment"))
    }

    // MARK: Commands

    /// Decides, proposes, and answers after the commit.
    func submit<Reply: Sendable>(
        _ command: (inout ControllerState, MonotonicTime) throws(ControllerError) ->
            ControllerResult<Reply>,
        completion: @escaping (Result<Reply, RPCError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        guard let leadership, let log = log() else {
            return completion(.failure(notController()))
        }
        if let refusal = overload(leadership) { return completion(.failure(refusal)) }
        leadership.state.advance(to: log.logEndOffset, epoch: leadership.epoch)
        do throws(ControllerError) {
            let result = try command(&leadership.state, .now)
            guard result.isEmpty else { return perform(result, completion: completion) }
            // Another controller may lead by now, whose image gives another answer.
            perform(result) { [weak self] answer in
                guard let self, case .success = answer else { return completion(answer) }
                confirm { completion($0.map { .failure($0) } ?? answer) }
            }
        } catch {
            refuse(error) { [weak self] answer in
                guard let self else { return completion(answer) }
                confirm { completion($0.map { .failure($0) } ?? answer) }
            }
        }
    }

    /// The refusal when too much waits already.
    func overload(_ leadership: Leadership) -> RPCError? {
        let count = leadership.pending.count + leadership.unconfirmed.count + leadership.reads.count
        guard count >= Self.maxPending else { return nil }
        return RPCError(
            status: .resourceExhausted, code: .throttlingQuotaExceeded,
            "\(count) calls wait for the quorum; try again later")
    }

    /// Renews a broker's session.
    ///
    /// Brokers that are alive must not be lost because much waits to be committed: the limit on that
    /// is for others, and an answer that tells what is committed already does not wait.
    func heartbeat(
        _ request: HeartbeatRequest,
        completion: @escaping (Result<HeartbeatReply, RPCError>) -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        guard let leadership, let log = log() else {
            return completion(.failure(notController()))
        }
        leadership.state.advance(to: log.logEndOffset, epoch: leadership.epoch)
        do throws(ControllerError) {
            let result = try leadership.state.heartbeat(request, now: .now)
            if result.isEmpty, !request.wantsShutdown,
                let broker = committed.brokers[request.broker], broker.epoch == request.epoch,
                broker.fenced == result.reply.isFenced
            {
                return completion(.success(result.reply))
            }
            perform(result, completion: completion)
        } catch {
            refuse(error, completion: completion)
        }
    }

    /// A refusal may rest on changes that are not committed yet, and waits for them too.
    private func refuse<Reply: Sendable>(
        _ error: ControllerError, completion: @escaping (Result<Reply, RPCError>) -> Void
    ) {
        let failure = RPCError(error.code, error.message)
        wait(hasRecords: false) { completion(.failure($0 ?? failure)) }
    }

    private func perform<Reply: Sendable>(
        _ result: ControllerResult<Reply>,
        completion: @escaping (Result<Reply, RPCError>) -> Void
    ) {
        guard let leadership, let log = log() else {
            return completion(.failure(notController()))
        }
        if !result.isEmpty {
            var last: Offset?
            do throws(QuorumError) {
                for batch in result.batches {
                    last = try log.propose(
                        batch.map { $0.encoded() }, epoch: leadership.epoch)
                }
                leadership.state.adopt(result)
                invariant(
                    leadership.state.image.nextOffset == last.map { $0 + 1 },
                    "decided for an end at \(leadership.state.image.nextOffset), appended to "
                        + "\(last.map(String.init) ?? "nothing")")
            } catch {
                if let last {
                    if case .batchTooLarge = error {
                        invariant(false, "a batch after offset \(last) is too large: \(error)")
                    }
                    // The leadership ends. What of the decision is in the log may yet be committed.
                    logger.debug("part of a decision is lost", metadata: ["after": "\(last)"])
                    return completion(.failure(interrupted(hasRecords: true)))
                }
                if case .batchTooLarge = error {
                    logger.error("a change is too large", metadata: ["error": "\(error)"])
                    return completion(.failure(RPCError(.recordListTooLarge, "\(error)")))
                }
                logger.debug("proposal refused", metadata: ["error": "\(error)"])
                return completion(.failure(notController()))
            }
        }
        wait(hasRecords: !result.isEmpty) { [weak self] error in
            if let error { return completion(.failure(error)) }
            self?.report(result.elections)
            completion(.success(result.reply))
        }
    }

    /// Calls `complete` once all that the present speculation rests on is committed.
    private func wait(hasRecords: Bool, _ complete: @escaping (RPCError?) -> Void) {
        // The leadership may have ended while its last record was being appended.
        guard let leadership else { return complete(interrupted(hasRecords: hasRecords)) }
        let end = leadership.state.image.nextOffset
        if end <= committed.nextOffset, leadership.pending.isEmpty {
            complete(nil)
        } else {
            leadership.pending.append(
                Pending(end: end, hasRecords: hasRecords, complete: complete))
        }
    }

    // MARK: Time

    /// Fences brokers whose sessions are over; at least every `longestCheckGap` of the options.
    func checkSessions() {
        eventLoop.preconditionInEventLoop()
        guard let leadership, let log = log() else { return }
        leadership.state.advance(to: log.logEndOffset, epoch: leadership.epoch)
        while let result = leadership.state.expireSessions(now: .now) {
            var isProposed = true
            perform(result) { if case .failure = $0 { isProposed = false } }
            // Mostly the leadership is about to end: it will be told.
            guard isProposed, self.leadership === leadership else { return }
        }
    }

    /// Gives leaderships back to preferred replicas, when nothing else is going on.
    func balanceLeaders(limit: Int) {
        eventLoop.preconditionInEventLoop()
        guard let leadership, leadership.pending.isEmpty, let log = log() else { return }
        leadership.state.advance(to: log.logEndOffset, epoch: leadership.epoch)
        perform(leadership.state.electPreferred(limit: limit)) { _ in }
    }

    /// Fences a broker whose process is known to be dead.
    func brokerGone(_ broker: NodeID, epoch: BrokerEpoch) {
        eventLoop.preconditionInEventLoop()
        guard let leadership, let log = log() else { return }
        leadership.state.advance(to: log.logEndOffset, epoch: leadership.epoch)
        if let result = leadership.state.brokerGone(broker, epoch: epoch) {
            perform(result) { _ in }
        }
    }

    // MARK: QuorumListener

    func committed(_ batch: CommittedBatch) {
        eventLoop.preconditionInEventLoop()
        guard !hasFailed else { return }
        var offset = batch.baseOffset
        var records: [MetadataRecord] = []
        let before = committed
        // A batch counts as a whole or not at all.
        var image = committed
        do {
            for bytes in batch.records {
                let record = try MetadataRecord(decoding: bytes)
                try image.apply(record, at: offset)
                if leadership != nil { records.append(record) }
                offset += 1
            }
        } catch {
            logger.critical(
                "a committed metadata record can't be applied; this controller stops",
                metadata: ["offset": "\(offset)", "error": "\(error)"])
            hasFailed = true
            if let leadership { stoppedLeading(epoch: leadership.epoch) }
            onFailure?(error)
            return
        }
        image.advance(to: batch.nextOffset, epoch: batch.epoch)
        committed = image
        committedTimestamp = batch.appendTimestamp
        guard let leadership else { return }
        report(records, before: before)
        let due = leadership.pending.prefix { $0.end <= committed.nextOffset }
        leadership.pending.removeFirst(due.count)
        for pending in due { pending.complete(nil) }
        completeReads()
    }

    func leaderChanged(_ leader: NodeID?, epoch: LeaderEpoch) { onLeaderChange?() }

    func startedLeading(epoch: LeaderEpoch) {
        eventLoop.preconditionInEventLoop()
        // This node is about to stop; until then another one can't be active, which is better.
        guard !hasFailed else { return }
        logger.info(
            "now the active controller",
            metadata: [
                "epoch": "\(epoch)", "topics": "\(committed.topics.count)",
                "brokers": "\(committed.brokers.count)",
            ])
        options.initialMetadataLevel = initialMetadataLevel
        leadership = Leadership(
            epoch: epoch,
            state: ControllerState(
                image: committed, options: options, now: .now,
                generator: SeededGenerator(seed: .random(in: .min ... .max))))
        submit { state, _ in
            state.takeOver()
        } completion: { _ in
        }
        onActive?()
    }

    func stoppedLeading(epoch: LeaderEpoch) {
        eventLoop.preconditionInEventLoop()
        guard let ended = leadership else { return }
        leadership = nil
        logger.info("no longer the active controller", metadata: ["epoch": "\(epoch)"])
        for pending in ended.pending {
            pending.complete(interrupted(hasRecords: pending.hasRecords))
        }
        endReads(of: ended)
    }

    /// The answer to a command that the leadership did not live to see committed.
    private func interrupted(hasRecords: Bool) -> RPCError {
        guard hasRecords else { return notController() }
        return RPCError(
            .requestTimedOut,
            "controller \(local) lost the leadership before it knew whether the change was "
                + "committed; look whether it took effect before trying again")
    }
}

extension MonotonicTime {
    /// This machine's monotonic clock.
    static var now: MonotonicTime {
        MonotonicTime(nanoseconds: Int64(clamping: NIODeadline.now().uptimeNanoseconds))
    }
}
