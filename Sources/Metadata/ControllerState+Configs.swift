internal import Essentials
internal import HashTreeCollections

/// One change to one config, as a user asks for it (KIP-339).
package struct ConfigAlteration: Equatable, Sendable {
    package enum Operation: Equatable, Sendable {
        case set(String)
        /// Back to the default.
        case delete
        /// Adds items to a list.
        case append(String)
        /// Takes items from a list.
        case subtract(String)
    }

    package var name: String
    package var operation: Operation

    package init(name: String, operation: Operation) {
        self.name = name
        self.operation = operation
    }
}

extension ControllerState {
    /// Changes configs of a topic, of a broker, or of the cluster: all of them or none.
    ///
    /// What they mean for leaders and in-sync replicas happens in the same decision.
    package func alterConfigs(
        of resource: ConfigResource, _ alterations: [ConfigAlteration]
    ) throws(ControllerError) -> ControllerResult<Void> {
        try image.checkExists(resource)
        var names: Set<String> = []
        var changes: [ConfigChange] = []
        for alteration in alterations {
            guard names.insert(alteration.name).inserted else {
                throw ControllerError(
                    .invalidRequest, "config '\(alteration.name)' is listed twice; list it once")
            }
            let definition = try ConfigDefinition.checked(alteration.name, for: resource, options)
            let value = try newValue(of: definition, for: resource, alteration.operation)
            if value != image.configs[resource]?[alteration.name] {
                changes.append(
                    ConfigChange(resource: resource, name: alteration.name, value: value))
            }
        }
        var draft = MetadataDraft(image: image, options: options)
        draft.change(configs: changes)
        try check(draft.image, resource)
        return draft.result(())
    }

    /// The value to write down; `nil` to have none.
    private func newValue(
        of definition: ConfigDefinition, for resource: ConfigResource,
        _ operation: ConfigAlteration.Operation
    ) throws(ControllerError) -> String? {
        let value: String
        switch operation {
        case .delete:
            return nil
        case .set(let text):
            value = text
        case .append(let items), .subtract(let items):
            guard case .listOf = definition.values else {
                throw ControllerError(
                    .invalidConfig, "\(definition.name) is no list; set it or delete it")
            }
            // Items that make no sense are not passed over just because they change nothing.
            if let problem = definition.problem(with: items) {
                throw ControllerError(.invalidConfig, problem)
            }
            let named = ConfigValues.items(of: items)
            let known = image.configEntry(definition, of: resource, options: options).value
            var list = ConfigValues.items(of: known)
            if case .append = operation {
                list += named.filter { !list.contains($0) }
            } else {
                list.removeAll(where: named.contains)
            }
            guard !list.isEmpty else {
                throw ControllerError(
                    .invalidConfig,
                    "nothing would be left of \(definition.name); it takes "
                        + definition.values.form)
            }
            value = list.joined(separator: ",")
        }
        if let problem = definition.problem(with: value) {
            throw ControllerError(.invalidConfig, problem)
        }
        return value
    }

    /// Configs that contradict each other.
    private func check(
        _ image: MetadataImage, _ resource: ConfigResource
    ) throws(ControllerError) {
        guard resource == .clusterDefault else { return }
        let configs = image.configs[.clusterDefault] ?? [:]
        let factor = configs[ClusterConfigKey.defaultReplicationFactor.rawValue].flatMap(Int.init)
        let minimum = configs[TopicConfigKey.minInSyncReplicas.rawValue].flatMap(Int.init)
        if let minimum, let factor = factor ?? options.replicationFactor, minimum > factor {
            throw ControllerError(
                .invalidConfig,
                "min.insync.replicas \(minimum) is more than default.replication.factor \(factor): "
                    + "no acks=all write to a new topic could succeed; lower the first or raise "
                    + "the second")
        }
    }
}

extension ConfigDefinition {
    /// The config of that name, if it may be changed for `resource`.
    static func checked(
        _ name: String, for resource: ConfigResource, _ options: ControllerOptions
    ) throws(ControllerError) -> ConfigDefinition {
        if let definition = named(name) {
            if definition.applies(to: resource) { return definition }
            let place =
                switch definition.scope {
                case .topics: "for a topic, or for the cluster as the default of all topics"
                case .brokers: "for a broker, or for the cluster as the default of all brokers"
                case .cluster: "for the cluster"
                }
            throw ControllerError(.invalidConfig, "\(name) is set \(place)")
        }
        if options.nodeConfigs[name] != nil {
            throw ControllerError(
                .invalidConfig,
                "\(name) is read when a node starts: change it in the node's own configuration "
                    + "file, and restart the node")
        }
        let known = all.filter { $0.applies(to: resource) }.map(\.name)
        throw ControllerError(
            .invalidConfig,
            "there is no config '\(name)'; did you mean '\(nearest(to: name, among: known) ?? "")'?"
        )
    }
}

extension MetadataImage {
    func checkExists(_ resource: ConfigResource) throws(ControllerError) {
        switch resource {
        case .topic(let name):
            if topicIDs[name] != nil { return }
            throw ControllerError(
                .unknownTopicOrPartition,
                "there is no topic '\(name)'; list them with: millrace topic list")
        case .broker(let id):
            if brokers[id] != nil { return }
            throw ControllerError(.brokerIDNotRegistered, "broker \(id) is not registered")
        case .clusterDefault:
            return
        }
    }
}

extension MetadataDraft {
    /// Writes configs down, and settles what they change.
    ///
    /// - `min.insync.replicas` that falls ends the eligibility of replicas outside the ISR: what the
    ///   ISR may now commit alone they lack. That comes before the config, should the rest get lost.
    /// - Unclean elections come after the config that allows them.
    mutating func change(configs changes: [ConfigChange]) {
        let decisive = changes.filter { change in
            change.name == TopicConfigKey.minInSyncReplicas.rawValue
                || change.name == TopicConfigKey.uncleanLeaderElection.rawValue
        }
        let affected = decisive.isEmpty ? [] : unsettledPartitions(under: changes[0].resource)
        var next = self
        next.append(changes.map { .config($0) })

        maySplit = true
        for id in affected {
            guard let name = image.topics[id.topic]?.name else { continue }
            settle(id) { update in
                update.minInSyncReplicas = next.image.minInSyncReplicas(
                    topic: name, replicas: update.state.replicas.count)
            }
        }
        append(changes.map { .config($0) })
        for id in affected where image.partition(id)?.leader == nil { settle(id) }
        maySplit = false
    }

    private func unsettledPartitions(under resource: ConfigResource) -> [TopicPartition] {
        switch resource {
        case .clusterDefault:
            return image.unsettled.sorted()
        case .broker:
            return []
        case .topic(let name):
            guard let topic = image.topic(named: name) else { return [] }
            return topic.partitions.indices.filter { topic.partitions[$0].isUnsettled }.map {
                TopicPartition(topic: topic.id, partition: Int32($0))
            }
        }
    }
}
