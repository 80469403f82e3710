import Essentials
import Logging
import NIOCore
import RPC
import Replication
import Synchronization

/// Fetches from one leader broker, for all partitions that this broker follows from it.
///
/// On its own loop. Answers go to the replicas' loops, one hop a loop, and what became of them comes back
/// the same way; the `FetchPacer` decides when the next request leaves.
final class ReplicaFetcher: @unchecked Sendable {
    // Sendable: everything but the constants is touched on `eventLoop` only.

    struct Options: Sendable {
        var clusterID: String
        var nodeID: NodeID
        /// How long a fetch waits for news (`replica.fetch.wait.max.ms`).
        var maxWait = Duration.milliseconds(500)
        /// The most in one answer (`replica.fetch.response.max.bytes`).
        var maxBytes = 10 << 20
        /// How long a partition that could not be fetched is left out.
        var partitionBackoff = Duration.milliseconds(20)
        /// A request is given up when its answer is this much later than `maxWait`.
        var patience = Duration.seconds(3)
    }

    private struct Followed {
        var replica: Replica
        var position: PartitionFollower.Position
        var retryAt = MonotonicTime.zero
    }

    let leader: NodeID
    let eventLoop: any EventLoop
    private var options: Options
    private let brokerEpoch: @Sendable () -> BrokerEpoch
    private let logger: Logger
    private var address: (host: String, port: Int)?
    private var client: RPCClient?
    private var followed: [TopicPartition: Followed] = [:]
    /// The order in which partitions are asked for; those just served go last.
    private var order: [TopicPartition] = []
    private var pacer = FetchPacer()
    private var timer: (at: MonotonicTime, task: Scheduled<Void>)?
    private var isClosed = false
    private var isFailing = false
    /// How much to ask for: less after each failure, in case the answer was too much.
    private var maxBytes: Int

    /// However much has failed, this is asked for.
    private static let leastBytes = 64 << 10

    init(
        leader: NodeID, eventLoop: any EventLoop, options: Options,
        brokerEpoch: @escaping @Sendable () -> BrokerEpoch, logger: Logger
    ) {
        self.leader = leader
        self.eventLoop = eventLoop
        self.options = options
        self.brokerEpoch = brokerEpoch
        self.logger = logger
        maxBytes = options.maxBytes
    }

    // MARK: What to fetch

    func setAddress(host: String, port: Int) {
        eventLoop.preconditionInEventLoop()
        if let address, address == (host, port) { return }
        address = (host, port)
        client?.close()
        // An answer holds a batch at least, however large the leader lets batches be.
        var limits = RPCLimits()
        limits.maxMessageBytes = Int(Int32.max)
        client =
            isClosed
            ? nil
            : RPCClient(
                host: host, port: port, eventLoop: eventLoop, limits: limits, logger: logger)
        fetchIfDue()
    }

    /// The next request is made like this.
    func update(maxWait: Duration, maxBytes: Int) {
        eventLoop.preconditionInEventLoop()
        options.maxWait = maxWait
        options.maxBytes = maxBytes
        // What has failed is asked for less until something succeeds.
        self.maxBytes = isFailing ? min(self.maxBytes, maxBytes) : maxBytes
    }

    func follow(_ replica: Replica, position: PartitionFollower.Position) {
        eventLoop.preconditionInEventLoop()
        if followed[replica.id] == nil { order.append(replica.id) }
        followed[replica.id] = Followed(replica: replica, position: position)
        pacer.partitionsChanged()
        fetchIfDue()
    }

    /// Forgets the partition, unless it is followed in a newer epoch already.
    func unfollow(_ id: TopicPartition, leaderEpoch: LeaderEpoch) {
        eventLoop.preconditionInEventLoop()
        guard let entry = followed[id], entry.position.leaderEpoch <= leaderEpoch else { return }
        followed[id] = nil
        order.removeAll { $0 == id }
    }

