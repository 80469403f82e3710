import ArgumentParser
import Millrace

/// `millrace cluster features`: the levels in use, and those that all nodes support.
struct ClusterFeaturesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "features",
        abstract: "Show the feature levels in use, and those that every node supports.")

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let features = try await client.withClient {
            try await Admin(client: $0).describeFeatures()
        }
        var table = Table("FEATURE", "LEVEL", "EVERY NODE SUPPORTS")
        for feature in features {
            table.add(
                feature.name, feature.finalizedLevel.map { "\($0)" } ?? "none",
                feature.supportedText)
        }
        printResult(
            output.output, json: .object([("features", .array(features.map(\.json)))]),
            text: table.lines)
    }
}

/// `millrace cluster upgrade`: finalises the version of the metadata records.
struct ClusterUpgradeCommand: AsyncParsableCommand {
    private static let feature = "metadata.version"

    static let configuration = CommandConfiguration(
        commandName: "upgrade",
        abstract:
            "Let the cluster use a newer metadata.version, once every node runs the new release.",
        discussion: """
            Restart every node with the new release first, one after the other. Afterwards a node of \
            the old release can't join any more, and there is no way back.
            """)

    @Option(
        help: ArgumentHelp(
            "The level to go to; else the highest that every node supports.", valueName: "n"))
    var level: Int32?

    @Flag(help: "Check everything, change nothing.")
    var validateOnly = false

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let level, level < 1 { throw ValidationError("--level must be at least 1.") }
    }

    func run() async throws {
        let (before, after) = try await client.withClient { client in
            let admin = Admin(client: client)
            let before = try await admin.describeFeatures()
            let after = try await admin.updateFeature(
                Self.feature, to: level, validateOnly: validateOnly)
            return (Self.level(in: before), Self.level(in: after))
        }
        let name = Self.feature
        printResult(
            output.output,
            json: .object([
                ("feature", .string(name)), ("before", JSONValue(before)),
                ("level", JSONValue(after)), ("isOnlyChecked", .bool(validateOnly)),
            ]),
            text: [
                validateOnly
                    ? "\(name) is \(text(before)) and could be changed so; nothing was changed"
                    : before == after
                        ? "\(name) was \(text(after)) already"
                        : "\(name) is \(text(after)) now; it was \(text(before))"
            ])
    }

    private static func level(in features: [FeatureDescription]) -> Int32? {
        features.first { $0.name == feature }?.finalizedLevel
    }

    private func text(_ level: Int32?) -> String { level.map { "\($0)" } ?? "not set" }
}

/// `millrace cluster unregister`: forgets a broker that will not come back.
struct ClusterUnregisterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unregister",
        abstract:
            "Forget a broker that will not come back: one that is stopped and holds no replicas.")

    @Argument(help: "The broker's node id.")
    var id: Int32

    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard id >= 0 else { throw ValidationError("A broker's node id is 0 or more.") }
    }

    func run() async throws {
        try await client.withClient { try await Admin(client: $0).unregisterBroker(id) }
        printResult(
            output.output, json: .object([("id", JSONValue(id)), ("unregistered", .bool(true))]),
            text: ["Broker \(id) is forgotten"])
    }
}

extension FeatureDescription {
    fileprivate var supportedText: String {
        supportedLevels.map {
            $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound) to \($0.upperBound)"
        } ?? "not known"
    }

    fileprivate var json: JSONValue {
        .object([
            ("name", .string(name)), ("level", JSONValue(finalizedLevel)),
            ("minSupportedLevel", JSONValue(supportedLevels?.lowerBound)),
            ("maxSupportedLevel", JSONValue(supportedLevels?.upperBound)),
        ])
    }
}
