internal import Essentials
internal import NIOCore
package import Raft
internal import Records
package import Storage

/// Writes a snapshot of the metadata: record batches in Kafka's layout (KIP-630).
///
/// A control batch with the header, one with the voters, data batches, and last a control batch with
/// the footer. Base offsets run on from 0 without a gap, so that a missing piece shows. It is written
/// under another name, and gets its own only when all of it is durable. The same state gives the same
/// bytes on every node.
///
/// A value for one thread; only one batch is in memory.
package struct SnapshotWriter {
    /// A batch that has grown to this is written.
    private static let batchBytes = 256 << 10

    package let id: SnapshotID
    private let folder: String
    private let timestamp: Int64
    private let fileSystem: any FileSystem
    private let file: any File
    private var batch = RecordBatchBuilder()
    private var nextOffset: Offset = 0
    /// The bytes written.
    package private(set) var size = 0

    /// Begins a snapshot in the folder of the metadata log.
    ///
    /// - Parameters:
    ///   - voters: the voter set in force at its end; `nil` if the log had none.
    ///   - timestamp: when the last record it replaces was appended, in milliseconds since 1970.
    package init(
        _ id: SnapshotID, in folder: String, voters: VoterSet?, timestamp: Int64,
        fileSystem: any FileSystem = .local
    ) throws(QuorumError) {
        self.id = id
        self.folder = folder
        self.timestamp = timestamp
        self.fileSystem = fileSystem
        do throws(FileError) {
            try fileSystem.makeDirectories(folder)
            file = try fileSystem.open("\(folder)/\(SnapshotFile.partName(of: id))", .create)
        } catch {
            throw .storage(.io(error))
        }
        do throws(QuorumError) {
            try write(ControlRecord.snapshotHeader(lastContainedTimestamp: timestamp))
            if let voters { try write(ControlRecord.voters(voters)) }
        } catch {
            abandon()
            throw error
        }
    }

    /// Adds a record; they are read back in this order.
    package mutating func append(_ record: [UInt8]) throws(QuorumError) {
        if batch.recordCount > 0, batch.byteCount + record.count > Self.batchBytes {
            try flush()
        }
        batch.append(key: [UInt8]?.none, value: record, timestamp: timestamp)
    }

    /// Ends the snapshot; it is durable, and under its name, when this returns.
    package mutating func finish() throws(QuorumError) {
        try flush()
        try write(ControlRecord.snapshotFooter)
        do throws(FileError) {
            try file.sync()
            try SnapshotWriter.publish(id, in: folder, fileSystem)
        } catch {
            throw .storage(.io(error))
        }
    }

    /// Removes what was written so far.
    package func abandon() {
        try? fileSystem.remove("\(folder)/\(SnapshotFile.partName(of: id))")
    }

    /// Gives a snapshot that is whole and durable its name.
    static func publish(
        _ id: SnapshotID, in folder: String, _ fileSystem: any FileSystem
    ) throws(FileError) {
        try fileSystem.rename(
            "\(folder)/\(SnapshotFile.partName(of: id))",
            to: "\(folder)/\(SnapshotFile.name(of: id))")
        try fileSystem.syncDirectory(folder)
    }

    private mutating func write(_ record: ControlRecord) throws(QuorumError) {
        var control = record.batch(timestamp: timestamp)
        try write(control.finish(baseOffset: nextOffset, leaderEpoch: id.epoch), recordCount: 1)
    }

    private mutating func flush() throws(QuorumError) {
        guard !batch.isEmpty else { return }
        let count = batch.recordCount
        try write(
            batch.finish(baseOffset: nextOffset, leaderEpoch: id.epoch), recordCount: count)
    }

    private mutating func write(_ bytes: ByteBuffer, recordCount: Int) throws(QuorumError) {
        do throws(FileError) {
            try file.write(bytes, at: size)
        } catch {
            throw .storage(.io(error))
        }
        size += bytes.readableBytes
        nextOffset += Int64(recordCount)
    }
}

/// What a controller's first start finds: the voters of the new cluster, and its first records.
///
/// The snapshot's end is offset 0, so it replaces nothing and is never handed to another node. The
/// first leader writes what it says into the log.
package enum BootstrapSnapshot {
    package static let id = SnapshotID(endOffset: 0, epoch: 0)

    /// Writes the snapshot into a metadata log directory that holds no metadata yet.
    ///
    /// - Parameters:
    ///   - voters: `nil` for a controller that joins a quorum later.
    ///   - timestamp: now, in milliseconds since 1970.
    package static func write(
        to metadataDirectory: String, voters: VoterSet?, records: [[UInt8]], timestamp: Int64 = 0,
        fileSystem: any FileSystem = .local
    ) throws(QuorumError) {
        var writer = try SnapshotWriter(
            id, in: "\(metadataDirectory)/\(LogDirectory.metadataFolder)", voters: voters,
            timestamp: timestamp, fileSystem: fileSystem)
        do throws(QuorumError) {
            for record in records { try writer.append(record) }
            try writer.finish()
        } catch {
            writer.abandon()
            throw error
        }
    }
}
