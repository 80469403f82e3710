internal import Essentials

/// A JSON value on one line, its fields in the order in which they were written down.
struct JSONText: Equatable {
    let text: String

    static let null = JSONText(text: "null")

    private init(text: String) { self.text = text }

    init(_ value: Bool) { text = value ? "true" : "false" }

    init(_ value: some BinaryInteger) { text = String(value) }

    init(_ value: String) { text = Self.quoted(value) }

    init(_ values: [JSONText]) {
        text = "[" + values.map(\.text).joined(separator: ", ") + "]"
    }

    init(_ brokers: [NodeID]) { self.init(brokers.map { JSONText($0.rawValue) }) }

    /// Fields that are `nil` are left out.
    init(_ fields: KeyValuePairs<String, JSONText?>) {
        let written = fields.compactMap { name, value in
            value.map { Self.quoted(name) + ": " + $0.text }
        }
        text = "{" + written.joined(separator: ", ") + "}"
    }

    private static func quoted(_ value: String) -> String {
        var text = "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\t": text += "\\t"
            case "\r": text += "\\r"
            case "\u{0}"..."\u{1f}", "\u{7f}", "\u{2028}", "\u{2029}":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text + "\""
    }
}
