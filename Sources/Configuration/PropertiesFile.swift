/// Reads Java's `.properties` syntax, as far as Kafka's own files use it.
///
/// Comments start with `#` or `!`; `=` or `:` separates key and value; an odd number of trailing
/// backslashes continues the line; `\t`, `\n`, `\r`, `\f` and `\uXXXX` are escapes, and a backslash
/// before any other character stands for that character.
package enum PropertiesFile {
    package struct Entry: Hashable, Sendable {
        package var key: String
        package var value: String
        /// The line the entry starts in, counted from 1.
        package var line: Int
    }

    /// - Throws: `ConfigurationError.malformed` for a line without a separator or a key.
    package static func parse(
        _ text: String, path: String
    ) throws(ConfigurationError) -> [Entry] {
        var entries: [Entry] = []
        var pending: (text: Substring, line: Int)?
        let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
        for (index, line) in lines.enumerated() {
            let content = line.drop(while: \.isBlank)
            if pending == nil, content.isEmpty || content.first == "#" || content.first == "!" {
                continue
            }
            var logical = (text: (pending?.text ?? "") + content, line: pending?.line ?? index + 1)
            let backslashes = logical.text.reversed().prefix { $0 == "\\" }.count
            if backslashes % 2 == 1 {
                logical.text.removeLast()
                pending = logical
                // A file may end in the middle of a continued line: what is there counts.
                if index < lines.count - 1 { continue }
            }
            pending = nil
            guard let entry = entry(of: logical.text, line: logical.line) else {
                throw .malformed(
                    .file(path: path, line: logical.line), text: String(logical.text))
            }
            entries.append(entry)
        }
        return entries
    }

    private static func entry(of text: Substring, line: Int) -> Entry? {
        var key = ""
        var rest = text
        while let character = rest.popFirst() {
            if character == "=" || character == ":" {
                let value = rest.drop(while: \.isBlank)
                let trimmed = key.trimmingBlanks
                guard !trimmed.isEmpty else { return nil }
                return Entry(key: trimmed, value: unescape(value).trimmingBlanks, line: line)
            }
            if character == "\\", let escaped = rest.popFirst() {
                key.append(escaped)
            } else {
                key.append(character)
            }
        }
        return nil
    }

    private static func unescape(_ text: Substring) -> String {
        var result = ""
        var rest = text
        while let character = rest.popFirst() {
            guard character == "\\", let escaped = rest.popFirst() else {
                result.append(character)
                continue
            }
            switch escaped {
            case "t": result.append("\t")
            case "n": result.append("\n")
            case "r": result.append("\r")
            case "f": result.append("\u{c}")
            case "u":
                let digits = rest.prefix(4)
                if digits.utf8.count == 4, let value = UInt32(digits, radix: 16),
                    let scalar = Unicode.Scalar(value)
                {
                    result.unicodeScalars.append(scalar)
                    rest.removeFirst(4)
                } else {
                    result.append("u")
                }
            default: result.append(escaped)
            }
        }
        return result
    }
}

extension Character {
    fileprivate var isBlank: Bool { self == " " || self == "\t" || self == "\u{c}" }
}

extension StringProtocol {
    /// Without the spaces and tabs at both ends.
    var trimmingBlanks: String {
        let start = drop { $0 == " " || $0 == "\t" }
        let trailing = start.reversed().prefix { $0 == " " || $0 == "\t" }.count
        return String(start.dropLast(trailing))
    }
}
