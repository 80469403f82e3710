package import Essentials
internal import HashTreeCollections

package struct NewTopic: Equatable, Sendable {
    package var name: String
    /// Names this command, so that it may be repeated without creating another topic.
    package var request: UniqueID?
    /// 0 takes the cluster's default.
    package var partitions: Int
    /// 0 takes the cluster's default.
    package var replicationFactor: Int
    package var configs: [String: String]
    /// Brokers of each partition, the preferred leader first; instead of the two numbers.
    package var assignments: [[NodeID]]

    package init(
        name: String, request: UniqueID? = nil, partitions: Int = 0, replicationFactor: Int = 0,
        configs: [String: String] = [:], assignments: [[NodeID]] = []
    ) {
        self.name = name
        self.request = request
        self.partitions = partitions
        self.replicationFactor = replicationFactor
        self.configs = configs
        self.assignments = assignments
    }
}

package struct CreatedTopic: Equatable, Sendable {
    package var id: TopicID
    package var name: String
    package var partitions: Int
    package var replicationFactor: Int
}

extension ControllerState {
    /// Creates a topic: its record, one for each partition, and its configs.
    package mutating func createTopic(
        _ topic: NewTopic
    ) throws(ControllerError) -> ControllerResult<CreatedTopic> {
        try checkName(topic.name)
        if let known = image.topic(named: topic.name) {
            if topic.request != nil, known.request == topic.request {
                // The answer to the first such command was lost on its way.
                let draft = MetadataDraft(image: image, options: options)
                return draft.result(
                    CreatedTopic(
                        id: known.id, name: known.name, partitions: known.partitions.count,
                        replicationFactor: known.partitions.first?.replicas.count ?? 0))
            }
            throw ControllerError(
                .topicAlreadyExists,
                "there is already a topic '\(topic.name)'; take another name, or delete it first")
        }
        try TopicConfigKey.validate(topic.configs)
        let assignments =
            topic.assignments.isEmpty ? try place(topic) : try checkAssignments(of: topic)

        // Never the caller's choice: a repetition that comes late, after the topic was deleted, must
        // not give the id to another topic (C12).
        var id = TopicID.random(using: &generator)
        while image.topics[id] != nil { id = TopicID.random(using: &generator) }
        var draft = MetadataDraft(image: image, options: options)
        let isRequestKept = image.featureLevel >= MetadataFeatures.creationRequests
        draft.append(
            .topic(id: id, name: topic.name, request: isRequestKept ? topic.request : nil))
        var configs = topic.configs
        if let minimum = options.minInSyncReplicas,
            configs[TopicConfigKey.minInSyncReplicas.rawValue] == nil
        {
            configs[TopicConfigKey.minInSyncReplicas.rawValue] = String(minimum)
        }
        for (name, value) in configs.sorted(by: { $0.key < $1.key }) {
            draft.append(
                .config(ConfigChange(resource: .topic(topic.name), name: name, value: value)))
        }
        for (number, replicas) in assignments.enumerated() {
            let isr = replicas.filter(image.isActive)
            draft.append(
                .partition(
                    TopicPartition(topic: id, partition: Int32(number)),
                    PartitionState(replicas: replicas, isr: isr, leader: isr.first)))
        }
        guard draft.fits else {
            throw ControllerError(
                .recordListTooLarge,
                "\(assignments.count) partitions with their replicas and configs are too many to be "
                    + "created at once; take fewer partitions, or fewer replicas")
        }
        return draft.result(
            CreatedTopic(
                id: id, name: topic.name, partitions: assignments.count,
                replicationFactor: assignments.first?.count ?? 0))
    }

    /// Deletes a topic and its configs.
    ///
    /// A later topic of that name is another one.
    ///
    /// - Parameter expected: The id that the topic must have; if no topic has it, it was deleted before.
    package func deleteTopic(
        named name: String, id expected: TopicID? = nil
    ) throws(ControllerError) -> ControllerResult<TopicID> {
        if let expected, image.topics[expected]?.name != name {
            guard image.topics[expected] == nil else {
                throw ControllerError(
                    .inconsistentTopicID, "topic id \(expected) is not that of '\(name)'")
            }
            return MetadataDraft(image: image, options: options).result(expected)
        }
        guard let id = image.topicIDs[name] else {
            throw ControllerError(
                .unknownTopicOrPartition,
                "there is no topic '\(name)'; list them with: millrace topic list")
        }
        var draft = MetadataDraft(image: image, options: options)
        draft.append(.removeTopic(id))
        return draft.result(id)
    }

