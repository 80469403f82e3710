import Essentials
import Logging
import NIOCore
import Replication
import Storage
import Synchronization

/// The replicas of one data event loop, and what they share: brokers' standing, time, flush results.
final class ReplicaShard: @unchecked Sendable {
    // Sendable: but for `flushed`, which has its own lock, everything is touched on `eventLoop` only.

    private struct FlushResult: Sendable {
        var replica: Replica
        var ticket: FlushTicket
        var result: Result<Void, LogError>
    }

    let eventLoop: any EventLoop
    private(set) var replicas: [TopicPartition: Replica] = [:]
    private(set) var brokers: [NodeID: BrokerStatus] = [:]
    /// How long a follower may lag.
    private(set) var maxReplicaLag: Duration
    /// How many reads from disks there are for each follower.
    private var followerReads: [NodeID: Int] = [:]
    private var timer: RepeatedTask?
    /// The replicas that wait for something to become due: of thousands, the few where something happens.
    private var awake: [Replica] = []
    // A lock, because flusher threads report here: many results cross over in one hop.
    private let flushed = Mutex<[FlushResult]>([])

    /// How often deadlines of clients and of followers are looked at.
    private static let tickInterval = TimeAmount.milliseconds(20)

    init(eventLoop: any EventLoop, maxReplicaLag: Duration) {
        self.eventLoop = eventLoop
        self.maxReplicaLag = maxReplicaLag
    }

    var now: MonotonicTime { .now }

    func start() {
        eventLoop.preconditionInEventLoop()
        timer = eventLoop.scheduleRepeatedTask(
            initialDelay: Self.tickInterval, delay: Self.tickInterval
        ) { [unowned self] _ in
            guard !awake.isEmpty else { return }
            let now = self.now
            let replicas = awake
            awake = []
            for replica in replicas {
                replica.isAwake = false
                replica.tick(now: now)
                replica.wake()
            }
        }
    }

    /// Lets `replica` tick until nothing there can become due; see `Replica.wake`.
    func tick(_ replica: Replica) {
        eventLoop.preconditionInEventLoop()
        awake.append(replica)
    }

    private func stop() {
        eventLoop.preconditionInEventLoop()
        timer?.cancel()
        timer = nil
        awake = []
        replicas = [:]
    }

    /// Lets every leader here remove what its topic keeps no longer.
    ///
    /// - Parameter wallClock: milliseconds since 1970.
    func retain(wallClock: Int64) {
        eventLoop.preconditionInEventLoop()
        for replica in replicas.values { replica.retain(wallClock: wallClock) }
    }

    /// What is to be noted of the logs here: those whose high watermark or durable end has moved.
    func takeCheckpoints() -> [(disk: ReplicaDisk, logs: [String: LogCheckpoint])] {
        eventLoop.preconditionInEventLoop()
        var byDisk: [ObjectIdentifier: (disk: ReplicaDisk, logs: [String: LogCheckpoint])] = [:]
        for replica in replicas.values {
            guard let disk = replica.opened?.disk, let checkpoint = replica.takeCheckpoint()
            else { continue }
            byDisk[ObjectIdentifier(disk), default: (disk, [:])].logs[replica.name] = checkpoint
        }
        return Array(byDisk.values)
    }

    /// Ends all service here; the logs are the caller's to close.
    func closeAll() -> [(opened: OpenedLog, highWatermark: Offset)] {
        eventLoop.preconditionInEventLoop()
        let logs = replicas.values.compactMap { replica in
            replica.close().map { ($0, replica.highWatermark) }
        }
        stop()
        return logs
    }

    func add(_ replica: Replica) {
        eventLoop.preconditionInEventLoop()
        replicas[replica.id] = replica
    }

    func remove(_ replica: Replica) {
        eventLoop.preconditionInEventLoop()
        if replicas[replica.id] === replica { replicas[replica.id] = nil }
    }

    func update(brokers: [NodeID: BrokerStatus]) {
        eventLoop.preconditionInEventLoop()
        self.brokers = brokers
        for replica in replicas.values { replica.standingChanged() }
    }

    func update(maxReplicaLag: Duration) {
        eventLoop.preconditionInEventLoop()
        guard maxReplicaLag != self.maxReplicaLag else { return }
        self.maxReplicaLag = maxReplicaLag
        for replica in replicas.values { replica.standingChanged() }
    }

    /// Whether there may be another read from a disk for `follower`; `endFollowerRead` ends it.
    func takeFollowerRead(for follower: NodeID) -> Bool {
        eventLoop.preconditionInEventLoop()
        let count = followerReads[follower, default: 0]
        guard count < FollowerRead.limit else { return false }
        followerReads[follower] = count + 1
        return true
    }

    func endFollowerRead(for follower: NodeID) {
        eventLoop.preconditionInEventLoop()
        let count = followerReads[follower, default: 0]
        invariant(count > 0, "a read for \(follower) ended twice")
        followerReads[follower] = count > 1 ? count - 1 : nil
    }

    /// Hands a flush to the log directory's flusher and its result back to the replica.
    func flush(_ ticket: FlushTicket, of replica: Replica, with flusher: LogFlusher) {
        flusher.submit(ticket) { result in
            let isFirst = self.flushed.withLock { results in
                results.append(FlushResult(replica: replica, ticket: ticket, result: result))
                return results.count == 1
            }
            guard isFirst else { return }
            self.eventLoop.execute { self.handOutFlushResults() }
        }
    }

    private func handOutFlushResults() {
        let results = flushed.withLock { results in
            defer { results = [] }
            return results
        }
        for flush in results { flush.replica.flushEnded(flush.ticket, flush.result) }
    }
}

extension MonotonicTime {
    /// The machine's monotonic clock.
    static var now: MonotonicTime {
        MonotonicTime(nanoseconds: Int64(clamping: NIODeadline.now().uptimeNanoseconds))
    }
}
