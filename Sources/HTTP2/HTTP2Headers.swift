/// A list of header fields, received or to be sent, kept in one run of bytes.
package struct HTTP2Headers: Sendable, Hashable {
    /// Where one field lies in `bytes`: the name, then its value.
    struct Field: Sendable, Hashable {
        var start: Int32
        var nameCount: Int32
        var valueCount: Int32
        var isIndexed: Bool
    }

    private(set) var bytes: [UInt8] = []
    private(set) var fields: [Field] = []

    package init() {}

    init(bytes: [UInt8], fields: [Field]) {
        self.bytes = bytes
        self.fields = fields
    }

    package init(_ fields: KeyValuePairs<String, String>) {
        for (name, value) in fields {
            add(name, value)
        }
    }

    package var count: Int { fields.count }

    /// The size that limits are about: every name and value, and 32 bytes a field (RFC 9113, 6.5.2).
    package var listBytes: Int { bytes.count + 32 * fields.count }

    package mutating func reserve(fields fieldCount: Int, bytes byteCount: Int) {
        fields.reserveCapacity(fieldCount)
        bytes.reserveCapacity(byteCount)
    }

    /// Appends a field; `name` is in lower case.
    ///
    /// - Parameter isIndexed: false for a value that differs from call to call, which would only
    ///   push better ones out of the peer's compression table.
    package mutating func add(_ name: String, _ value: String, isIndexed: Bool = true) {
        let start = bytes.count
        bytes.append(contentsOf: name.utf8)
        let nameEnd = bytes.count
        bytes.append(contentsOf: value.utf8)
        addField(start: start, nameEnd: nameEnd, isIndexed: isIndexed)
    }

    private mutating func addField(start: Int, nameEnd: Int, isIndexed: Bool) {
        // Both limits and nghttp2's own keep a list far below 2 GiB.
        fields.append(
            Field(
                start: Int32(truncatingIfNeeded: start),
                nameCount: Int32(truncatingIfNeeded: nameEnd - start),
                valueCount: Int32(truncatingIfNeeded: bytes.count - nameEnd),
                isIndexed: isIndexed))
    }

    /// Calls `body` with each field's name and value, in order.
    package func forEach(
        _ body: (_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
    ) {
        bytes.withUnsafeBytes { bytes in
            for field in fields {
                let start = Int(field.start)
                let nameEnd = start + Int(field.nameCount)
                body(
                    UnsafeRawBufferPointer(rebasing: bytes[start..<nameEnd]),
                    UnsafeRawBufferPointer(
                        rebasing: bytes[nameEnd..<nameEnd + Int(field.valueCount)]))
            }
        }
    }

    /// The value of the first field with this name, in lower case; `nil` if there is none.
    package subscript(name: String) -> String? {
        let wanted = name.utf8
        for field in fields where Int(field.nameCount) == wanted.count {
            let nameEnd = Int(field.start) + Int(field.nameCount)
            guard bytes[Int(field.start)..<nameEnd].elementsEqual(wanted) else { continue }
            return String(
                decoding: bytes[nameEnd..<nameEnd + Int(field.valueCount)], as: UTF8.self)
        }
        return nil
    }
}
