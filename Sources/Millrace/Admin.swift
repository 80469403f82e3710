internal import Essentials
internal import Protocol

/// Creates, deletes and describes topics; changes configs and feature levels; describes the cluster,
/// its metadata and its metadata quorum, and changes the quorum's voters.
///
/// Any broker takes a call and passes it on to the active controller. Usable from any thread.
public final class Admin: Sendable {
    static let service = "/millrace.v1.Admin/"
    let core: ClientCore

    public init(client: MillraceClient) {
        core = client.core
    }

    // MARK: Topics

    /// Creates a topic and answers once the change is committed; brokers learn of it moments later.
    ///
    /// A call whose answer is lost on the way is made again: its id, chosen here, keeps that from
    /// failing because the topic is there.
    public func createTopic(
        _ topic: NewTopic, validateOnly: Bool = false, timeout: Duration? = nil
    ) async throws(MillraceError) -> CreatedTopic {
        var request = WireCreateTopicRequest()
        request.name = topic.name
        request.partitions = topic.partitions ?? 0
        request.replicationFactor = topic.replicationFactor ?? 0
        request.configs = topic.configs
        request.validateOnly = validateOnly
        request.requestID = UniqueID.random().description
        let answer: WireCreateTopicResponse = try await core.callAny(
            Self.service + "CreateTopic", request, timeout: timeout)
        return CreatedTopic(
            name: answer.name, id: answer.topicID, partitions: answer.partitions,
            replicationFactor: answer.replicationFactor)
    }

    /// Deletes a topic with all its records: the one that has this name now.
    ///
    /// - Throws: `UNKNOWN_TOPIC_OR_PARTITION`.
    public func deleteTopic(_ name: String) async throws(MillraceError) {
        var request = WireDeleteTopicRequest()
        request.name = name
        // By its id, so that repeating the call can't delete a later topic of that name.
        request.topicID = try await describeTopic(name).id
        let _: WireDeleteTopicResponse = try await core.callAny(
            Self.service + "DeleteTopic", request)
    }

    /// Every topic, by name.
    public func listTopics() async throws(MillraceError) -> [TopicDescription] {
        let answer = try await metadata(of: [])
        return answer.topics.filter(\.error.isEmpty).map(TopicDescription.init)
            .sorted { $0.name < $1.name }
    }

    /// One topic; one that is unknown is looked for a moment longer, as it may be new.
    ///
    /// - Throws: `UNKNOWN_TOPIC_OR_PARTITION`.
    public func describeTopic(_ name: String) async throws(MillraceError) -> TopicDescription {
        _ = try await core.topic(name)
        let answer = try await metadata(of: [name])
        guard let topic = answer.topics.first(where: { $0.name == name }), topic.error.isEmpty
        else {
            throw ClientCore.unknownTopic(name, ErrorCode.unknownTopicOrPartition.name)
        }
        return TopicDescription(topic)
    }

    private func metadata(of topics: [String]) async throws(MillraceError) -> WireMetadataResponse {
        var request = WireMetadataRequest()
        request.topics = topics
        return try await core.callAny("/millrace.v1.Broker/Metadata", request)
    }

    // MARK: Cluster

    public func describeCluster() async throws(MillraceError) -> ClusterDescription {
        let answer: WireDescribeClusterResponse = try await core.callAny(
            Self.service + "DescribeCluster", WireDescribeClusterRequest())
        return ClusterDescription(
            clusterID: answer.clusterID,
            activeController: answer.hasActiveController ? answer.activeController : nil,
            nodes: answer.nodes.map(NodeDescription.init).sorted { $0.id < $1.id })
    }

    /// Forgets a broker that will not come back.
    ///
    /// It must be fenced, and hold no replicas.
    /// - Throws: `BROKER_ID_NOT_REGISTERED`, or `INVALID_REQUEST` while it serves or holds replicas.
    public func unregisterBroker(_ id: Int32) async throws(MillraceError) {
        var request = WireUnregisterBrokerRequest()
        request.id = id
        let _: WireUnregisterBrokerResponse = try await core.callAny(
            Self.service + "UnregisterBroker", request
        ) { error in
            // The attempt whose answer was lost did it.
            error.code == ErrorCode.brokerIDNotRegistered.name ? .init() : nil
        }
    }

    // MARK: Offsets

    /// Where a position lies in a partition now.
    public func offset(
        of position: StartPosition, topic: String, partition: Int32
    ) async throws(MillraceError) -> FoundOffset {
        let answer: WireListOffsetsResponse = try await core.callLeader(
            of: partition, in: topic, "/millrace.v1.Broker/ListOffsets"
        ) { epoch in
            var request = WireListOffsetsRequest()
            request.topic = topic
            request.partition = partition
            request.currentLeaderEpoch = epoch.rawValue
            switch position {
            case .earliest: request.earliest = true
            case .latest: request.latest = true
            case .timestamp(let time): request.timestamp = time
            case .offset: break
            }
            return request
        }
        return FoundOffset(
            offset: answer.hasOffset ? answer.offset : nil,
            timestamp: answer.hasTimestamp ? answer.timestamp : nil,
            leaderEpoch: answer.hasLeaderEpoch ? answer.leaderEpoch : nil)
    }
}

extension Admin {
    // MARK: Records

