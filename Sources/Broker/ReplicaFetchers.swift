import Essentials
import Logging
import NIOCore
import Replication
import Synchronization

/// The fetchers of a broker, one a leader broker.
final class ReplicaFetchers: Sendable {
    private struct State {
        var fetchers: [NodeID: ReplicaFetcher] = [:]
        var addresses: [NodeID: (host: String, port: Int)] = [:]
        var options: ReplicaFetcher.Options
        var isClosed = false
    }

    private let eventLoops: [any EventLoop]
    private let brokerEpoch: @Sendable () -> BrokerEpoch
    private let logger: Logger
    // A lock, because replicas on any loop look their leader's fetcher up.
    private let state: Mutex<State>

    init(
        eventLoops: [any EventLoop], options: ReplicaFetcher.Options,
        brokerEpoch: @escaping @Sendable () -> BrokerEpoch, logger: Logger
    ) {
        self.eventLoops = eventLoops
        state = Mutex(State(options: options))
        self.brokerEpoch = brokerEpoch
        self.logger = logger
    }

    func follow(_ replica: Replica, leader: NodeID, position: PartitionFollower.Position) {
        let (fetcher, isNew) = state.withLock { state -> (ReplicaFetcher?, Bool) in
            guard !state.isClosed else { return (nil, false) }
            if let fetcher = state.fetchers[leader] { return (fetcher, false) }
            let fetcher = ReplicaFetcher(
                leader: leader, eventLoop: eventLoops[state.fetchers.count % eventLoops.count],
                options: state.options, brokerEpoch: brokerEpoch, logger: logger)
            state.fetchers[leader] = fetcher
            return (fetcher, true)
        }
        guard let fetcher else { return }
        fetcher.eventLoop.runNow { [self] in
            fetcher.follow(replica, position: position)
            // Looked up only here, so that it isn't an older one than `update` brought meanwhile.
            if isNew, let address = state.withLock({ $0.addresses[leader] }) {
                fetcher.setAddress(host: address.host, port: address.port)
            }
        }
    }

    func unfollow(_ id: TopicPartition, leader: NodeID, leaderEpoch: LeaderEpoch) {
        guard let fetcher = state.withLock({ $0.fetchers[leader] }) else { return }
        fetcher.eventLoop.runNow { fetcher.unfollow(id, leaderEpoch: leaderEpoch) }
    }

    func moved(
        _ id: TopicPartition, leader: NodeID, to position: PartitionFollower.Position
    ) {
        guard let fetcher = state.withLock({ $0.fetchers[leader] }) else { return }
        fetcher.eventLoop.runNow { fetcher.moved(id, to: position) }
    }

    /// Where the brokers are now.
    func update(addresses: [NodeID: (host: String, port: Int)]) {
        let fetchers = state.withLock { state -> [NodeID: ReplicaFetcher] in
            state.addresses = addresses
            return state.fetchers
        }
        for (leader, fetcher) in fetchers {
            guard let address = addresses[leader] else { continue }
            fetcher.eventLoop.runNow {
                fetcher.setAddress(host: address.host, port: address.port)
            }
        }
    }

    /// How leaders are asked from now on.
    func update(maxWait: Duration, maxBytes: Int) {
        let fetchers = state.withLock { state -> [ReplicaFetcher] in
            state.options.maxWait = maxWait
            state.options.maxBytes = maxBytes
            return Array(state.fetchers.values)
        }
        for fetcher in fetchers {
            fetcher.eventLoop.runNow { fetcher.update(maxWait: maxWait, maxBytes: maxBytes) }
        }
    }

    func close() {
        let fetchers = state.withLock { state -> [ReplicaFetcher] in
            state.isClosed = true
            defer { state.fetchers = [:] }
            return Array(state.fetchers.values)
        }
        for fetcher in fetchers { fetcher.eventLoop.runNow { fetcher.close() } }
    }
}
