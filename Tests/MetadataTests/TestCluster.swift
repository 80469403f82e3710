import Essentials
import HashTreeCollections
import Metadata
import Testing

/// A controller's state, its log and its clock, with every command checked as it commits.
struct TestCluster {
    var state: ControllerState
    var now = MonotonicTime.zero
    private(set) var log: [MetadataRecord] = []
    private var incarnations: UInt64 = 0
    /// Loses the last batches of decisions that have several, together with the controller.
    var cuts: SeededGenerator?
    private(set) var cutCount = 0
    /// Bytes of the records in the largest batch so far.
    private(set) var largestBatch = 0
    /// Below the level that can write it down, a replica that was reported offline is forgotten by the
    /// next decision, which may elect it.
    private var hasUnwrittenReports = false

    static let id = "test-cluster"

    init(seed: UInt64 = 1, _ configure: (inout ControllerOptions) -> Void = { _ in }) {
        var options = ControllerOptions(clusterID: Self.id, controllers: [100])
        configure(&options)
        state = ControllerState(
            image: MetadataImage(), options: options, now: now,
            generator: SeededGenerator(seed: seed))
    }

    /// With brokers 1 ...
    ///
    /// `brokers` registered and serving.
    init(brokers: Int, _ configure: (inout ControllerOptions) -> Void = { _ in }) throws {
        self.init(configure)
        for id in 1...brokers { try start(NodeID(Int32(id))) }
    }

    var image: MetadataImage { state.image }

    /// Sets the level of the metadata's records, with every node known to support it.
    mutating func raiseLevel(to level: Int32) throws {
        var heard = HeardLevels(voters: [100: MetadataFeatures.supported])
        for broker in image.brokers.keys { heard.observers[broker] = MetadataFeatures.supported }
        commit(
            try state.updateFeatures(
                [FeatureUpdate(name: MetadataFeatures.metadataVersion, level: level)], heard: heard)
        )
    }

    @discardableResult
    mutating func commit<Reply>(_ result: ControllerResult<Reply>) -> Reply {
        var committed = state.image
        for (number, batch) in result.batches.enumerated() {
            if number > 0, isCut() {
                cutCount += 1
                do { try failOver() } catch { Issue.record("no image after a cut: \(error)") }
                return result.reply
            }
            let before = committed
            for record in batch {
                do {
                    try committed.apply(record, at: committed.nextOffset)
                } catch {
                    Issue.record("\(record) does not apply: \(error)")
                }
            }
            log += batch
            largestBatch = max(largestBatch, batch.reduce(0) { $0 + $1.encoded().count })
            checkRules(from: before, to: committed, state.options)
        }
        state.adopt(result)
        #expect(state.image == committed)
        if !hasUnwrittenReports { checkElections(state.image) }
        return result.reply
    }

    /// These records are all that a new controller finds.
    mutating func commitAndFailOver(_ batches: [[MetadataRecord]]) throws {
        for batch in batches {
            let before = try replayed()
            log += batch
            checkRules(from: before, to: try replayed(), state.options)
        }
        try failOver()
    }

    /// The same cluster with other limits.
    mutating func limitBatches(to bytes: Int) {
        var options = state.options
        options.maxBatchBytes = bytes
        state = ControllerState(
            image: image, options: options, now: now, generator: state.generator)
    }

    private mutating func isCut() -> Bool {
        guard var generator = cuts else { return false }
        defer { cuts = generator }
        return Int.random(in: 0..<4, using: &generator) == 0
    }

    /// A controller that takes over with nothing but the log.
    mutating func failOver() throws {
        state = ControllerState(
            image: try replayed(), options: state.options, now: now, generator: state.generator)
        commit(state.takeOver())
    }

    /// The image that a node gets from the log.
    func replayed() throws -> MetadataImage {
        var image = MetadataImage()
        for (offset, record) in log.enumerated() {
            try image.apply(
                try MetadataRecord(decoding: record.encoded()), at: Offset(Int64(offset)))
        }
        return image
    }

    // MARK: Brokers

