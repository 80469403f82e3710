/// Whose configs are meant.
public enum ConfigResource: Sendable, Hashable {
    case topic(String)
    case broker(Int32)
    /// The default of all brokers and topics that say nothing themselves.
    case cluster
}

/// One change of one config.
public struct ConfigAlteration: Sendable, Hashable {
    public enum Operation: Sendable, Hashable {
        case set(String)
        /// Back to the default.
        case delete
        /// Of a list: adds an item that it does not have yet.
        case append(String)
        /// Of a list: takes an item away.
        case subtract(String)
    }

    public var name: String
    public var operation: Operation

    public init(_ name: String, _ operation: Operation) {
        self.name = name
        self.operation = operation
    }
}

/// A config in force.
public struct ConfigEntry: Sendable, Hashable {
    /// Where a value comes from.
    public enum Source: String, Sendable, Hashable {
        case topic
        case broker
        case cluster
        /// The broker's file, or what is built in.
        case `default`
    }

    public var name: String
    public var value: String
    public var source: Source
    /// What it would be without this resource's own value.
    public var defaultValue: String
    public var documentation: String
}

/// A feature whose level the nodes of a cluster agree on, such as `metadata.version`.
public struct FeatureDescription: Sendable, Hashable {
    public var name: String
    /// The level in use; `nil` when none has been finalised.
    public var finalizedLevel: Int32?
    /// The levels that every node of the cluster supports; `nil` when there are none, or some node
    /// was not heard from.
    public var supportedLevels: ClosedRange<Int32>?
}
