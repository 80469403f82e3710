import Essentials
import Foundation
import HashTreeCollections
import Logging
import Metadata
import NIOCore
import NIOPosix
import Protocol
import RPC
import Records
import Storage
import Synchronization
import Testing

@testable import Broker

/// Brokers in this process that replicate over loopback, and a controller that is always right.
final class ReplicaCluster: Sendable {
    final class Node: Sendable {
        let manager: ReplicaManager
        let server: RPCServer
        let control: any EventLoop

        init(manager: ReplicaManager, server: RPCServer, control: any EventLoop) {
            self.manager = manager
            self.server = server
            self.control = control
        }
    }

    private struct State {
        var image = MetadataImage()
        var nodes: [NodeID: Node] = [:]
        /// Brokers that hear nothing of the metadata.
        var deaf: Set<NodeID> = []
        /// What the deaf have missed.
        var missed: [NodeID: [MetadataRecord]] = [:]
        /// Pairs of which the first cannot reach the second.
        var cuts: Set<[NodeID]> = []
        var registrations: Int64 = 0
        var refusesProposals = false
        var reports: [NodeID: [TopicPartition: [WireReportReplicasRequest.State]]] = [:]
    }

    let directory: String
    let maxReplicaLag: Duration
    private let configure: @Sendable (inout ReplicaManager.Options) -> Void
    private let fileSystem: any FileSystem
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 4)
    private let state = Mutex(State())
    private let logger: Logger

    init(
        maxReplicaLag: Duration = .seconds(30), fileSystem: any FileSystem = .local,
        configure: @escaping @Sendable (inout ReplicaManager.Options) -> Void = { _ in }
    ) throws {
        directory = NSTemporaryDirectory() + "replica-tests-\(UniqueID.random())"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        self.maxReplicaLag = maxReplicaLag
        self.configure = configure
        self.fileSystem = fileSystem
        var logger = Logger(label: "test")
        logger.logLevel = ProcessInfo.processInfo.environment["LOG"] == nil ? .critical : .debug
        self.logger = logger
    }

    /// Runs `body` with brokers 1, 2 and 3, and cleans up behind it.
    static func run(
        brokers: [NodeID] = [1, 2, 3], maxReplicaLag: Duration = .seconds(30),
        fileSystem: any FileSystem = .local,
        configure: @escaping @Sendable (inout ReplicaManager.Options) -> Void = { _ in },
        _ body: (ReplicaCluster) async throws -> Void
    ) async throws {
        let cluster = try ReplicaCluster(
            maxReplicaLag: maxReplicaLag, fileSystem: fileSystem, configure: configure)
        do {
            for broker in brokers { try await cluster.start(broker) }
            try await body(cluster)
        } catch {
            await cluster.stop()
            throw error
        }
        await cluster.stop()
    }

    func stop() async {
        let nodes = state.withLock { $0.nodes.keys.sorted() }
        for id in nodes { await stop(id) }
        try? await group.shutdownGracefully()
        try? FileManager.default.removeItem(atPath: directory)
    }

    // MARK: Brokers

    func start(_ id: NodeID) async throws {
        let control = group.next()
        var options = ReplicaManager.Options(
            clusterID: "test", nodeID: id, logDirectories: ["\(directory)/\(id)"],
            maxReplicaLag: maxReplicaLag, maxFetchWait: .milliseconds(200))
        configure(&options)
        let manager = try ReplicaManager(
            options: options, fileSystem: fileSystem,
            eventLoops: [group.next(), group.next()], controlLoop: control,
            alterPartition: { try self.alter($0) }, reportReplicas: { try self.report($0) },
            logger: logger)
        manager.disks.onFailure { [weak manager] disk, error in
            manager?.diskFailed(disk, error)
        }
        var router = Router()
        manager.registerReplicaService(in: &router)
        let server = try await RPCServer.start(
            host: "127.0.0.1", port: 0, router: router, group: group, logger: logger)
        let node = Node(manager: manager, server: server, control: control)
        let epoch = state.withLock { state in
            state.registrations += 1
            return BrokerEpoch(1_000 + state.registrations)
        }
        manager.registered(epoch: epoch)
        let registration = BrokerRegistration(
            id: id, incarnation: .random(), epoch: epoch, host: "127.0.0.1", port: server.port,
            fenced: false)
        commit([.registerBroker(registration)])
        state.withLock { state in
            state.nodes[id] = node
            deliver(MetadataDelta(), to: id, in: state)
        }
    }

    /// Stops a broker in order.
    func stop(_ id: NodeID) async {
        guard let node = state.withLock({ $0.nodes.removeValue(forKey: id) }) else { return }
        await node.manager.stop()
        await node.server.stop(grace: .zero)
    }

    func manager(_ id: NodeID) throws -> ReplicaManager {
        try #require(state.withLock { $0.nodes[id]?.manager })
    }

    /// Where `broker` listens.
    func port(_ broker: NodeID) throws -> Int {
        try #require(state.withLock { $0.nodes[broker]?.server.port })
    }

    // MARK: Metadata

    /// Applies the records here and at every broker that listens.
    func commit(_ records: [MetadataRecord]) {
        state.withLock { state in
            var delta = MetadataDelta()
            for record in records {
                do {
                    try state.image.apply(record, at: state.image.nextOffset, delta: &delta)
                } catch {
                    Issue.record("\(record) does not apply: \(error)")
                }
            }
            for id in state.nodes.keys.sorted() {
                if state.deaf.contains(id) {
                    state.missed[id, default: []] += records
                } else {
                    deliver(delta, to: id, in: state)
                }
            }
        }
    }

    private func deliver(_ delta: MetadataDelta, to id: NodeID, in state: State) {
        guard let node = state.nodes[id] else { return }
        var image = state.image
        for cut in state.cuts where cut[0] == id { image.brokers[cut[1]]?.port = 1 }
        node.control.execute { [image] in node.manager.apply(image: image, delta: delta) }
    }

    /// Lets `broker` miss all metadata until `listen`.
    func deafen(_ broker: NodeID) {
        state.withLock { $0.deaf.formUnion([broker]) }
    }

    func listen(_ broker: NodeID) {
        state.withLock { state in
            state.deaf.remove(broker)
            // The image is the newest; what changed meanwhile is anything at all.
            var delta = MetadataDelta()
            for topic in state.image.topics.values {
                for partition in topic.partitions.indices {
                    delta.changedPartitions.insert(
                        TopicPartition(topic: topic.id, partition: Int32(partition)))
                }
            }
            delta.changedBrokers = Set(state.image.brokers.keys)
            deliver(delta, to: broker, in: state)
        }
    }

    /// Keeps `from` from reaching `to`, or lets it again, from the moment this returns.
    func cut(_ from: NodeID, _ to: NodeID, _ isCut: Bool = true) async throws {
        let control = state.withLock { state in
            if isCut { state.cuts.insert([from, to]) } else { state.cuts.remove([from, to]) }
            var delta = MetadataDelta()
            delta.changedBrokers = [to]
            deliver(delta, to: from, in: state)
            return state.nodes[from]?.control
        }
        // The control loop tells the fetchers, each on its own loop, to hang up: the fetch that is
        // under way could else still be answered, and what it brought be confirmed.
        try await control?.submit {}.get()
        for loop in group.makeIterator() { try await loop.submit {}.get() }
    }

    func createTopic(
        _ name: String, replicas: [NodeID] = [1, 2, 3], partitions: Int = 1
    ) throws -> TopicID {
        let id = TopicID.random()
        var records: [MetadataRecord] = [.topic(id: id, name: name)]
        for partition in 0..<partitions {
            let shifted = replicas.indices.map { replicas[($0 + partition) % replicas.count] }
            records.append(
                .partition(
                    TopicPartition(topic: id, partition: Int32(partition)),
                    PartitionState(replicas: shifted, isr: shifted, leader: shifted.first)))
        }
        commit(records)
        return id
    }

    func elect(_ leader: NodeID, isr: [NodeID], of id: TopicPartition) {
        commit([.partitionChange(PartitionChange(id: id, isr: isr, leader: .broker(leader)))])
    }

    func partition(_ id: TopicPartition) throws -> PartitionState {
        try #require(state.withLock { $0.image.partition(id) })
    }

    private func alter(
        _ request: WireAlterPartitionRequest
    ) throws -> WireAlterPartitionResponse {
        var response = WireAlterPartitionResponse()
        for change in request.partitions {
            var result = WireAlterPartitionResponse.PartitionResult()
            result.topicID = change.topicID
            result.partition = change.partition
            guard let topic = TopicID(bytes: change.topicID) else { continue }
            let id = TopicPartition(topic: topic, partition: change.partition)
            let current = try partition(id)
            if current.leader?.rawValue != request.brokerID
                || current.leaderEpoch.rawValue != change.leaderEpoch
                || current.partitionEpoch.rawValue != change.partitionEpoch
            {
                result.error = "INVALID_UPDATE_VERSION"
            } else {
                commit([
                    .partitionChange(
                        PartitionChange(id: id, isr: change.isr.map { NodeID($0.brokerID) }))
                ])
                let new = try partition(id)
                result.leaderID = request.brokerID
                result.leaderEpoch = new.leaderEpoch.rawValue
                result.partitionEpoch = new.partitionEpoch.rawValue
                result.isr = new.isr.map(\.rawValue)
            }
            response.partitions.append(result)
        }
        return response
    }

    /// Lets another replica that is in sync lead in place of one that is offline.
    private func report(
        _ request: WireReportReplicasRequest
    ) throws -> WireReportReplicasResponse {
        let broker = NodeID(request.brokerID)
        for replica in request.replicas {
            guard let topic = TopicID(bytes: replica.topicID) else { continue }
            let id = TopicPartition(topic: topic, partition: replica.partition)
            state.withLock {
                $0.reports[broker, default: [:]][id, default: []].append(replica.state)
            }
            guard let current = state.withLock({ $0.image.partition(id) }),
                replica.state != .online, current.isr.contains(broker)
            else { continue }
            let rest = current.isr.filter { $0 != broker }
            var change = PartitionChange(id: id)
            if !rest.isEmpty { change.isr = rest }
            if current.leader == broker {
                change.leader = rest.first.map { .broker($0) } ?? PartitionChange.NewLeader.none
            }
            commit([.partitionChange(change)])
        }
        return .accepting(request)
    }

    /// What `broker` has reported of a replica, in order.
    func reports(
        of id: TopicPartition, by broker: NodeID
    ) -> [WireReportReplicasRequest.State] {
        state.withLock { $0.reports[broker]?[id] ?? [] }
    }

    // MARK: Records

    /// Writes one batch at `broker`, as soon as it takes any.
    func produce(
        _ values: [String], keys: [String]? = nil, to topic: String, partition: Int32 = 0,
        at broker: NodeID,
        acks: WireAcks = .all, timeout: Duration = .seconds(20), compression: Compression = .none
    ) async throws -> ProduceOutcome {
        var builder = RecordBatchBuilder()
        for (index, value) in values.enumerated() {
            builder.append(
                key: keys.map { ByteBuffer(string: $0[index]) }, value: ByteBuffer(string: value),
                timestamp: 1_700_000_000_000)
        }
        return try await produce(
            builder.finish(compression: compression), to: topic, partition: partition, at: broker,
            acks: acks, timeout: timeout)
    }

    /// Writes batches at `broker`, as soon as it takes any.
    func produce(
        _ batch: ByteBuffer, to topic: String, partition: Int32 = 0, at broker: NodeID,
        acks: WireAcks = .all, timeout: Duration = .seconds(20)
    ) async throws -> ProduceOutcome {
        let start = ContinuousClock.now
        while true {
            do {
                let replica = try replica(topic, partition, at: broker)
                return try await withCheckedThrowingContinuation { continuation in
                    replica.eventLoop.execute {
                        replica.produce(batch, acks: acks, timeout: timeout) { result in
                            continuation.resume(with: result)
                        }
                    }
                }
            } catch let error as RPCError {
                let isTransient = [.leaderNotAvailable, .notLeaderOrFollower].contains(error.code)
                guard isTransient, ContinuousClock.now - start < .seconds(20) else { throw error }
                try await Task.sleep(for: .milliseconds(5))
            }
        }
    }

    private func replica(
        _ topic: String, _ partition: Int32, at broker: NodeID
    ) throws -> Replica {
        guard let replica = try manager(broker).replica(topic: topic, partition: partition) else {
            throw RPCError(.leaderNotAvailable, "broker \(broker) has no \(topic)-\(partition)")
        }
        return replica
    }

    /// The values that `broker`, the leader, lets clients read.
    func consume(
        _ topic: String, partition: Int32 = 0, at broker: NodeID
    ) async throws -> [String] {
        var reader = RecordReader(try await batches(topic, partition: partition, at: broker))
        var values: [String] = []
        while let record = try reader.next() {
            values.append(record.value.map { String(buffer: $0) } ?? "")
        }
        return values
    }

    /// The batches that `broker`, the leader, lets clients read.
    func batches(
        _ topic: String, partition: Int32 = 0, at broker: NodeID
    ) async throws -> ByteBuffer {
        let replica = try replica(topic, partition, at: broker)
        return try await replica.eventLoop.submit {
            let (log, _) = try replica.readable(from: 0, currentLeaderEpoch: nil)
            return try log.read(from: 0, below: replica.highWatermark, maxBytes: 100 << 20)
        }.get()
    }

    func status(
        _ topic: String, partition: Int32 = 0, at broker: NodeID
    ) async throws -> (end: Offset, durable: Offset, highWatermark: Offset, isLeader: Bool) {
        let replica = try replica(topic, partition, at: broker)
        return try await replica.eventLoop.submit {
            (
                replica.log?.logEndOffset ?? -1, replica.log?.durableOffset ?? -1,
                replica.highWatermark, replica.leader != nil
            )
        }.get()
    }

    /// The bytes of all segments of a replica.
    func segments(_ topic: String, partition: Int32 = 0, at broker: NodeID) throws -> [String: Data]
    {
        let folder = "\(directory)/\(broker)/\(topic)-\(partition)"
        var files: [String: Data] = [:]
        for name in try FileManager.default.contentsOfDirectory(atPath: folder)
        where name.hasSuffix(".log") {
            files[name] = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(name)"))
        }
        return files
    }

    /// Waits until `condition` holds; an error of a replica means that it does not yet.
    func eventually(
        _ what: String, sourceLocation: SourceLocation = #_sourceLocation,
        _ condition: () async throws -> Bool
    ) async throws {
        let start = ContinuousClock.now
        while true {
            do {
                if try await condition() { return }
            } catch is RPCError {
                // Still being opened, or about to lead.
            }
            guard ContinuousClock.now - start < .seconds(30) else {
                Issue.record("never: \(what)", sourceLocation: sourceLocation)
                throw CancellationError()
            }
            try await Task.sleep(for: .milliseconds(5))
        }
    }
}
