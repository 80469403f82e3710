/// JSON text with one field or element a line, for people to read; lists of plain values stay on one.
///
/// What is inside strings, and the order of fields, stays as it is.
func indentedJSON(_ text: String) -> String {
    var writer = JSONIndenter(Array(text.utf8))
    return writer.indented()
}

/// Copies JSON text byte by byte and puts in the white space.
private struct JSONIndenter {
    private let text: [UInt8]
    private var position = 0
    private var result: [UInt8] = []
    private var depth = 0

    init(_ text: [UInt8]) {
        self.text = text
        result.reserveCapacity(text.count * 2)
    }

    mutating func indented() -> String {
        while position < text.count { step() }
        return String(decoding: result, as: UTF8.self)
    }

    private mutating func step() {
        let byte = text[position]
        switch byte {
        case UInt8(ascii: "\""): copyString()
        case UInt8(ascii: "{"), UInt8(ascii: "["): open(byte)
        case UInt8(ascii: "}"), UInt8(ascii: "]"):
            depth = max(0, depth - 1)
            newLine()
            result.append(byte)
            position += 1
        case UInt8(ascii: ","):
            result.append(byte)
            newLine()
            position += 1
        case UInt8(ascii: ":"):
            result += [byte, UInt8(ascii: " ")]
            position += 1
        case _ where isBlank(byte): position += 1
        default:
            result.append(byte)
            position += 1
        }
    }

    /// An opening bracket; all up to the closing one if nothing, or only plain values, lie between.
    private mutating func open(_ byte: UInt8) {
        let start = (position, result.count)
        result.append(byte)
        position += 1
        while position < text.count {
            let next = text[position]
            switch next {
            case UInt8(ascii: "\"") where byte == UInt8(ascii: "["): copyString()
            case UInt8(ascii: "]"), UInt8(ascii: "}"):
                result.append(next)
                position += 1
                return
            case UInt8(ascii: ",") where byte == UInt8(ascii: "["):
                result += [next, UInt8(ascii: " ")]
                position += 1
            case _ where isBlank(next): position += 1
            case UInt8(ascii: "{"), UInt8(ascii: "["),
                _ where byte == UInt8(ascii: "{"):
                position = start.0 + 1
                result.removeLast(result.count - start.1 - 1)
                depth += 1
                return newLine()
            default:
                result.append(next)
                position += 1
            }
        }
    }

    /// From one quote to the next that is not escaped.
    private mutating func copyString() {
        repeat {
            // What follows a backslash is no end, whatever it is.
            let count = text[position] == UInt8(ascii: "\\") ? 2 : 1
            result += text[position..<min(position + count, text.count)]
            position = min(position + count, text.count)
        } while position < text.count && text[position] != UInt8(ascii: "\"")
        if position < text.count {
            result.append(text[position])
            position += 1
        }
    }

    private mutating func newLine() {
        result.append(UInt8(ascii: "\n"))
        result.append(contentsOf: repeatElement(UInt8(ascii: " "), count: 2 * depth))
    }

    private func isBlank(_ byte: UInt8) -> Bool {
        [UInt8(ascii: " "), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t")]
            .contains(byte)
    }
}
