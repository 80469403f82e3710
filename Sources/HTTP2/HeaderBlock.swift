/// Gathers the fields of the header block that is arriving, in memory taken once a connection.
///
/// Fields come one by one in a callback each, so this is plain memory rather than arrays, whose checks
/// would cost more than the copying. Bounds are checked here: nothing is kept beyond the limit.
final class HeaderBlock {
    private let limit: Int
    private let bytes: UnsafeMutableRawPointer
    private let fields: UnsafeMutablePointer<HTTP2Headers.Field>
    private var byteCount = 0
    private var fieldCount = 0
    /// Fields were left out, since the list would have been larger than the limit.
    private(set) var isTooLong = false

    /// - Parameter limit: of the list's size as HTTP/2 counts it, so a field takes 32 of it at least.
    init(limit: Int) {
        self.limit = max(0, limit)
        bytes = .allocate(byteCount: self.limit + 1, alignment: 1)
        fields = .allocate(capacity: self.limit / 32 + 1)
    }

    deinit {
        bytes.deallocate()
        fields.deallocate()
    }

    func start() {
        byteCount = 0
        fieldCount = 0
        isTooLong = false
    }

    func add(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        let size = byteCount + name.count + value.count
        guard !isTooLong, size + 32 * (fieldCount + 1) <= limit else {
            isTooLong = true
            return
        }
        if let source = name.baseAddress {
            (bytes + byteCount).copyMemory(from: source, byteCount: name.count)
        }
        if let source = value.baseAddress {
            (bytes + byteCount + name.count).copyMemory(from: source, byteCount: value.count)
        }
        let field = HTTP2Headers.Field(
            start: Int32(truncatingIfNeeded: byteCount),
            nameCount: Int32(truncatingIfNeeded: name.count),
            valueCount: Int32(truncatingIfNeeded: value.count), isIndexed: true)
        (fields + fieldCount).initialize(to: field)
        byteCount = size
        fieldCount += 1
    }

    /// The fields gathered since `start`.
    var headers: HTTP2Headers {
        HTTP2Headers(
            bytes: Array(UnsafeRawBufferPointer(start: bytes, count: byteCount)),
            fields: Array(UnsafeBufferPointer(start: fields, count: fieldCount)))
    }
}
