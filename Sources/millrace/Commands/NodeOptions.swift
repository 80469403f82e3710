import ArgumentParser
import Configuration
import Storage

/// Where the settings of one node come from.
struct NodeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("The node's settings, a .properties file.", valueName: "file"),
        completion: .file(extensions: ["properties"]))
    var config: String?

    @Option(
        name: .customLong("set"), parsing: .singleValue,
        help: ArgumentHelp(
            "A setting that overrides the file and the environment; repeatable.",
            valueName: "key=value"))
    var overrides: [String] = []

    func load(role: NodeConfiguration.Role? = nil) throws(ConfigurationError) -> NodeConfiguration {
        try NodeConfiguration.load(
            file: config, environment: processEnvironment(), overrides: overrides, role: role)
    }

    /// These options as they were typed, each with a space before it, for messages that show a command.
    var asTyped: String {
        var words = config.map { ["--config", $0] } ?? []
        for setting in overrides { words += ["--set", setting] }
        return words.map { " " + shellQuoted($0) }.joined()
    }
}

extension NodeConfiguration {
    /// Every directory the node writes to, each once.
    var allDirectories: [String] {
        logDirectories.contains(metadataLogDirectory)
            ? logDirectories : logDirectories + [metadataLogDirectory]
    }
}

/// `text` as a shell reads it back as one word.
func shellQuoted(_ text: String) -> String {
    let plain = text.allSatisfy {
        $0.isASCII && ($0.isLetter || $0.isNumber || "-_./:=,@%+".contains($0))
    }
    return plain && !text.isEmpty ? text : "'" + text.replacing("'", with: "'\\''") + "'"
}
