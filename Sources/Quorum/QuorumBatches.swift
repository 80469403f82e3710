internal import Essentials
internal import Foundation
internal import NIOCore
internal import Raft
internal import Records
internal import Storage

/// The record batches of the metadata log: decisions, and the control batch that starts an epoch.
enum QuorumBatches {
    /// The control record type of a leader change (KIP-595).
    private static let leaderChangeType: Int16 = 2

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

    /// Kafka's LeaderChangeMessage, version 0: who leads, of which voters, elected by whom.
    static func leaderChange(_ change: LeaderChange) -> ByteBuffer {
        var key = ByteBuffer()
        key.writeInteger(Int16(0))
        key.writeInteger(leaderChangeType)
        var value = ByteBuffer()
        value.writeInteger(Int16(0))
        value.writeInteger(change.leader.rawValue)
        for voters in [change.voters, change.grantingVoters] {
            // A compact array: its count plus one; each element, and the whole, end in no tags.
            value.writeInteger(UInt8(clamping: voters.count + 1))
            for voter in voters {
                value.writeInteger(voter.rawValue)
                value.writeInteger(UInt8(0))
            }
        }
        value.writeInteger(UInt8(0))
        var builder = RecordBatchBuilder(isControl: true)
        builder.append(key: key, value: value, timestamp: now)
        return builder.finish()
    }

    /// The spans of whole batches, for the state machine.
    static func spans(of batches: ByteBuffer) throws(RecordError) -> [BatchSpan] {
        try RecordBatches.headers(of: batches).map {
            BatchSpan(baseOffset: $0.baseOffset, lastOffset: $0.lastOffset, epoch: $0.leaderEpoch)
        }
    }

    /// The batches in `bytes`, each with its records' values.
    static func committed(in bytes: ByteBuffer) throws(RecordError) -> [CommittedBatch] {
        var index = bytes.readerIndex
        var batches: [CommittedBatch] = []
        for header in try RecordBatches.headers(of: bytes) {
            var batch = CommittedBatch(
                baseOffset: header.baseOffset, nextOffset: header.nextOffset,
                epoch: header.leaderEpoch, appendTimestamp: header.maxTimestamp, records: [])
            if !header.isControl,
                let slice = bytes.getSlice(at: index, length: header.totalSize)
            {
                var reader = RecordReader(slice)
                while let record = try reader.next() {
                    batch.records.append(record.value.map { Array($0.readableBytesView) } ?? [])
                }
            }
            index += header.totalSize
            batches.append(batch)
        }
        return batches
    }
}
