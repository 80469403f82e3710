import Essentials
import Glibc
import Logging
import NIOCore
import NIOPosix
import Storage
import Synchronization

/// The replicas that move from one log directory of this broker to another, one after the other.
///
/// Any thread. They have a thread of their own: copying takes long, and waits on purpose.
final class ReplicaMoves: Sendable {
    /// One replica's move.
    final class Move: Sendable {
        let replica: Replica
        let target: ReplicaDisk
        /// Bytes a second; 0 for no limit.
        let rate: Int
        let progress = LogCopy.Progress()
        private let state = Mutex<(isCancelled: Bool, failure: String?)>((false, nil))

        init(replica: Replica, target: ReplicaDisk, rate: Int) {
            self.replica = replica
            self.target = target
            self.rate = rate
        }

        var isCancelled: Bool { state.withLock { $0.isCancelled } }
        /// Why it was given up.
        var failure: String? { state.withLock { $0.failure } }

        func cancel() { state.withLock { $0.isCancelled = true } }
        func fail(_ reason: String) { state.withLock { $0.failure = reason } }
    }

    private struct State {
        /// Those that wait, the one that is made, and those that failed, until they are tried again.
        var moves: [TopicPartition: Move] = [:]
        var isStopping = false
    }

    private let state = Mutex(State())
    private let pool = NIOThreadPool(numberOfThreads: 1)
    private let isStarted = Mutex(false)

    /// Begins a move, in place of an earlier one of the same replica; `body` makes it.
    func begin(_ move: Move, _ body: @escaping @Sendable (Move) -> Void) {
        let earlier = state.withLock { state -> Move? in
            guard !state.isStopping else { return move }
            return state.moves.updateValue(move, forKey: move.replica.id)
        }
        earlier?.cancel()
        guard earlier !== move else { return }
        isStarted.withLock { isStarted in
            if !isStarted { pool.start() }
            isStarted = true
        }
        pool.submit { state in
            if case .active = state { body(move) }
        }
    }

    /// Gives up a move that has not come to its end.
    func cancel(_ id: TopicPartition) {
        state.withLock { $0.moves.removeValue(forKey: id) }?.cancel()
    }

    /// It was made.
    func ended(_ move: Move) {
        state.withLock { state in
            if state.moves[move.replica.id] === move { state.moves[move.replica.id] = nil }
        }
    }

    var all: [Move] { state.withLock { Array($0.moves.values) } }

    func stop() {
        let moves = state.withLock { state in
            state.isStopping = true
            return Array(state.moves.values)
        }
        for move in moves { move.cancel() }
    }

    /// Returns once none is under way any more.
    func ended() async {
        guard isStarted.withLock({ $0 }) else { return }
        try? await pool.shutdownGracefully()
    }
}

extension ReplicaManager {
    /// So little is left to copy that the replica may wait for it.
    private static let lastBytes = 4 << 20
    /// Copied so often, and still not nearly all: records come in as fast as they are copied.
    private static let maxRounds = 100

    /// Begins to move a replica to another log directory.
    ///
    /// - Parameter rate: the bytes a second; 0 for no limit.
    func move(_ replica: Replica, to target: ReplicaDisk, rate: Int) {
        let move = ReplicaMoves.Move(replica: replica, target: target, rate: rate)
        moves.begin(move) { [self] move in
            do throws(LogError) {
                try carryOut(move)
                moves.ended(move)
            } catch {
                if move.isCancelled { return moves.ended(move) }
                logger.error(
                    "a replica was not moved",
                    metadata: [
                        "partition": "\(replica.name)", "to": "\(target.directory.path)",
                        "error": "\(error)",
                    ])
                move.fail("\(error)")
            }
        }
    }