    /// What the log of the metadata is called, as if it were a topic.
    private static let reservedName = "__cluster_metadata"

    private func checkName(_ name: String) throws(ControllerError) {
        func fail(_ reason: String) -> ControllerError {
            ControllerError(.invalidTopicException, reason)
        }
        if name.isEmpty { throw fail("a topic needs a name") }
        if name == "." || name == ".." { throw fail("a topic can't be named '\(name)'") }
        // Its first partition's folder would be that of the nodes' own log.
        if name == Self.reservedName {
            throw fail("topic name '\(name)' is reserved; take another")
        }
        guard name.utf8.count <= 249 else {
            throw fail(
                "a topic's name has 249 characters at most, this one has \(name.utf8.count)")
        }
        let isLegal = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "-"):
                true
            default: false
            }
        }
        guard isLegal else {
            throw fail("topic name '\(name)': use letters, digits, '.', '_' and '-' only")
        }
    }

    private mutating func place(_ topic: NewTopic) throws(ControllerError) -> [[NodeID]] {
        let partitions =
            topic.partitions == 0
            ? image.clusterConfig(.defaultPartitions) ?? options.partitions : topic.partitions
        guard (1...ControllerOptions.maxPartitionsPerCall).contains(partitions) else {
            throw ControllerError(
                .invalidPartitions,
                "a topic is created with 1 to \(ControllerOptions.maxPartitionsPerCall) "
                    + "partitions, not \(partitions)")
        }
        let brokers = image.activeBrokers
        guard !brokers.isEmpty else {
            throw ControllerError(
                .invalidReplicationFactor,
                "no broker is serving (\(image.brokers.count) registered); start some first")
        }
        let replicas =
            topic.replicationFactor == 0
            ? image.clusterConfig(.defaultReplicationFactor) ?? options.replicationFactor
                ?? min(3, brokers.count) : topic.replicationFactor
        guard replicas >= 1, replicas <= brokers.count else {
            throw ControllerError(
                .invalidReplicationFactor,
                "replication factor \(replicas) needs as many serving brokers; there are "
                    + "\(brokers.count)")
        }
        var placement = ReplicaPlacement(
            brokers: brokers.map { broker in
                ReplicaPlacement.Candidate(
                    id: broker.id, rack: broker.rack,
                    preferred: image.hosted[broker.id]?.preferredCount ?? 0,
                    replicas: image.replicaCount(of: broker.id))
            },
            rotation: Int.random(in: 0..<brokers.count, using: &generator))
        return (0..<partitions).map { _ in placement.next(replicas: replicas) }
    }

    private func checkAssignments(of topic: NewTopic) throws(ControllerError) -> [[NodeID]] {
        let count = topic.assignments.count
        guard count <= ControllerOptions.maxPartitionsPerCall else {
            throw ControllerError(
                .invalidPartitions,
                "a topic is created with at most \(ControllerOptions.maxPartitionsPerCall) "
                    + "partitions, not \(count)")
        }
        guard topic.partitions == 0 || topic.partitions == count else {
            throw ControllerError(
                .invalidPartitions,
                "\(count) assignments for \(topic.partitions) partitions; give one each")
        }
        let size = topic.assignments.first?.count ?? 0
        guard topic.replicationFactor == 0 || topic.replicationFactor == size else {
            throw ControllerError(
                .invalidReplicationFactor,
                "assignments of \(size) replicas for replication factor "
                    + "\(topic.replicationFactor)")
        }
        for (number, replicas) in topic.assignments.enumerated() {
            func fail(_ reason: String) -> ControllerError {
                ControllerError(.invalidRequest, "partition \(number)'s assignment \(reason)")
            }
            guard !replicas.isEmpty, replicas.count == size else {
                throw fail("has \(replicas.count) brokers; give each partition the same number")
            }
            guard Set(replicas).count == size else { throw fail("names a broker twice") }
            if let stranger = replicas.first(where: { image.brokers[$0] == nil }) {
                throw fail("names broker \(stranger), which is not registered")
            }
            guard replicas.contains(where: image.isActive) else {
                throw fail("names no broker that is serving")
            }
        }
        return topic.assignments
    }
}
