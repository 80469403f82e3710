import Configuration
import Essentials
import Logging
import NIOCore
import NIOPosix
import Storage
import Synchronization

/// Compacts the logs of a broker: from time to time those that have most to gain, the dirtiest first.
///
/// Owned by the control loop; the work is done on threads of its own, and what changes a log on the event
/// loop that owns it. `status` may be read anywhere.
final class LogCleaner: @unchecked Sendable {
    // Sendable: `timer` and `isStopped` are touched on `controlLoop` only; the rest is constant, or
    // guards itself.

    struct Options: Sendable {
        var isEnabled = true
        /// The logs that are compacted at a time.
        var threads = 1
        /// How often it is looked for something to do.
        var backoff = Duration.seconds(15)
        /// The memory for keys, over all threads.
        var dedupeBufferBytes = 128 << 20
        /// The most that is read and written; `nil` for no limit.
        var maxBytesPerSecond: Int64?
        /// How long it is remembered what a producer has sent (`producer.id.expiration.ms`).
        var producerRetention = Duration.seconds(86_400)
    }

    let options: Options
    private let shards: [ReplicaShard]
    /// Records say when they are from by the clock on the wall: milliseconds since 1970.
    private let wallClock: @Sendable () -> Int64
    private let controlLoop: any EventLoop
    private let logger: Logger
    private let pool: NIOThreadPool
    private let throttle: CleanerThrottle
    private let state = Mutex(State())
    private var timer: RepeatedTask?
    private var isStopped = false

    private struct State: Sendable {
        var status = CleanerStatus()
        /// A round is under way.
        var isBusy = false
        /// Logs that something is wrong with are left alone for a while.
        var retryAt: [TopicPartition: MonotonicTime] = [:]
    }

    init(
        options: Options, shards: [ReplicaShard], controlLoop: any EventLoop,
        wallClock: @escaping @Sendable () -> Int64, logger: Logger
    ) {
        self.options = options
        self.shards = shards
        self.wallClock = wallClock
        self.controlLoop = controlLoop
        self.logger = logger
        pool = NIOThreadPool(numberOfThreads: max(1, options.threads))
        throttle = CleanerThrottle(bytesPerSecond: options.maxBytesPerSecond)
    }

    var status: CleanerStatus { state.withLock { $0.status } }

