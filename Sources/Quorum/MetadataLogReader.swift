package import Essentials
internal import NIOCore
package import Raft
internal import Records
package import Storage

/// One record of the metadata log or of a snapshot, for people to look at.
package struct MetadataLogEntry: Hashable, Sendable {
    package enum Content: Hashable, Sendable {
        /// The bytes of a metadata record.
        case record([UInt8])
        /// One of the quorum's own records: what it is called, and its fields as JSON.
        case control(type: String, json: String)
    }

    package var offset: Offset
    package var epoch: LeaderEpoch
    /// In milliseconds since 1970.
    package var timestamp: Int64
    package var content: Content
}

/// Reads the records in a file of the metadata log, without a node: a segment or a snapshot.
///
/// Every batch's checksum is compared, and only one is in memory at a time.
package struct MetadataLogReader {
    package let path: String
    /// The snapshot's end and epoch; `nil` for a segment.
    package let snapshot: SnapshotID?
    private var file: BatchFile
    private var nextOffset: Offset
    private var entries: ArraySlice<MetadataLogEntry> = []
    private var hasFooter = false

    /// - Throws: `QuorumError.unreadable` when the file is neither, going by its name.
    package init(path: String, fileSystem: any FileSystem = .local) throws(QuorumError) {
        self.path = path
        let name = path.split(separator: "/").last ?? ""
        snapshot = SnapshotFile.id(named: name)
        if snapshot != nil {
            nextOffset = 0
        } else if let base = Self.segmentBase(name) {
            nextOffset = base
        } else {
            throw .unreadable(
                path: path,
                reason: "a segment is called <20 digits>.log, a snapshot "
                    + "<20 digits>-<10 digits>\(SnapshotFile.suffix)")
        }
        do throws(FileError) {
            guard try fileSystem.size(of: path) != nil else {
                throw FileError("open", path, code: 2)
            }
            file = try BatchFile(path: path, fileSystem: fileSystem)
        } catch {
            throw .unreadable(path: path, reason: "\(error)")
        }
    }

    private static func segmentBase(_ name: some StringProtocol) -> Offset? {
        let digits = name.dropLast(4)
        guard name.hasSuffix(".log"), digits.utf8.count == 20,
            digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let base = Int64(digits)
        else { return nil }
        return Offset(base)
    }

    /// The next record; `nil` at the end of the file.
    ///
    /// - Throws: `QuorumError.unreadable`, which says from which byte on the file makes no sense;
    ///   what came before is true.
    package mutating func next() throws(QuorumError) -> MetadataLogEntry? {
        while true {
            if let entry = entries.popFirst() { return entry }
            guard let (header, bytes) = try nextBatch() else {
                guard snapshot == nil || hasFooter else {
                    throw unreadable("the snapshot's footer is missing, so it is not whole")
                }
                return nil
            }
            guard header.baseOffset == nextOffset else {
                throw unreadable(
                    "a batch begins at offset \(header.baseOffset) instead of \(nextOffset)")
            }
            nextOffset = header.nextOffset
            do throws(QuorumRecordError) {
                entries = try MetadataLogEntry.all(in: bytes, of: header)[...]
            } catch {
                throw unreadable(error.reason)
            }
            if let last = entries.last, case .control(let type, _) = last.content {
                hasFooter = type == ControlRecord.snapshotFooter.typeName
            }
        }
    }

    private mutating func nextBatch() throws(QuorumError) -> (RecordBatchHeader, ByteBuffer)? {
        do throws(BatchFile.Failure) {
            return try file.next()
        } catch {
            switch error {
            case .file(let error): throw unreadable("\(error)")
            case .flaw(let error, let position):
                throw unreadable("from byte \(position) on: \(error)")
            }
        }
    }

    private func unreadable(_ reason: String) -> QuorumError {
        .unreadable(path: path, reason: reason)
    }
}

extension MetadataLogEntry {
    /// The records of one whole batch, the quorum's own included.
    static func all(
        in batch: ByteBuffer, of header: RecordBatchHeader
    ) throws(QuorumRecordError) -> [MetadataLogEntry] {
        var entries: [MetadataLogEntry] = []
        do throws(RecordError) {
            var reader = RecordReader(batch, includesControlBatches: true, checksCRC: false)
            while let record = try reader.next() {
                entries.append(
                    MetadataLogEntry(
                        offset: record.offset, epoch: header.leaderEpoch,
                        timestamp: record.timestamp,
                        content: try content(of: record, isControl: header.isControl)))
            }
        } catch {
            throw QuorumRecordError(reason: "\(error)")
        }
        return entries
    }

    private static func content(
        of record: Record, isControl: Bool
    ) throws(RecordError) -> Content {
        guard isControl else {
            return .record(record.value.map { Array($0.readableBytesView) } ?? [])
        }
        do throws(ControlRecord.Malformed) {
            let control = try ControlRecord(key: record.key, value: record.value)
            return .control(type: control.typeName, json: control.json)
        } catch {
            throw .invalidHeader(error.description)
        }
    }
}
