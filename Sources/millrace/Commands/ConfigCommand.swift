import ArgumentParser
import Configuration

/// `millrace config`: a node's keys and settings, and the configs that change while a cluster runs.
struct ConfigCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config",
        abstract: "List a node's keys; show and change the configs of a running cluster.",
        subcommands: [
            ConfigKeysCommand.self, ConfigDescribeCommand.self, ConfigAlterCommand.self,
        ], defaultSubcommand: ConfigKeysCommand.self)
}

/// `millrace config keys`, or just `millrace config`: every key of a node, or the settings one node
/// would start with.
struct ConfigKeysCommand: AsyncParsableCommand {
    enum Output: String, ExpressibleByArgument, CaseIterable { case text, json }

    static let configuration = CommandConfiguration(
        commandName: "keys",
        abstract: "List every configuration key, or with --config or --set check a node's settings."
    )

    @OptionGroup var node: NodeOptions

    @Option(help: "text or json")
    var output: Output = .text

    func run() async throws {
        if node.config == nil, node.overrides.isEmpty {
            listKeys()
        } else {
            listSettings(of: try node.load())
        }
    }

    private func listKeys() {
        switch output {
        case .text:
            for key in NodeConfiguration.keys {
                print(
                    """
                    \(key.name)
                        \(key.documentation)
                        Value: \(key.form). Default: \(key.defaultText).
                        Environment: \(key.environmentVariable)

                    """)
            }
        case .json:
            let entries = NodeConfiguration.keys.map { key in
                """
                {"name": \(jsonString(key.name)), "form": \(jsonString(key.form)), \
                "default": \(jsonString(key.defaultText)), \
                "environment": \(jsonString(key.environmentVariable)), \
                "documentation": \(jsonString(key.documentation))}
                """
            }
            print("{\"keys\": [\n\(entries.joined(separator: ",\n"))\n]}")
        }
    }

    private func listSettings(of configuration: NodeConfiguration) {
        switch output {
        case .text:
            for (key, value, origin) in configuration.settings {
                print("\(key.name)=\(value)  (\(origin))")
            }
        case .json:
            let entries = configuration.settings.map { key, value, origin in
                """
                {"name": \(jsonString(key.name)), "value": \(jsonString(value)), \
                "origin": \(jsonString("\(origin)"))}
                """
            }
            print("{\"settings\": [\n\(entries.joined(separator: ",\n"))\n]}")
        }
    }
}
