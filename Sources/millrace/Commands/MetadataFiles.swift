import Essentials
import Metadata
import Millrace
import Quorum
import Raft

/// The metadata log's files, read without a node.
enum MetadataFiles {
    /// What lies at a path of the metadata that a snapshot holds.
    static func content(
        at path: String, inSnapshot file: String
    ) throws -> (content: MetadataEntry.Content, end: Int64) {
        var reader = try SnapshotReader(path: file)
        var builder = MetadataImageBuilder()
        do {
            while let record = try reader.next() {
                try builder.add(MetadataRecord(decoding: record))
            }
        } catch let error as MetadataError {
            throw CommandFailure(
                "\(file) holds a record that makes no sense (\(error)); was it written by a newer "
                    + "release?")
        }
        let image = builder.finish(endOffset: reader.id.endOffset, epoch: reader.id.epoch)
        do throws(MetadataPathError) {
            let content: MetadataEntry.Content =
                switch try MetadataTree(image).node(at: path) {
                case .directory(let names): .directory(names)
                case .value(let json): .value(json)
                }
            return (content, reader.id.endOffset.rawValue)
        } catch {
            throw CommandFailure(error.message)
        }
    }

    /// Hands every record of a log segment or snapshot from `offset` on to `body`,
    /// until that wants no more.
    ///
    /// - Throws: where the file makes no sense; what came before has been handed over.
    static func read(
        _ file: String, from offset: Int64, _ body: (DumpedRecord) throws -> Bool
    ) throws {
        var reader = try MetadataLogReader(path: file)
        while let entry = try reader.next() {
            guard entry.offset.rawValue >= offset else { continue }
            var record = DumpedRecord(
                offset: entry.offset.rawValue, epoch: entry.epoch.rawValue,
                timestamp: entry.timestamp, type: "", value: "")
            switch entry.content {
            case .control(let type, let json):
                record.type = type
                record.value = json
            case .record(let bytes):
                let decoded: MetadataRecord
                do throws(MetadataError) {
                    decoded = try MetadataRecord(decoding: bytes)
                } catch {
                    throw CommandFailure(
                        "\(file): the record at offset \(entry.offset) makes no sense (\(error)); "
                            + "was it written by a newer release?")
                }
                record.type = decoded.typeName
                record.value = decoded.json
            }
            guard try body(record) else { return }
        }
    }
}