    func close() {
        eventLoop.preconditionInEventLoop()
        isClosed = true
        client?.close()
        client = nil
        timer?.task.cancel()
        timer = nil
        followed = [:]
        order = []
    }

    // MARK: Asking

    private func fetchIfDue() {
        guard !isClosed, let client, !followed.isEmpty else { return }
        let now = MonotonicTime.now
        let due = order.filter { id in followed[id].map { $0.retryAt <= now } ?? false }
        guard !due.isEmpty else {
            let earliest = followed.values.map(\.retryAt).min() ?? now
            wake(at: earliest)
            return
        }
        guard let fetch = pacer.nextFetch(now: now) else {
            if let deadline = pacer.nextDeadline { wake(at: deadline) }
            return
        }
        var asked: [TopicPartition: PartitionFollower.Position] = [:]
        asked.reserveCapacity(due.count)
        for id in due { asked[id] = followed[id]?.position }
        let positions = asked
        let message = ReplicaFetchCoding.encode(
            clusterID: options.clusterID, follower: options.nodeID, brokerEpoch: brokerEpoch(),
            maxBytes: maxBytes, maxWait: options.maxWait,
            positions: due.lazy.compactMap { id in positions[id].map { (id, $0) } },
            count: due.count)
        client.unary(
            ReplicaFetchService.path, [message], timeout: options.maxWait + options.patience
        ) { [self] result in
            answered(fetch, positions, result)
        }
        // Partitions left out for now join as soon as their time is over.
        if due.count < order.count {
            let next = followed.values.lazy.map(\.retryAt).filter { $0 > now }.min() ?? now
            wake(at: next)
        }
    }

    private func wake(at time: MonotonicTime) {
        if let timer, timer.at <= time { return }
        timer?.task.cancel()
        let delay = max(0, (time - .now).nanoseconds)
        let task = eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(delay)) {
            self.timer = nil
            let now = MonotonicTime.now
            if self.followed.values.contains(where: { $0.retryAt > .zero && $0.retryAt <= now }) {
                for id in self.order where self.followed[id].map({ $0.retryAt <= now }) == true {
                    self.followed[id]?.retryAt = .zero
                }
                self.pacer.partitionsChanged()
            }
            self.fetchIfDue()
        }
        timer = (time, task)
    }

    // MARK: Answers

    private func answered(
        _ fetch: UInt64, _ asked: [TopicPartition: PartitionFollower.Position],
        _ result: Result<ByteBuffer, RPCError>
    ) {
        eventLoop.preconditionInEventLoop()
        guard !isClosed else { return }
        let now = MonotonicTime.now
        do throws(RPCError) {
            let answers = try ReplicaFetchCoding.decodeAnswers(result.get())
            if isFailing {
                isFailing = false
                logger.info("fetching again", metadata: ["leader": "\(leader)"])
            }
            maxBytes = options.maxBytes
            take(answers, to: fetch, asked, now: now)
        } catch {
            if !isFailing {
                isFailing = true
                logger.warning(
                    "cannot fetch from the leader, trying on",
                    metadata: ["leader": "\(leader)", "error": "\(error)"])
            }
            // Should it be one partition's fault, others come first the next time.
            if let first = order.first { order = order.dropFirst() + [first] }
            maxBytes = min(options.maxBytes, max(Self.leastBytes, maxBytes / 2))
            pacer.failed(fetch, now: now)
        }
        fetchIfDue()
    }

    private func take(
        _ answers: [ReplicaFetchCoding.Answer], to fetch: UInt64,
        _ asked: [TopicPartition: PartitionFollower.Position], now: MonotonicTime
    ) {
        var shares: [ObjectIdentifier: [FollowerDelivery]] = [:]
        var hasMore = false
        var served: Set<TopicPartition> = []
        for answer in answers {
            guard let position = asked[answer.id], let entry = followed[answer.id],
                entry.position.leaderEpoch == position.leaderEpoch
            else { continue }
            hasMore = hasMore || answer.hasMore
            if case .batches(let bytes) = answer.content, bytes.readableBytes > 0 {
                served.insert(answer.id)
            }
            shares[ObjectIdentifier(entry.replica.shard), default: []].append(
                FollowerDelivery(
                    replica: entry.replica, asked: position, leaderEpoch: answer.leaderEpoch,
                    fetchOffset: answer.fetchOffset, highWatermark: answer.highWatermark,
                    logStartOffset: answer.logStartOffset, content: answer.content))
        }
        // Whoever got something asks last the next time, so that all get their turn.
        if !served.isEmpty, served.count < order.count {
            order = order.filter { !served.contains($0) } + order.filter { served.contains($0) }
        }
        pacer.answered(fetch, partitions: shares.count, leaderHasMore: hasMore, now: now)
        for deliveries in shares.values {
            guard let eventLoop = deliveries.first?.replica.eventLoop else { continue }
            let round = ReplicaFetchRound(fetcher: self, deliveries: deliveries)
            eventLoop.runNow { round.run() }
        }
    }

    /// A loop has taken its share of an answer.
    func appended(
        _ moved: [(TopicPartition, PartitionFollower.Position)], failed: [TopicPartition],
        isUnsynced: Bool
    ) {
        eventLoop.preconditionInEventLoop()
        update(moved)
        let retryAt = MonotonicTime.now + options.partitionBackoff
        for id in failed { followed[id]?.retryAt = retryAt }
        pacer.appended(partitions: 1, unsynced: isUnsynced ? 1 : 0)
        fetchIfDue()
    }

    /// What a loop had appended is durable there.
    func flushed(_ moved: [(TopicPartition, PartitionFollower.Position)]) {
        eventLoop.preconditionInEventLoop()
        update(moved)
        pacer.flushed(partitions: 1)
        fetchIfDue()
    }

    /// A replica has moved on without an answer from the leader.
    func moved(_ id: TopicPartition, to position: PartitionFollower.Position) {
        eventLoop.preconditionInEventLoop()
        update([(id, position)])
        pacer.partitionsChanged()
        fetchIfDue()
    }

    private func update(_ moved: [(TopicPartition, PartitionFollower.Position)]) {
        for (id, position) in moved
        where followed[id]?.position.leaderEpoch == position.leaderEpoch {
            followed[id]?.position = position
        }
    }
}

