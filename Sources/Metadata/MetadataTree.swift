internal import Essentials
internal import HashTreeCollections

/// What is found at one path of the metadata.
package enum MetadataNode: Equatable, Sendable {
    /// The names below it, sorted; numbers by their value.
    case directory([String])
    /// JSON on one line.
    case value(String)
}

/// A path that leads nowhere.
package struct MetadataPathError: Error, Equatable, Sendable {
    package var path: String
    /// The longest beginning of `path` that exists.
    package var parent: String
    /// What is there; `nil` when it is a value.
    package var entries: [String]?

    /// The refusal in words, with what there is instead.
    package var message: String {
        let found: String
        if let entries {
            let shown = entries.prefix(20).joined(separator: ", ")
            let rest = entries.count > 20 ? " and \(entries.count - 20) more" : ""
            found = entries.isEmpty ? "\(parent) is empty" : "\(parent) has \(shown)\(rest)"
        } else {
            found = "\(parent) is a value, with nothing below it"
        }
        return "there is nothing at \(path); \(found)"
    }
}

/// An image as a tree to look around in, like a file system.
///
/// ```
/// /brokers/ID                    the registration
/// /configs/brokers/ID/KEY        and /configs/cluster/KEY, /configs/topics/NAME/KEY
/// /features/NAME                 the finalised level
/// /producerIds/next              the first producer id that nobody has
/// /topicIds/ID                   the name
/// /topics/NAME/id
/// /topics/NAME/partitions/N      replicas, ISR, ELR, leader, epochs
/// ```
package struct MetadataTree: Sendable {
    private let image: MetadataImage

    package init(_ image: MetadataImage) {
        self.image = image
    }

    /// What is at an absolute path; the root if it is empty.
    ///
    /// Blanks between slashes don't count: `/topics/` is `/topics`.
    package func node(at path: String) throws(MetadataPathError) -> MetadataNode {
        var node = Node.root
        var parent = ""
        for name in path.split(separator: "/").map(String.init) {
            guard let next = child(name, of: node) else {
                let entries: [String]? =
                    if case .directory(let entries) = describe(node) { entries } else { nil }
                throw MetadataPathError(
                    path: path, parent: parent.isEmpty ? "/" : parent, entries: entries)
            }
            node = next
            parent += "/" + name
        }
        return describe(node)
    }

    private enum Node {
        case root
        case brokers
        case broker(BrokerRegistration)
        case configs
        case configuredBrokers
        case configuredTopics
        case configsOf(ConfigResource)
        case features
        case producerIDs
        case topics
        case topic(TopicImage)
        case partitions(TopicImage)
        case topicIDs
        case leaf(JSONText)
    }

    private func child(_ name: String, of node: Node) -> Node? {
        switch node {
        case .root:
            return Self.top[name]
        case .brokers:
            return Int32(name).flatMap { image.brokers[NodeID($0)] }.map { .broker($0) }
        case .configs:
            return switch name {
            case "brokers": .configuredBrokers
            case "cluster": .configsOf(.clusterDefault)
            case "topics": .configuredTopics
            default: nil
            }
        case .configuredBrokers:
            return Int32(name).flatMap { configs(of: .broker(NodeID($0))) }
        case .configuredTopics:
            return configs(of: .topic(name))
        case .configsOf(let resource):
            return image.configs[resource]?[name].map { .leaf(JSONText($0)) }
        case .features:
            return image.features[name].map { .leaf(JSONText($0)) }
        case .producerIDs:
            return name == "next" ? .leaf(JSONText(image.nextProducerID)) : nil
        case .topics:
            return image.topic(named: name).map { .topic($0) }
        case .topic(let topic):
            return switch name {
            case "id": .leaf(JSONText(topic.id.description))
            case "partitions": .partitions(topic)
            default: nil
            }
        case .partitions(let topic):
            guard let number = Int(name), topic.partitions.indices.contains(number) else {
                return nil
            }
            return .leaf(topic.partitions[number].json(id: nil))
        case .topicIDs:
            return TopicID(name).flatMap { image.topics[$0] }.map { .leaf(JSONText($0.name)) }
        case .broker, .leaf:
            return nil
        }
    }

    private static let top: [String: Node] = [
        "brokers": .brokers, "configs": .configs, "features": .features,
        "producerIds": .producerIDs, "topicIds": .topicIDs, "topics": .topics,
    ]

    private func configs(of resource: ConfigResource) -> Node? {
        image.configs[resource] == nil ? nil : .configsOf(resource)
    }

    private func describe(_ node: Node) -> MetadataNode {
        switch node {
        case .root:
            return .directory(Self.top.keys.sorted())
        case .brokers:
            return .directory(image.brokers.keys.sorted().map(\.description))
        case .broker(let broker):
            return .value(broker.json.text)
        case .configs:
            return .directory(["brokers", "cluster", "topics"])
        case .configuredBrokers:
            let ids = image.configs.keys.compactMap { resource in
                if case .broker(let id) = resource { id } else { nil }
            }
            return .directory(ids.sorted().map(\.description))
        case .configuredTopics:
            let names = image.configs.keys.compactMap { resource in
                if case .topic(let name) = resource { name } else { nil }
            }
            return .directory(names.sorted())
        case .configsOf(let resource):
            return .directory((image.configs[resource] ?? [:]).keys.sorted())
        case .features:
            return .directory(image.features.keys.sorted())
        case .producerIDs:
            return .directory(["next"])
        case .topics:
            return .directory(image.topicIDs.keys.sorted())
        case .topic:
            return .directory(["id", "partitions"])
        case .partitions(let topic):
            return .directory(topic.partitions.indices.map(String.init))
        case .topicIDs:
            return .directory(image.topics.keys.map(\.description).sorted())
        case .leaf(let value):
            return .value(value.text)
        }
    }
}
