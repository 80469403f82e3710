internal import Essentials

/// The one declaration of a config that changes while the cluster runs: what it takes, what it is
/// without being set, what it means, and where it may be set.
package struct ConfigDefinition: Equatable, Sendable {
    package enum Scope: Equatable, Sendable {
        /// For one topic, and for the cluster as the default of all topics.
        case topics
        /// For one broker, and for the cluster as the default of all brokers.
        case brokers
        /// For the cluster only.
        case cluster
    }

    package let name: String
    package let scope: Scope
    package let values: ConfigValues
    package let defaultValue: String
    package let documentation: String
    /// The key of a node's own file that gives the default, where there is one.
    package let nodeKey: String?

    init(
        _ name: String, _ scope: Scope, _ values: ConfigValues, default defaultValue: String,
        nodeKey: String? = nil, _ documentation: String
    ) {
        self.name = name
        self.scope = scope
        self.values = values
        self.defaultValue = defaultValue
        self.documentation = documentation
        self.nodeKey = nodeKey
    }

    /// What is wrong with `value`, in words for whoever wrote it; `nil` when nothing is.
    package func problem(with value: String) -> String? {
        guard value.utf8.count <= 1000 else { return "\(name) takes 1000 characters at most" }
        if values.allow(value) { return nil }
        return "\(name) takes \(values.form), not '\(value)'"
    }

    /// Every config, by name.
    package static let all: [ConfigDefinition] =
        (TopicConfigKey.allCases.map(\.definition) + BrokerConfigKey.allCases.map(\.definition)
        + ClusterConfigKey.allCases.map(\.definition)).sorted { $0.name < $1.name }

    private static let byName = Dictionary(uniqueKeysWithValues: all.map { ($0.name, $0) })

    package static func named(_ name: String) -> ConfigDefinition? { byName[name] }

    /// Whether it may be set for `resource`.
    package func applies(to resource: ConfigResource) -> Bool {
        switch (resource, scope) {
        case (.clusterDefault, _), (.topic, .topics), (.broker, .brokers): true
        case (.topic, .brokers), (.topic, .cluster), (.broker, .topics), (.broker, .cluster): false
        }
    }
}

/// The values that a config takes.
package enum ConfigValues: Equatable, Sendable {
    case integer(ClosedRange<Int64>, unit: String = "")
    case ratio
    case oneOf([String])
    /// One or more of these, separated by commas.
    case listOf([String])

    static let flag = ConfigValues.oneOf(["true", "false"])

    /// What a value looks like, with unit and bounds.
    package var form: String {
        switch self {
        case .integer(let range, let unit):
            "a whole number\(unit.isEmpty ? "" : " of \(unit)"), "
                + (range.upperBound == .max
                    ? "\(range.lowerBound) or more" : "\(range.lowerBound) to \(range.upperBound)")
        case .ratio: "a number from 0 to 1"
        case .oneOf(let allowed): allowed.joined(separator: ", ")
        case .listOf(let allowed): "a list of \(allowed.joined(separator: ", "))"
        }
    }

    func allow(_ value: String) -> Bool {
        switch self {
        case .integer(let range, _):
            return Int64(value).map(range.contains) ?? false
        case .ratio:
            return Double(value).map((0...1).contains) ?? false
        case .oneOf(let allowed):
            return allowed.contains(value)
        case .listOf(let allowed):
            let items = Self.items(of: value)
            return !items.isEmpty && items.allSatisfy(allowed.contains)
        }
    }

    /// The items of a list without the blanks around them.
    static func items(of list: String) -> [String] {
        list.split(separator: ",", omittingEmptySubsequences: false).map { item in
            String(item.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
        }
    }
}
