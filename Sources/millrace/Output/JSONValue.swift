/// A JSON value whose fields keep the order in which they were written down.
enum JSONValue {
    case null
    case bool(Bool)
    case integer(Int64)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([(name: String, value: JSONValue)])
    /// JSON text that somebody else wrote.
    case raw(String)

    init(_ value: some BinaryInteger) {
        self = .integer(Int64(clamping: value))
    }

    init(_ value: (some BinaryInteger)?) {
        self = value.map { .integer(Int64(clamping: $0)) } ?? .null
    }

    init(_ value: String?) {
        self = value.map { .string($0) } ?? .null
    }

    init(_ value: Bool?) {
        self = value.map { .bool($0) } ?? .null
    }

    init(_ values: [Int32]) {
        self = .array(values.map { JSONValue($0) })
    }

    /// The value as text: one line, or indented with one field a line.
    func text(isIndented: Bool = false) -> String {
        var text = ""
        write(to: &text, indent: isIndented ? 0 : nil)
        return text
    }

    private func write(to text: inout String, indent: Int?) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .integer(let value): text += String(value)
        case .number(let value): text += value.isFinite ? "\(value)" : "null"
        case .string(let value): text += jsonString(value)
        case .raw(let value): text += value
        case .array(let values):
            // A list of plain values, such as replicas, reads best on one line.
            let isShort = values.allSatisfy { !$0.isNested }
            Self.write(values, "[", "]", to: &text, indent: isShort ? nil : indent) {
                text, value, inner in
                value.write(to: &text, indent: inner)
            }
        case .object(let fields):
            Self.write(fields, "{", "}", to: &text, indent: indent) { text, field, inner in
                text += jsonString(field.name) + ": "
                field.value.write(to: &text, indent: inner)
            }
        }
    }

    private var isNested: Bool {
        switch self {
        case .array, .object: true
        case .null, .bool, .integer, .number, .string, .raw: false
        }
    }

    private static func write<Element>(
        _ elements: [Element], _ open: String, _ close: String, to text: inout String,
        indent: Int?, _ body: (inout String, Element, Int?) -> Void
    ) {
        text += open
        let inner = indent.map { $0 + 2 }
        for (index, element) in elements.enumerated() {
            if index > 0 { text += inner == nil ? ", " : "," }
            if let inner { text += "\n" + String(repeating: " ", count: inner) }
            body(&text, element, inner)
        }
        if let indent, !elements.isEmpty { text += "\n" + String(repeating: " ", count: indent) }
        text += close
    }
}
