internal import Essentials
internal import Metadata
internal import Protocol
internal import Quorum
internal import RPC

/// A look at the metadata itself: the image as a tree, the log record by record.
extension AdminServices {
    /// Records in one answer, at most and if the caller does not say.
    private static let maxDumpedRecords = 10_000
    private static let defaultDumpedRecords = 1_000

    func showMetadata(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireShowMetadataRequest.self)
        guard wire.path.isEmpty || wire.path.hasPrefix("/") else {
            throw RPCError(
                .invalidRequest, "a path begins with '/': /\(wire.path) instead of \(wire.path)")
        }
        read(call) { image throws(RPCError) in
            var answer = WireShowMetadataResponse()
            answer.path = wire.path.isEmpty ? "/" : wire.path
            answer.offset = image.nextOffset.rawValue
            do throws(MetadataPathError) {
                switch try MetadataTree(image).node(at: wire.path) {
                case .directory(let entries): answer.entries = entries
                case .value(let json): answer.value = json
                }
            } catch {
                throw RPCError(.resourceNotFound, error.message)
            }
            return answer
        }
    }

    func dumpMetadata(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireDumpMetadataRequest.self)
        let count =
            wire.maxRecords > 0
            ? min(Int(wire.maxRecords), Self.maxDumpedRecords) : Self.defaultDumpedRecords
        read(call) { [quorum] _ throws(RPCError) in
            let page: QuorumLogPage
            do throws(QuorumError) {
                page = try quorum.readLog(
                    from: wire.hasFromOffset ? Offset(wire.fromOffset) : nil, maxRecords: count)
            } catch {
                throw RPCError(error.code, "\(error)")
            }
            var answer = WireDumpMetadataResponse()
            answer.records = page.entries.map(WireDumpedRecord.init)
            answer.nextOffset = page.nextOffset.rawValue
            answer.highWatermark = page.highWatermark.rawValue
            answer.logStartOffset = page.logStartOffset.rawValue
            return answer
        }
    }
}

extension WireDumpedRecord {
    fileprivate init(_ entry: MetadataLogEntry) {
        self.init()
        offset = entry.offset.rawValue
        epoch = entry.epoch.rawValue
        timestamp = entry.timestamp
        switch entry.content {
        case .control(let name, let json):
            type = name
            value = json
        case .record(let bytes):
            do throws(MetadataError) {
                let record = try MetadataRecord(decoding: bytes)
                type = record.typeName
                value = record.json
            } catch {
                // A committed record that is unreadable stops a node; who looks at it may be on its trail.
                type = "unreadable"
                value = "{}"
            }
        }
    }
}
