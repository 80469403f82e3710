internal import Essentials
internal import HashTreeCollections

/// A config's value in force, and where it comes from.
package struct ConfigEntry: Equatable, Sendable {
    package enum Source: String, Equatable, Sendable {
        case topic
        case broker
        case cluster
        case `default`
    }

    package var name: String
    package var value: String
    package var source: Source
    /// What it would be without the resource's own value.
    package var defaultValue: String
    package var documentation: String

    package init(
        name: String, value: String, source: Source, defaultValue: String, documentation: String
    ) {
        self.name = name
        self.value = value
        self.source = source
        self.defaultValue = defaultValue
        self.documentation = documentation
    }
}

extension MetadataImage {
    /// The configs of `names` in force for a resource, in that order; all by name if there are none.
    package func describeConfigs(
        of resource: ConfigResource, names: [String] = [], options: ControllerOptions
    ) throws(ControllerError) -> [ConfigEntry] {
        try checkExists(resource)
        var definitions: [ConfigDefinition] = []
        for name in names {
            definitions.append(try ConfigDefinition.checked(name, for: resource, options))
        }
        if names.isEmpty {
            definitions = ConfigDefinition.all.filter { $0.applies(to: resource) }
        }
        return definitions.map { configEntry($0, of: resource, options: options) }
    }

    func configEntry(
        _ definition: ConfigDefinition, of resource: ConfigResource, options: ControllerOptions
    ) -> ConfigEntry {
        let cluster = configs[.clusterDefault]?[definition.name]
        let inherited = resource == .clusterDefault ? nil : cluster
        let fallback = inherited ?? defaultValue(of: definition, for: resource, options)
        let own = configs[resource]?[definition.name]
        let source: ConfigEntry.Source =
            switch resource {
            case _ where own == nil: inherited == nil ? .default : .cluster
            case .topic: .topic
            case .broker: .broker
            case .clusterDefault: .cluster
            }
        return ConfigEntry(
            name: definition.name, value: own ?? fallback, source: source, defaultValue: fallback,
            documentation: definition.documentation)
    }

    private func defaultValue(
        of definition: ConfigDefinition, for resource: ConfigResource, _ options: ControllerOptions
    ) -> String {
        // A node's own default for this one is written into each new topic, and does not apply to
        // those that are there.
        if definition.name == TopicConfigKey.minInSyncReplicas.rawValue {
            if case .topic(let name) = resource,
                let replicas = topic(named: name)?.partitions.first?.replicas.count
            {
                return String(Self.minInSyncReplicas(forReplicas: replicas))
            }
            return definition.defaultValue
        }
        return definition.nodeKey.flatMap { options.nodeConfigs[$0] } ?? definition.defaultValue
    }
}