    func start() {
        guard options.isEnabled else { return }
        pool.start()
        let interval = TimeAmount.nanoseconds(options.backoff.nanoseconds)
        controlLoop.execute { [self] in
            guard !isStopped else { return }
            timer = controlLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) {
                [unowned self] _ in beginRound()
            }
        }
    }

    /// Gives up what is going on; nothing is done when this returns.
    ///
    /// Before the logs are closed, and while their event loops still run.
    func stop() async {
        throttle.stop()
        await withCheckedContinuation { continuation in
            controlLoop.execute { [self] in
                isStopped = true
                timer?.cancel()
                timer = nil
                continuation.resume()
            }
        }
        if options.isEnabled { try? await pool.shutdownGracefully() }
    }

    // MARK: Rounds

    /// Looks for logs to compact, and compacts them.
    private func beginRound() {
        let isFirst = state.withLock { state in
            defer { state.isBusy = true }
            return !state.isBusy
        }
        guard isFirst, !isStopped else { return }
        let wallClock = wallClock()
        let found = shards.map { shard in
            shard.eventLoop.submit {
                shard.replicas.values.compactMap { $0.compactionCandidate(wallClock: wallClock) }
            }
        }
        EventLoopFuture.whenAllSucceed(found, on: controlLoop).whenComplete { [self] result in
            let candidates = (try? result.get())?.flatMap { $0 } ?? []
            onPool { [self] in
                let due = due(candidates, wallClock: wallClock)
                let queue = CleanerQueue(due, workers: min(due.count, options.threads))
                guard !due.isEmpty else { return endRound() }
                for _ in 0..<queue.workers {
                    onPool { [self] in
                        while !throttle.isStopping, let candidate = queue.next() {
                            clean(candidate)
                        }
                        if queue.workerEnded() { endRound() }
                    }
                }
            }
        }
    }

    private func endRound() {
        state.withLock { $0.isBusy = false }
    }

    private func onPool(_ body: @escaping @Sendable () -> Void) {
        pool.submit { state in
            switch state {
            case .active: body()
            // The broker stops.
            case .cancelled: break
            }
        }
    }

    /// What of `candidates` is to be done, the most urgent first.
    private func due(
        _ candidates: [CompactionCandidate], wallClock: Int64
    ) -> [CompactionCandidate] {
        let now = MonotonicTime.now
        let waiting = state.withLock { state in
            state.retryAt = state.retryAt.filter { $0.value > now }
            return state.retryAt
        }
        var due: [(candidate: CompactionCandidate, need: CompactionNeed)] = []
        var needs: [TopicPartition: CompactionNeed] = [:]
        for var candidate in candidates {
            let id = candidate.replica.id
            do throws(LogError) {
                let need = try candidate.survey.need(by: candidate.policy, now: wallClock)
                needs[id] = need
                guard need.isDue(by: candidate.policy), waiting[id] == nil else { continue }
                due.append((candidate, need))
            } catch {
                failed(candidate, error)
            }
        }
        state.withLock { $0.status.needs = needs }
        due.sort { left, right in
            if left.need.isOverdue != right.need.isOverdue { return left.need.isOverdue }
            return left.need.dirtyRatio > right.need.dirtyRatio
        }
        return due.map(\.candidate)
    }

    // MARK: One log

    private func clean(_ candidate: CompactionCandidate) {
        let id = candidate.replica.id
        let began = MonotonicTime.now
        state.withLock { $0.status.running[id] = 0 }
        defer { state.withLock { $0.status.running[id] = nil } }
        do throws(LogError) {
            guard let summary = try compact(candidate) else { return }
            let took = MonotonicTime.now - began
            state.withLock { $0.status.ended(id, summary, took: took) }
            log(summary, of: candidate.replica, took: took)
        } catch {
            failed(candidate, error)
        }
    }

    /// Returns `nil` when there was nothing to do, or the log has changed too much meanwhile.
    private func compact(
        _ candidate: CompactionCandidate
    ) throws(LogError) -> CompactionSummary? {
        let replica = candidate.replica
        var options = CompactionOptions(now: wallClock())
        options.memory = self.options.dedupeBufferBytes / max(1, self.options.threads)
        options.producerRetention = self.options.producerRetention
        options.pace = { [self, id = replica.id] bytes, fraction throws(LogError) in
            throttle.wait(for: bytes)
            if throttle.isStopping { throw .closed }
            state.withLock { $0.status.running[id] = fraction }
        }
        var compaction = try LogCompaction(
            candidate.survey, policy: candidate.policy, options: options)
        guard try compaction.prepare() else { return nil }
        while let segment = try compaction.next() {
            let retired = onLoop(of: replica) { replica.install(segment) } ?? nil
            // Also if it was of no use, which is undone then.
            try segment.settle()
            guard let retired else { return nil }
            onLoop(of: replica) { replica.remove(retired) }
        }
        guard try compaction.finish() else { return nil }
        let (end, survey) = (compaction.endOffset, candidate.survey)
        onLoop(of: replica) { replica.compacted(to: end, survey) }
        return compaction.summary
    }

    /// What only the log's owner may do; the cleaner's thread waits for it.
    ///
    /// - Returns: `nil` when the event loop is gone.
    @discardableResult
    private func onLoop<Value: Sendable>(
        of replica: Replica, _ body: @escaping @Sendable () -> Value
    ) -> Value? {
        try? replica.eventLoop.submit(body).wait()
    }

    private func failed(_ candidate: CompactionCandidate, _ error: LogError) {
        guard !throttle.isStopping else { return }
        let replica = candidate.replica
        let survey = candidate.survey
        guard onLoop(of: replica, { replica.compactionFailed(survey, error) }) == true else {
            return
        }
        state.withLock { state in
            state.retryAt[replica.id] = .now + .seconds(300)
            state.status.failedRuns += 1
        }
        logger.error(
            "cannot compact a log, trying again in five minutes",
            metadata: ["partition": "\(replica.name)", "error": "\(error)"])
    }

    private func log(_ summary: CompactionSummary, of replica: Replica, took: Duration) {
        logger.info(
            "compacted",
            metadata: [
                "partition": "\(replica.name)", "upTo": "\(summary.endOffset)",
                "bytesBefore": "\(summary.bytesBefore)", "bytesAfter": "\(summary.bytesAfter)",
                "segmentsBefore": "\(summary.segmentsBefore)",
                "segmentsAfter": "\(summary.segmentsAfter)", "kept": "\(summary.keptRecords)",
                "superseded": "\(summary.supersededRecords)",
                "aborted": "\(summary.abortedRecords)",
                "withoutKey": "\(summary.keylessRecords)",
                "tombstonesRemoved": "\(summary.removedTombstones)",
                "markersRemoved": "\(summary.removedMarkers)",
                "milliseconds": "\(took.milliseconds)",
            ])
    }
}

extension LogCleaner.Options {
    init(_ configuration: NodeConfiguration) {
        isEnabled = configuration.logCleanerEnabled
        threads = configuration.logCleanerThreads
        backoff = configuration.logCleanerBackoff
        dedupeBufferBytes = configuration.logCleanerDedupeBufferSize
        maxBytesPerSecond = configuration.logCleanerMaxBytesPerSecond
        producerRetention = configuration.producerIDExpiration
    }
}