    mutating func request(
        _ id: NodeID, rack: String? = nil, previous: BrokerEpoch = .none,
        directories: [DirectoryID]? = nil, levels: ClosedRange<Int32> = MetadataFeatures.supported
    ) -> RegistrationRequest {
        incarnations += 1
        return RegistrationRequest(
            clusterID: Self.id, broker: id, incarnation: UniqueID(high: 7, low: incarnations),
            host: "localhost", port: 9000 + Int(id.rawValue), rack: rack,
            directories: directories ?? [
                DirectoryID(high: 9, low: UInt64(truncatingIfNeeded: id.rawValue))
            ],
            previousEpoch: previous, maxFeatureLevel: levels.upperBound,
            minFeatureLevel: levels.lowerBound)
    }

    @discardableResult
    mutating func register(_ request: RegistrationRequest) throws -> BrokerEpoch {
        let result = try state.registerBroker(request, now: now)
        return commit(result).epoch
    }

    @discardableResult
    mutating func heartbeat(
        _ id: NodeID, applied: Offset? = nil, wantsFence: Bool = false, wantsShutdown: Bool = false
    ) throws -> HeartbeatReply {
        let result = try state.heartbeat(
            HeartbeatRequest(
                broker: id, epoch: epoch(id), appliedOffset: applied ?? image.nextOffset,
                wantsFence: wantsFence, wantsShutdown: wantsShutdown), now: now)
        return commit(result)
    }

    /// Registers the broker, without proof of a clean stop, and lets it serve.
    mutating func start(
        _ id: NodeID, rack: String? = nil, previous: BrokerEpoch = .none,
        directories: [DirectoryID]? = nil, levels: ClosedRange<Int32> = MetadataFeatures.supported
    ) throws {
        try register(
            request(
                id, rack: rack, previous: previous, directories: directories, levels: levels))
        try heartbeat(id)
    }

    /// The process dies and is seen to be dead.
    mutating func kill(_ id: NodeID) {
        if let result = state.brokerGone(id, epoch: epoch(id)) { commit(result) }
    }

    /// A controlled shutdown to its end.
    mutating func stop(_ id: NodeID) throws {
        while try !heartbeat(id, wantsShutdown: true).shouldShutDown {
            for other in image.activeBrokers { try heartbeat(other.id) }
        }
    }

    mutating func expireSessions() {
        while let result = state.expireSessions(now: now) { commit(result) }
    }

    /// Time passes while the controller looks at its sessions as it should, and `alive` heartbeat.
    mutating func pass(_ duration: Duration, alive: [NodeID] = []) throws {
        let end = now + duration
        while now < end {
            now = min(now + .milliseconds(100), end)
            for id in alive { try heartbeat(id) }
            expireSessions()
        }
    }

    func epoch(_ id: NodeID) -> BrokerEpoch { image.brokers[id]?.epoch ?? .none }
    func isFenced(_ id: NodeID) -> Bool? { image.brokers[id]?.fenced }

    /// The broker says of its replica of each of these partitions that it is in this state.
    @discardableResult
    mutating func report(
        _ broker: NodeID, _ state: ReplicaReport.State?, _ partitions: [TopicPartition]
    ) throws -> ReplicaReportReply {
        if image.featureLevel < MetadataFeatures.offlineReplicas { hasUnwrittenReports = true }
        let result = try self.state.reportReplicas(
            ReplicaReport(
                broker: broker, epoch: epoch(broker),
                replicas: partitions.map { .init(id: $0, state: state) }))
        return commit(result)
    }

    @discardableResult
    mutating func report(
        _ broker: NodeID, _ state: ReplicaReport.State?, _ topic: String
    ) throws -> ReplicaReportReply {
        let id = try #require(image.topicIDs[topic])
        return try report(broker, state, [TopicPartition(topic: id, partition: 0)])
    }

    // MARK: Topics

    @discardableResult
    mutating func create(
        _ name: String, partitions: Int = 0, replicas: Int = 0, configs: [String: String] = [:],
        assignments: [[NodeID]] = []
    ) throws -> TopicID {
        let result = try state.createTopic(
            NewTopic(
                name: name, partitions: partitions, replicationFactor: replicas,
                configs: configs, assignments: assignments))
        return commit(result).id
    }

