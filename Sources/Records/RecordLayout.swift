/// Where the parts of one record lie, as indexes into the bytes it was parsed from.
struct RecordLayout {
    var timestampDelta: Int64
    var offsetDelta: Int
    /// After the offset delta: the key's length.
    var afterOffset: Int
    var key: Range<Int>?
    var value: Range<Int>?
    var headerCount: Int
    /// The first header.
    var headers: Int
    /// After the record.
    var end: Int

    /// Parses the record at the cursor, without its headers, and leaves the cursor at those.
    @inline(__always)
    init(_ cursor: inout ByteCursor, index: Int) throws(RecordError) {
        do throws(ByteCursor.Overrun) {
            let length = try cursor.varint()
            guard length >= 0, length <= cursor.remaining else { throw ByteCursor.Overrun() }
            end = cursor.position + length
            _ = try cursor.byte()  // attributes: none are defined
            timestampDelta = try cursor.varlong()
            offsetDelta = try cursor.varint()
            afterOffset = cursor.position
            key = try Self.range(&cursor)
            value = try Self.range(&cursor)
            headerCount = try cursor.varint()
            headers = cursor.position
        } catch {
            throw .invalidRecord(index: index, "a length does not fit")
        }
        guard headerCount >= 0 else {
            throw .invalidRecord(index: index, "negative header count")
        }
        guard headers <= end else {
            throw .invalidRecord(index: index, "it is longer than its length")
        }
    }

    /// Moves the cursor over the headers to the record's end, telling `each` where they lie.
    @inline(__always)
    func walkHeaders(
        _ cursor: inout ByteCursor, index: Int,
        _ each: (_ name: Range<Int>, _ value: Range<Int>?) -> Void
    ) throws(RecordError) {
        var rest = headerCount
        while rest > 0 {
            rest -= 1
            do throws(ByteCursor.Overrun) {
                guard let name = try Self.range(&cursor) else { throw ByteCursor.Overrun() }
                each(name, try Self.range(&cursor))
            } catch {
                throw .invalidRecord(index: index, "a header's length does not fit")
            }
        }
        guard cursor.position == end else {
            throw .invalidRecord(index: index, "its parts don't add up to its length")
        }
    }

    /// The bytes that follow a length; `nil` for length -1.
    @inline(__always)
    private static func range(
        _ cursor: inout ByteCursor
    ) throws(ByteCursor.Overrun) -> Range<Int>? {
        let length = try cursor.varint()
        guard length >= 0 else {
            guard length == -1 else { throw ByteCursor.Overrun() }
            return nil
        }
        let start = cursor.position
        try cursor.skip(length)
        return start..<cursor.position
    }
}
