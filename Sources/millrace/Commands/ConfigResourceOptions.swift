import ArgumentParser
import Millrace

/// Whose configs a command is about: exactly one of three options.
struct ConfigResourceOptions: ParsableArguments {
    @Option(help: ArgumentHelp("A topic's configs.", valueName: "name"))
    var topic: String?

    @Option(help: ArgumentHelp("A broker's configs.", valueName: "id"))
    var broker: Int32?

    @Flag(help: "What holds for every broker and topic that says nothing itself.")
    var cluster = false

    func validate() throws {
        let count = (topic == nil ? 0 : 1) + (broker == nil ? 0 : 1) + (cluster ? 1 : 0)
        guard count == 1 else {
            throw ValidationError("Say whose configs: one of --topic, --broker and --cluster.")
        }
        if let broker, broker < 0 {
            throw ValidationError("--broker takes the node id of a broker.")
        }
    }

    var resource: ConfigResource {
        if let topic { return .topic(topic) }
        if let broker { return .broker(broker) }
        return .cluster
    }
}

extension ConfigResource {
    /// As a message names it.
    var text: String {
        switch self {
        case .topic(let name): "topic \(name)"
        case .broker(let id): "broker \(id)"
        case .cluster: "the cluster"
        }
    }

    var json: [(name: String, value: JSONValue)] {
        switch self {
        case .topic(let name): [("topic", .string(name))]
        case .broker(let id): [("broker", JSONValue(id))]
        case .cluster: [("cluster", .bool(true))]
        }
    }
}

extension ConfigAlteration {
    /// Parses `key=value` of an option.
    static func parse(
        _ text: String, option: String, _ operation: (String) -> Operation
    ) throws(ValidationError) -> ConfigAlteration {
        guard let separator = text.firstIndex(of: "="), separator != text.startIndex else {
            throw ValidationError("\(option) takes key=value, not '\(text)'.")
        }
        return ConfigAlteration(
            String(text[..<separator]), operation(String(text[text.index(after: separator)...])))
    }

    /// Parses the key of an option that takes nothing else.
    static func parseKey(_ text: String, option: String) throws(ValidationError)
        -> ConfigAlteration
    {
        guard !text.isEmpty, !text.contains("=") else {
            throw ValidationError("\(option) takes a key alone, not '\(text)'.")
        }
        return ConfigAlteration(text, .delete)
    }

    /// Refuses a key that is named twice, which leaves open what should come of it.
    static func check(_ changes: [ConfigAlteration]) throws(ValidationError) {
        var seen: Set<String> = []
        for change in changes {
            let isList: Bool
            switch change.operation {
            case .append, .subtract: isList = true
            case .set, .delete: isList = false
            }
            // Several items may be added to a list, or taken away.
            guard seen.insert(change.name).inserted || isList else {
                throw ValidationError("\(change.name) is changed twice; name it once.")
            }
        }
    }

    var text: String {
        switch operation {
        case .set(let value): "\(name)=\(value)"
        case .delete: "\(name) back to its default"
        case .append(let item): "\(item) added to \(name)"
        case .subtract(let item): "\(item) taken from \(name)"
        }
    }

    fileprivate var json: JSONValue {
        let (operation, value): (String, String?) =
            switch operation {
            case .set(let value): ("set", value)
            case .delete: ("delete", nil)
            case .append(let item): ("append", item)
            case .subtract(let item): ("subtract", item)
            }
        return .object([
            ("name", .string(name)), ("operation", .string(operation)),
            ("value", JSONValue(value)),
        ])
    }
}

/// Makes the changes, or only checks them, and says so.
func alterConfigs(
    of resource: ConfigResource, _ changes: [ConfigAlteration], validateOnly: Bool,
    client: ClientOptions, output: OutputFormat
) async throws {
    try await client.withClient { client in
        try await Admin(client: client).alterConfigs(
            of: resource, changes, validateOnly: validateOnly)
    }
    let what = changes.map(\.text).joined(separator: ", ")
    printResult(
        output,
        json: .object(
            resource.json + [
                ("changes", .array(changes.map(\.json))), ("isOnlyChecked", .bool(validateOnly)),
            ]),
        text: [
            validateOnly
                ? "Fine, but not changed, for \(resource.text): \(what)"
                : "Changed \(resource.text): \(what)"
        ])
}