    func partition(_ topic: String, _ number: Int32 = 0) throws -> PartitionState {
        let id = try #require(image.topicIDs[topic])
        return try #require(image.partition(TopicPartition(topic: id, partition: number)))
    }

    /// Its leader proposes this ISR, with everything else as it should be unless it is given.
    func alter(
        _ topic: String, _ number: Int32 = 0, isr: [NodeID], by broker: NodeID? = nil,
        leaderEpoch: LeaderEpoch? = nil, partitionEpoch: PartitionEpoch? = nil,
        memberEpochs: [NodeID: BrokerEpoch] = [:]
    ) throws -> ControllerResult<[AlterPartitionOutcome]> {
        let id = try #require(image.topicIDs[topic])
        let now = try partition(topic, number)
        let leader = try broker ?? #require(now.leader)
        return try state.alterPartition(
            AlterPartitionRequest(
                broker: leader, epoch: epoch(leader),
                changes: [
                    .init(
                        id: TopicPartition(topic: id, partition: number),
                        leaderEpoch: leaderEpoch ?? now.leaderEpoch,
                        partitionEpoch: partitionEpoch ?? now.partitionEpoch,
                        isr: isr.map { .init(broker: $0, epoch: memberEpochs[$0] ?? epoch($0)) })
                ]))
    }

    /// The error of the first outcome.
    mutating func alterError(
        _ result: ControllerResult<[AlterPartitionOutcome]>
    ) -> ErrorCode? {
        commit(result).first?.error
    }
}

/// C3 and C7 to C9, as far as two successive images show them.
///
/// That an offline replica neither leads nor is in an ISR, the last candidate's neither, and is a
/// replica, is among the rules of C8.
func checkRules(from old: MetadataImage, to new: MetadataImage, _ options: ControllerOptions) {
    for topic in new.topics.values {
        for (number, state) in topic.partitions.enumerated() {
            var name: String { "\(topic.name)-\(number): \(state)" }
            check(state.brokenRule == nil, "C8 \(name)")
            let minimum = new.minInSyncReplicas(topic: topic.name, replicas: state.replicas.count)
            if state.isr.count >= minimum {
                check(state.eligibleLeaderReplicas.isEmpty, "C8 \(name)")
            }
            check(state.isr.allSatisfy { new.brokers[$0]?.fenced == false }, "C3 \(name)")
            check(state.leader != nil || state.isr.isEmpty, "an ISR without a leader: \(name)")

            let id = TopicPartition(topic: topic.id, partition: Int32(number))
            guard let before = old.partition(id), before != state else { continue }
            check(state.partitionEpoch > before.partitionEpoch, "C7 \(name)")
            check(state.leaderEpoch >= before.leaderEpoch, "C7 \(name)")
            guard state.leader != before.leader else { continue }
            check(state.leaderEpoch > before.leaderEpoch, "C7 \(name)")
            guard let leader = state.leader else { continue }
            check(new.isActive(leader), "C9 \(name)")
            check(!state.offlineReplicas.contains(leader), "C9 \(name)")
            let isClean = (before.isr + before.eligibleLeaderReplicas).contains(leader)
            let allowed = new.allowsUncleanElection(
                topic: topic.name, default: options.uncleanLeaderElection)
            check(isClean || allowed, "C9, C10 \(name) after \(before)")
        }
    }
}

/// Nobody waits for a leader while someone eligible is there.
func checkElections(_ image: MetadataImage) {
    for topic in image.topics.values {
        for (number, state) in topic.partitions.enumerated() where state.leader == nil {
            let isStuck = state.eligibleLeaderReplicas.contains {
                image.isActive($0) && !state.offlineReplicas.contains($0)
            }
            check(!isStuck, "leaderless for no reason: \(topic.name)-\(number): \(state)")
        }
    }
}

/// Like `#expect`, for what is checked very often.
private func check(_ condition: Bool, _ message: @autoclosure () -> String) {
    if !condition { Issue.record("\(message())") }
}

/// The code with which `body` is refused.
func refusal(_ body: () throws -> Void) -> ErrorCode? {
    do {
        try body()
        return nil
    } catch let error as ControllerError {
        return error.code
    } catch {
        Issue.record("unexpected error \(error)")
        return nil
    }
}
