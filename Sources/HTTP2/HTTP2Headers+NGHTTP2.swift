internal import CNghttp2

extension HTTP2Headers {
    /// Lends the fields in the form nghttp2 takes; it copies what it needs before `body` returns.
    func withFields<Result>(
        _ body: (UnsafePointer<nghttp2_nv>?, Int) -> Result
    ) -> Result {
        guard !fields.isEmpty else { return body(nil, 0) }
        return bytes.withUnsafeBufferPointer { bytes in
            guard let base = bytes.baseAddress else { return body(nil, 0) }
            // nghttp2 reads names and values only, in spite of its mutable pointers.
            let start = UnsafeMutablePointer(mutating: base)
            return withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: fields.count) {
                list in
                for (index, field) in fields.enumerated() {
                    let name = start + Int(field.start)
                    let flags = field.isIndexed ? NGHTTP2_NV_FLAG_NONE : NGHTTP2_NV_FLAG_NO_INDEX
                    list.initializeElement(
                        at: index,
                        to: nghttp2_nv(
                            name: name, value: name + Int(field.nameCount),
                            namelen: Int(field.nameCount), valuelen: Int(field.valueCount),
                            flags: UInt8(flags.rawValue)))
                }
                return body(list.baseAddress.map { UnsafePointer($0) }, fields.count)
            }
        }
    }
}
