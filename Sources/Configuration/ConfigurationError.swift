/// Where a setting came from, so that an error can point at it.
package enum ConfigurationOrigin: Hashable, Sendable, CustomStringConvertible {
    case builtIn
    case file(path: String, line: Int)
    case environment(variable: String)
    case commandLine(argument: String)

    package var description: String {
        switch self {
        case .builtIn: "default"
        case .file(let path, let line): "\(path):\(line)"
        case .environment(let variable): "environment variable \(variable)"
        case .commandLine(let argument): "--set \(argument)"
        }
    }
}

/// Why a node may not start with the settings it was given; prints as one line that names the place
/// and the fix.
package enum ConfigurationError: Error, Hashable, Sendable {
    case unreadableFile(path: String, reason: String)
    /// A line, or a `--set` argument, that is not `key=value`.
    case malformed(ConfigurationOrigin, text: String)
    case unknownKey(String, at: ConfigurationOrigin, nearest: String?)
    case duplicateKey(String, at: ConfigurationOrigin, firstLine: Int)
    case invalidValue(String, key: String, at: ConfigurationOrigin, expected: String)
    case missingKey(String, fix: String)
    /// Settings that are fine alone and wrong together. `origin` is that of the one to change.
    case contradiction(at: ConfigurationOrigin, problem: String, fix: String)
}

extension ConfigurationError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .unreadableFile(let path, let reason):
            "\(path): cannot read the configuration: \(reason); give an existing file with --config"
        case .malformed(let origin, let text):
            "\(origin): '\(text.prefix(80))' is not a setting; write key=value"
        case .unknownKey(let key, let origin, let nearest?):
            "\(origin): unknown key '\(key)'; did you mean '\(nearest)'?"
        case .unknownKey(let key, let origin, nil):
            "\(origin): unknown key '\(key)'; remove it ('millrace config' lists every key)"
        case .duplicateKey(let key, let origin, let firstLine):
            "\(origin): '\(key)' was already set in line \(firstLine); remove one of the two"
        case .invalidValue(let value, let key, let origin, let expected):
            "\(origin): \(key) cannot be '\(value.prefix(80))'; use \(expected)"
        case .missingKey(let key, let fix):
            "\(key) is not set; \(fix)"
        case .contradiction(let origin, let problem, let fix):
            "\(origin): \(problem); \(fix)"
        }
    }
}
