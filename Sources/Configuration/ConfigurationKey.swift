import Essentials

/// The one declaration of a configuration key: how it is written, checked, explained and printed.
package struct ConfigurationKey: Sendable {
    package let name: String
    /// What a value looks like, with its unit and bounds.
    package let form: String
    package let documentation: String
    /// The default as text; says how it is derived where it depends on other things.
    package let defaultText: String
    /// Stores the value of `text`; `false` if it is not of this key's form.
    let store: @Sendable (_ text: String, _ configuration: inout NodeConfiguration) -> Bool
    let show: @Sendable (NodeConfiguration) -> String

    /// The environment variable that sets this key.
    package var environmentVariable: String {
        "MILLRACE_" + String(name.map { $0 == "." ? "_" : $0 }).uppercased()
    }
}

typealias SettingPath<Value> = WritableKeyPath<NodeConfiguration, Value> & Sendable

extension ConfigurationKey {
    static func text<Value>(
        _ name: String, _ path: any SettingPath<Value>, form: String,
        default defaultText: String? = nil,
        parse: @escaping @Sendable (String) -> Value?,
        show: @escaping @Sendable (Value) -> String, _ documentation: String
    ) -> ConfigurationKey {
        ConfigurationKey(
            name: name, form: form, documentation: documentation,
            defaultText: defaultText ?? show(NodeConfiguration()[keyPath: path]),
            store: { text, configuration in
                guard let value = parse(text) else { return false }
                configuration[keyPath: path] = value
                return true
            },
            show: { show($0[keyPath: path]) })
    }

    static func integer<Value: FixedWidthInteger & Sendable>(
        _ name: String, _ path: any SettingPath<Value>, _ range: ClosedRange<Value>,
        unit: String = "", default defaultText: String? = nil, _ documentation: String
    ) -> ConfigurationKey {
        .text(
            name, path, form: form(range, unit: unit), default: defaultText,
            parse: { text in Value(text).flatMap { range.contains($0) ? $0 : nil } },
            show: { String($0) }, documentation)
    }

    static func integer<Value: FixedWidthInteger & Sendable>(
        _ name: String, _ path: any SettingPath<Value?>, _ range: ClosedRange<Value>,
        unit: String = "", default defaultText: String, _ documentation: String
    ) -> ConfigurationKey {
        .text(
            name, path, form: form(range, unit: unit), default: defaultText,
            parse: { text in Value(text).flatMap { range.contains($0) ? $0 : nil } },
            show: { $0.map { String($0) } ?? defaultText }, documentation)
    }

    static func milliseconds(
        _ name: String, _ path: any SettingPath<Duration>, _ range: ClosedRange<Int64>,
        default defaultText: String? = nil, _ documentation: String
    ) -> ConfigurationKey {
        .text(
            name, path, form: form(range, unit: "milliseconds"), default: defaultText,
            parse: { text in
                Int64(text).flatMap { range.contains($0) ? .milliseconds($0) : nil }
            },
            show: { String($0.milliseconds) }, documentation)
    }

    static func flag(
        _ name: String, _ path: any SettingPath<Bool>, _ documentation: String
    ) -> ConfigurationKey {
        .text(
            name, path, form: "true or false", parse: { Bool($0.lowercased()) },
            show: { String($0) }, documentation)
    }

    static func choice<Value: RawRepresentable<String> & CaseIterable & Sendable>(
        _ name: String, _ path: any SettingPath<Value>, default defaultText: String? = nil,
        _ documentation: String
    ) -> ConfigurationKey {
        .text(
            name, path, form: "one of \(Value.allCases.map(\.rawValue).joined(separator: ", "))",
            default: defaultText, parse: { Value(rawValue: $0.lowercased()) },
            show: { $0.rawValue }, documentation)
    }

    private static func form<Value: FixedWidthInteger>(
        _ range: ClosedRange<Value>, unit: String
    ) -> String {
        let number = unit.isEmpty ? "a whole number" : "a whole number of \(unit)"
        return range.upperBound == .max
            ? "\(number), at least \(range.lowerBound)"
            : "\(number) from \(range.lowerBound) to \(range.upperBound)"
    }
}

/// The candidate with the fewest edits to `word`, if few enough to be a slip of the hand.
func nearest(to word: String, among candidates: [String]) -> String? {
    let limit = max(2, word.count / 4)
    return candidates.map { (edits: editDistance(word, $0), name: $0) }
        .filter { $0.edits <= limit }
        .min { ($0.edits, $0.name) < ($1.edits, $1.name) }?.name
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
func editDistance(_ left: String, _ right: String) -> Int {
    let left = Array(left.lowercased().utf8)
    let right = Array(right.lowercased().utf8)
    var beforeLast: [Int] = []
    var last = Array(0...right.count)
    for row in left.indices {
        var current = [row + 1]
        for column in right.indices {
            let replaced = last[column] + (left[row] == right[column] ? 0 : 1)
            var best = min(replaced, last[column + 1] + 1, current[column] + 1)
            if row > 0, column > 0, left[row] == right[column - 1], left[row - 1] == right[column] {
                best = min(best, beforeLast[column - 1] + 1)
            }
            current.append(best)
        }
        (beforeLast, last) = (last, current)
    }
    return last[right.count]
}
