internal import Essentials
internal import Foundation
internal import NIOCore
internal import Raft
internal import Records
internal import Storage

/// The record batches of the metadata log: decisions, and the control batch that starts an epoch.
enum QuorumBatches {
    private static var now: Int64 { Int64(Date().timeIntervalSince1970 * 1000) }

    /// One batch of these records, which apply together or not at all.
    static func data(_ records: [[UInt8]]) -> ByteBuffer {
        var builder = RecordBatchBuilder(
            capacity: 128 + records.reduce(0) { $0 + $1.count + 16 })
        let now = now
        for record in records {
            builder.append(key: nil, value: ByteBuffer(bytes: record), timestamp: now)
        }
        return builder.finish()
    }

    /// Who leads, of which voters, elected by whom.
    static func leaderChange(_ change: LeaderChange) -> ByteBuffer {
        var batch = ControlRecord.leaderChange(
            leader: change.leader, voters: change.voters, grantingVoters: change.grantingVoters
        ).batch(timestamp: now)
        return batch.finish()
    }

    /// The voter set from this record on.
    static func voters(_ set: VoterSet) -> ByteBuffer {
        var batch = ControlRecord.voters(set).batch(timestamp: now)
        return batch.finish()
    }

    /// The spans of whole batches, for the state machine.
    static func spans(of batches: ByteBuffer) throws(QuorumRecordError) -> [BatchSpan] {
        var index = batches.readerIndex
        var spans: [BatchSpan] = []
        for header in try headers(of: batches) {
            var span = BatchSpan(
                baseOffset: header.baseOffset, lastOffset: header.lastOffset,
                epoch: header.leaderEpoch)
            if header.isControl, let batch = batches.getSlice(at: index, length: header.totalSize) {
                span.voters = try voters(in: batch)
            }
            index += header.totalSize
            spans.append(span)
        }
        return spans
    }

    private static func headers(
        of batches: ByteBuffer
    ) throws(QuorumRecordError) -> [RecordBatchHeader] {
        do throws(RecordError) {
            return try RecordBatches.headers(of: batches)
        } catch {
            throw QuorumRecordError(reason: "\(error)")
        }
    }

    /// The voter set in a control batch, if it holds one.
    private static func voters(in batch: ByteBuffer) throws(QuorumRecordError) -> VoterSet? {
        for record in try ControlRecord.all(in: batch) {
            if case .voters(let set) = record { return set }
        }
        return nil
    }

    /// Each of the whole batches in `bytes`, checksums checked.
    static func wholeBatches(
        in bytes: ByteBuffer
    ) throws(QuorumRecordError) -> [(header: RecordBatchHeader, bytes: ByteBuffer)] {
        var index = bytes.readerIndex
        var batches: [(header: RecordBatchHeader, bytes: ByteBuffer)] = []
        for header in try headers(of: bytes) {
            if let batch = bytes.getSlice(at: index, length: header.totalSize) {
                batches.append((header, batch))
            }
            index += header.totalSize
        }
        return batches
    }

    /// The batches in `bytes`, each with its records' values.
    static func committed(in bytes: ByteBuffer) throws(QuorumRecordError) -> [CommittedBatch] {
        try wholeBatches(in: bytes).map { header, bytes throws(QuorumRecordError) in
            CommittedBatch(
                baseOffset: header.baseOffset, nextOffset: header.nextOffset,
                epoch: header.leaderEpoch, appendTimestamp: header.maxTimestamp,
                records: header.isControl ? [] : try values(in: bytes))
        }
    }

    private static func values(in batch: ByteBuffer) throws(QuorumRecordError) -> [[UInt8]] {
        do throws(RecordError) {
            var values: [[UInt8]] = []
            var reader = RecordReader(batch, checksCRC: false)
            while let record = try reader.next() {
                values.append(record.value.map { Array($0.readableBytesView) } ?? [])
            }
            return values
        } catch {
            throw QuorumRecordError(reason: "\(error)")
        }
    }
}