    private func carryOut(_ move: ReplicaMoves.Move) throws(LogError) {
        let replica = move.replica
        guard let source = onLoop(replica, { $0.opened?.disk }) else { throw .closed }
        guard source !== move.target else { return }
        let copy = try LogCopy(
            of: replica.folder, from: source.directory, to: move.target.directory,
            progress: move.progress)
        logger.info(
            "moving a replica",
            metadata: [
                "partition": "\(replica.name)", "from": "\(source.directory.path)",
                "to": "\(move.target.directory.path)",
            ])
        do throws(LogError) {
            var round = 0
            while true {
                guard let plan = onLoop(replica, { $0.opened?.log.copyPlan() }) else {
                    throw .closed
                }
                if round > 0, copy.missing(of: plan) <= Self.lastBytes { break }
                guard round < Self.maxRounds else {
                    throw .offline("records come in as fast as they are copied; raise the rate")
                }
                round += 1
                var pace = CopyPace(rate: move.rate)
                try copy.copy(plan) { count throws(LogError) in
                    guard !move.isCancelled else { throw .closed }
                    pace.wait(after: count)
                }
            }
            guard !move.isCancelled else { throw .closed }
        } catch {
            copy.abandon()
            throw error
        }
        try finish(move, copy, from: source)
    }

    /// Does what is left while the replica waits.
    private func finish(
        _ move: ReplicaMoves.Move, _ copy: LogCopy, from source: ReplicaDisk
    ) throws(LogError) {
        let replica = move.replica
        var paused: (opened: OpenedLog, highWatermark: Offset)?
        while paused == nil {
            switch onLoop(replica, { $0.pause() }) {
            case .paused(let opened, let highWatermark):
                paused = (opened, highWatermark)
            case .busy where !move.isCancelled:
                CopyPace.sleep(.milliseconds(2))
            case .busy, .gone, nil:
                copy.abandon()
                throw .closed
            }
        }
        guard let (opened, highWatermark) = paused else { return }
        let folder = replica.folder
        var failure: LogError?
        var leftover: String?
        do throws(LogError) {
            leftover = try copy.finish(opened.log, highWatermark: highWatermark)
            disks.moved(folder, to: move.target)
        } catch {
            failure = error
            copy.abandon()
        }
        let result: Result<(Opening, Offset), LogError>
        do throws(LogError) {
            // Whichever it is: the old log is as it was, if closed.
            if failure != nil { try source.directory.closeLog(opened.log) }
            let disk = failure == nil ? move.target : source
            var config = LogConfig()
            replica.initialSettings.apply(to: &config)
            let (log, report) = try disk.directory.openLog(folder.name, config: config)
            let opened = OpenedLog(log: log, disk: disk)
            if case .damaged(let offset, _) = report.outcome {
                result = .success(
                    (.damaged(DamagedLog(opened: opened, offset: offset)), highWatermark))
            } else {
                result = .success((.sound(opened), highWatermark))
            }
        } catch {
            result = .failure(error)
        }
        replica.eventLoop.execute { self.opened(replica, result) }
        if let failure { throw failure }
        logger.info(
            "a replica was moved",
            metadata: [
                "partition": "\(replica.name)", "to": "\(move.target.directory.path)",
                "bytes": "\(move.progress.total)",
            ])
        guard let leftover else { return }
        do throws(LogError) {
            try source.directory.removeDeleted(leftover)
        } catch {
            // The next start finishes it.
            logger.error(
                "cannot remove the files of a log that was moved",
                metadata: ["path": "\(source.directory.path)/\(leftover)", "error": "\(error)"])
        }
    }

    /// Asks a replica on its loop; blocks until it has answered, `nil` if it never will.
    private func onLoop<T: Sendable>(
        _ replica: Replica, _ body: @escaping @Sendable (Replica) -> T?
    ) -> T? {
        try? replica.eventLoop.submit { body(replica) }.wait()
    }
}

/// Waits so that no more than so many bytes are copied in a second.
private struct CopyPace {
    private let rate: Int
    private let start = ContinuousClock.now
    private var done = 0

    init(rate: Int) {
        self.rate = rate
    }

    mutating func wait(after count: Int) {
        guard rate > 0 else { return }
        done += count
        let due = start + .seconds(Double(done) / Double(rate))
        let rest = due - ContinuousClock.now
        // In short pieces, since it may be cancelled.
        if rest > .zero { Self.sleep(min(rest, .seconds(1))) }
    }

    static func sleep(_ duration: Duration) {
        var time = timespec()
        let (seconds, attoseconds) = duration.components
        time.tv_sec = Int(clamping: seconds)
        time.tv_nsec = Int(clamping: attoseconds / 1_000_000_000)
        nanosleep(&time, nil)
    }
}