    /// Removes the oldest records of a partition: those before `offset`, or all that are committed.
    ///
    /// They are gone from every in-sync replica when this returns; offsets are not used again.
    /// - Returns: the partition's new first offset.
    /// - Throws: `OFFSET_OUT_OF_RANGE` above what is committed, `POLICY_VIOLATION` for a topic that is
    ///   only compacted, `REQUEST_TIMED_OUT` if an in-sync replica takes too long.
    @discardableResult
    public func deleteRecords(
        of topic: String, partition: Int32, before offset: Int64?, timeout: Duration = .seconds(30)
    ) async throws(MillraceError) -> Int64 {
        let answer: WireDeleteRecordsResponse = try await core.callLeader(
            of: partition, in: topic, Self.service + "DeleteRecords", timeout: timeout
        ) { _ in
            var request = WireDeleteRecordsRequest()
            request.topic = topic
            request.partition = partition
            request.beforeOffset = offset ?? -1
            request.timeoutMs = Int32(clamping: timeout.milliseconds)
            return request
        }
        return answer.logStartOffset
    }

    /// What a topic's replicas take on the disks of the brokers that answer.
    public func describeLogs(
        of topic: String
    ) async throws(MillraceError) -> [ReplicaLogDescription] {
        _ = try await core.topic(topic)
        var request = WireDescribeLogDirsRequest()
        request.topics = [topic]
        var replicas: [ReplicaLogDescription] = []
        let brokers = try await describeCluster().nodes.filter {
            $0.role == .broker && $0.isFenced != true
        }
        for broker in brokers {
            let answer: WireDescribeLogDirsResponse = try await core.callAddress(
                BrokerAddress(host: broker.host, port: broker.port),
                Self.service + "DescribeLogDirs", request)
            for directory in answer.logDirs {
                replicas += directory.replicas.map { replica in
                    ReplicaLogDescription(
                        broker: answer.brokerID, directory: directory.path,
                        topic: replica.topic, partition: replica.partition, size: replica.size,
                        logStartOffset: replica.logStartOffset,
                        logEndOffset: replica.logEndOffset, segments: Int(replica.segments),
                        move: replica.isFuture
                            ? ReplicaLogMove(
                                copiedBytes: replica.size, totalBytes: replica.logSize,
                                error: replica.error.isEmpty ? nil : replica.error) : nil,
                        compaction: replica.hasCompaction
                            ? LogCompactionDescription(replica.compaction) : nil)
                }
            }
        }
        return replicas.sorted { ($0.partition, $0.broker) < ($1.partition, $1.broker) }
    }
}

extension Admin {
    /// Begins to move a replica to another log directory of its broker, while it is in use.
    ///
    /// `describeLogs` shows how far it has come.
    /// - Parameters:
    ///   - directory: one of the broker's `log.dirs`; the one where it is ends a move.
    ///   - bytesPerSecond: how fast it is copied; as fast as the disks allow when `nil`.
    public func moveLog(
        of topic: String, partition: Int32, on broker: Int32, to directory: String,
        bytesPerSecond: Int64? = nil
    ) async throws(MillraceError) {
        let node = try await describeCluster().nodes.first { $0.role == .broker && $0.id == broker }
        guard let node else {
            throw .invalidArgument("the cluster has no broker \(broker)")
        }
        var request = WireAlterReplicaLogDirsRequest()
        request.bytesPerSecond = bytesPerSecond ?? 0
        var move = WireAlterReplicaLogDirsRequest.Move()
        move.topic = topic
        move.partition = partition
        move.logDir = directory
        request.moves = [move]
        let answer: WireAlterReplicaLogDirsResponse = try await core.callAddress(
            BrokerAddress(host: node.host, port: node.port),
            Self.service + "AlterReplicaLogDirs", request)
        if let result = answer.results.first, !result.error.isEmpty {
            throw MillraceError(code: result.error, message: result.errorMessage)
        }
    }
}

// MARK: From the wire

extension LogCompactionDescription {
    init(_ compaction: WireCompactionDescription) {
        self.init(
            firstDirtyOffset: compaction.firstDirtyOffset,
            dirtyBytes: compaction.hasDirtyBytes ? compaction.dirtyBytes : nil,
            dirtyRatio: compaction.hasDirtyRatio ? compaction.dirtyRatio : nil,
            progress: compaction.hasProgress ? compaction.progress : nil)
    }
}

extension TopicDescription {
    init(_ topic: WireTopicMetadata) {
        self.init(
            name: topic.name, id: topic.topicID,
            partitions: topic.partitions.map(PartitionDescription.init)
                .sorted { $0.partition < $1.partition })
    }
}

extension PartitionDescription {
    init(_ partition: WirePartitionMetadata) {
        self.init(
            partition: partition.partition, leader: partition.hasLeader ? partition.leader : nil,
            leaderEpoch: partition.leaderEpoch, replicas: partition.replicas, isr: partition.isr,
            eligibleLeaderReplicas: partition.eligibleLeaderReplicas,
            offlineReplicas: partition.offlineReplicas)
    }
}

extension NodeDescription {
    init(_ node: WireClusterNode) {
        self.init(
            id: node.id, role: Role(rawValue: node.role) ?? .broker, host: node.host,
            port: Int(node.port), rack: node.rack.isEmpty ? nil : node.rack,
            isFenced: node.hasFenced ? node.fenced : nil,
            brokerEpoch: node.hasBrokerEpoch ? node.brokerEpoch : nil,
            leaders: node.hasLeaders ? Int(node.leaders) : nil,
            replicas: node.hasReplicas ? Int(node.replicas) : nil,
            offlineReplicas: node.hasOfflineReplicas ? Int(node.offlineReplicas) : nil)
    }
}
