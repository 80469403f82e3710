internal import Essentials
internal import NIOCore
package import Raft
internal import Records
package import Storage

/// Reads a snapshot from its start to its footer, one batch in memory at a time.
///
/// Whatever is not as `SnapshotWriter` writes it is refused: a wrong checksum, a gap, bytes behind the
/// footer, and above all a snapshot without one. What was read before may be used only when `next`
/// has returned `nil`.
package struct SnapshotReader: Sendable {
    package let path: String
    package let id: SnapshotID
    /// The voter set in force at its end.
    package private(set) var voters: VoterSet?
    /// When the last record it replaces was appended, in milliseconds since 1970.
    package private(set) var lastContainedTimestamp: Int64 = -1
    /// Of the whole file.
    package var byteCount: Int { file.size }

    private var file: BatchFile
    private var nextOffset: Offset = 0
    private var records: RecordReader?
    private var isFinished = false

    /// Opens a snapshot and reads what stands before its records.
    package init(
        path: String, fileSystem: any FileSystem = .local
    ) throws(QuorumError) {
        let name = path.split(separator: "/").last ?? ""
        guard let id = SnapshotFile.id(named: name) else {
            throw .damagedSnapshot(
                path: path,
                reason: "snapshots are named by 20 digits, a dash, 10 digits and "
                    + SnapshotFile.suffix)
        }
        try self.init(id, path: path, fileSystem: fileSystem)
    }

    /// Opens what is to become the snapshot `id`, under whatever name it has now.
    init(_ id: SnapshotID, path: String, fileSystem: any FileSystem) throws(QuorumError) {
        self.path = path
        self.id = id
        do throws(FileError) {
            file = try BatchFile(path: path, fileSystem: fileSystem)
        } catch {
            throw .storage(.io(error))
        }
        guard let first = try control(), case .snapshotHeader(let timestamp)? = first.first else {
            throw damaged("it does not begin with a snapshot header")
        }
        lastContainedTimestamp = timestamp
        var rest = first.dropFirst()
        while true {
            for record in rest {
                switch record {
                case .voters(let set): voters = set
                case .snapshotFooter: isFinished = true
                case .other: break
                case .snapshotHeader, .leaderChange:
                    throw damaged("a \(record.typeName) record is out of place")
                }
            }
            if isFinished || records != nil { break }
            guard let more = try control() else { break }
            rest = more[...]
        }
        if isFinished { try checkEnd() }
    }

    /// The next record; `nil` once the footer was found at the end of the file.
    package mutating func next() throws(QuorumError) -> [UInt8]? {
        while !isFinished {
            if let record = try nextOfBatch() {
                return record.value.map { Array($0.readableBytesView) } ?? []
            }
            records = nil
            guard let control = try control() else { continue }
            guard control == [.snapshotFooter] else {
                throw damaged("a \(control.first?.typeName ?? "control") record is out of place")
            }
            isFinished = true
            try checkEnd()
        }
        return nil
    }

    /// Reads all that is left, and throws unless the snapshot is whole.
    package mutating func finish() throws(QuorumError) {
        while try next() != nil {}
    }

    private mutating func nextOfBatch() throws(QuorumError) -> Record? {
        do throws(RecordError) {
            return try records?.next()
        } catch {
            throw damaged("\(error)")
        }
    }

    /// Goes on to the next batch; its records if it is a control batch, otherwise `records` reads it.
    private mutating func control() throws(QuorumError) -> [ControlRecord]? {
        guard let (header, bytes) = try nextBatch() else {
            throw damaged("it ends at byte \(file.position) without a footer")
        }
        guard header.baseOffset == nextOffset else {
            throw damaged("a batch begins at \(header.baseOffset) instead of \(nextOffset)")
        }
        nextOffset = header.nextOffset
        guard header.isControl else {
            records = RecordReader(bytes, checksCRC: false)
            return nil
        }
        do throws(QuorumRecordError) {
            return try ControlRecord.all(in: bytes)
        } catch {
            throw damaged(error.reason)
        }
    }

    private mutating func nextBatch() throws(QuorumError) -> (RecordBatchHeader, ByteBuffer)? {
        do throws(BatchFile.Failure) {
            return try file.next()
        } catch {
            switch error {
            case .file(let error): throw .storage(.io(error))
            case .flaw(let error, let position): throw damaged("at byte \(position): \(error)")
            }
        }
    }

    private mutating func checkEnd() throws(QuorumError) {
        guard file.position == file.size else {
            throw damaged("bytes follow its footer")
        }
    }

    private func damaged(_ reason: String) -> QuorumError {
        .damagedSnapshot(path: path, reason: reason)
    }
}