/// One loop's share of one answer: appended at once, then waited for until it is durable.
final class ReplicaFetchRound: @unchecked Sendable {
    // Sendable: made by the fetcher and then touched on the replicas' loop only.

    private let fetcher: ReplicaFetcher
    private let deliveries: [FollowerDelivery]
    private var unsynced: [Replica] = []
    private var missing = 0

    init(fetcher: ReplicaFetcher, deliveries: [FollowerDelivery]) {
        self.fetcher = fetcher
        self.deliveries = deliveries
    }

    func run() {
        var moved: [(TopicPartition, PartitionFollower.Position)] = []
        var failed: [TopicPartition] = []
        for delivery in deliveries {
            let replica = delivery.replica
            switch replica.receive(delivery) {
            case .moved(let position, let isUnsynced):
                moved.append((replica.id, position))
                if isUnsynced { unsynced.append(replica) }
            case .ignored:
                break
            case .failed:
                failed.append(replica.id)
            }
        }
        let isUnsynced = !unsynced.isEmpty
        fetcher.eventLoop.runNow { [fetcher, moved, failed] in
            fetcher.appended(moved, failed: failed, isUnsynced: isUnsynced)
        }
        missing = unsynced.count
        for replica in unsynced {
            replica.whenSettled { self.replicaDone() }
        }
    }

    private func replicaDone() {
        missing -= 1
        guard missing == 0 else { return }
        let moved = unsynced.compactMap { replica in
            replica.follower.map { (replica.id, $0.position) }
        }
        fetcher.eventLoop.runNow { [fetcher] in fetcher.flushed(moved) }
    }
}
