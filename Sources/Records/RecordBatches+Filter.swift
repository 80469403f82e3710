package import Essentials
package import NIOCore

/// One record as compaction sees it, without copies.
package struct RecordSummary {
    package let offset: Offset
    /// `nil` for a record without one.
    package let key: UnsafeRawBufferPointer?
    /// Whether the record says that its key is deleted.
    package let isTombstone: Bool
}

/// What is left of a batch.
package enum FilteredBatch {
    /// All of it, byte for byte.
    case unchanged
    /// Fewer records, or a new delete horizon.
    case changed(ByteBuffer, RecordBatchHeader)
    /// No record at all.
    case emptied
}

extension RecordBatches {
    /// Shows `body` every record of a whole batch, in order, until it returns false.
    ///
    /// The checksum is the caller's to check.
    package static func forEachRecord(
        of batch: ByteBuffer, _ header: RecordBatchHeader,
        _ body: (RecordSummary) -> Bool
    ) throws(RecordError) {
        try records(of: batch, header).withBytes { bytes throws(RecordError) in
            var cursor = ByteCursor(bytes)
            for index in 0..<Int(header.recordCount) {
                let (summary, _) = try summary(of: bytes, &cursor, index, header)
                guard body(summary) else { return }
            }
        }
    }

    /// A whole batch with those of its records that `isKept` is true for.
    ///
    /// The batch keeps its offsets, epoch, producer, sequences and codec, and each record its offset and
    /// timestamp, whatever is left of it.
    /// - Parameter deleteHorizon: when tombstones and markers in it may go, in milliseconds since 1970
    ///   (KIP-534), for a batch that doesn't say so yet and has some left; a compressed one that would
    ///   become larger than readers take goes without.
    package static func filtering(
        _ batch: ByteBuffer, _ header: RecordBatchHeader, deleteHorizon: Int64?,
        maxDecompressedBytes: Int = Compression.maxDecompressedBytes,
        isKept: (RecordSummary) -> Bool
    ) throws(RecordError) -> FilteredBatch {
        let horizon = header.deleteHorizon == nil ? deleteHorizon : nil
        return try records(of: batch, header).withBytes { bytes throws(RecordError) in
            var kept: [(layout: RecordLayout, range: Range<Int>)] = []
            var needsHorizon = false
            var maxTimestamp = Int64(-1)
            var cursor = ByteCursor(bytes)
            for index in 0..<Int(header.recordCount) {
                let start = cursor.position
                let (summary, layout) = try summary(of: bytes, &cursor, index, header)
                guard isKept(summary) else { continue }
                if summary.isTombstone || header.isControl { needsHorizon = true }
                maxTimestamp = max(maxTimestamp, header.baseTimestamp &+ layout.timestampDelta)
                kept.append((layout, start..<cursor.position))
            }
            guard !kept.isEmpty else { return .emptied }
            var newBase = needsHorizon ? horizon : nil
            let codec = header.compression ?? .none
            var new = header
            var output = ByteBuffer()
            if let base = newBase {
                output.reserveCapacity(kept.reduce(0) { $0 + $1.range.count + 20 })
                let shift = header.baseTimestamp &- base
                for (layout, range) in kept {
                    layout.write(
                        UnsafeRawBufferPointer(rebasing: bytes[range]), from: range.lowerBound,
                        timestampDelta: layout.timestampDelta &+ shift, to: &output)
                }
                if codec != .none, output.readableBytes > maxDecompressedBytes {
                    newBase = nil
                    output = ByteBuffer()
                } else {
                    new.attributes |= RecordBatchHeader.Attribute.deleteHorizon
                    new.baseTimestamp = base
                }
            }
            if newBase == nil {
                if kept.count == Int(header.recordCount) { return .unchanged }
                output.reserveCapacity(kept.reduce(0) { $0 + $1.range.count })
                for (_, range) in kept { output.writeBytes(bytes[range]) }
            }
            new.recordCount = Int32(clamping: kept.count)
            if header.timestampType == .createTime { new.maxTimestamp = maxTimestamp }
            let (batch, sealed) = output.withUnsafeReadableBytes { sealing($0, new, with: codec) }
            return .changed(batch, sealed)
        }
    }

    /// What is left of a batch without records that is still needed for its producer's sequences.
    ///
    /// It is part of no transaction any more: none of its marker's effects are left.
    package static func emptied(_ header: RecordBatchHeader) -> (ByteBuffer, RecordBatchHeader) {
        var header = header
        header.attributes &= RecordBatchHeader.Attribute.logAppendTime
        header.recordCount = 0
        return sealing(UnsafeRawBufferPointer(start: nil, count: 0), header, with: .none)
    }

    /// A batch without records that stands for the offsets of some that were removed.
    ///
    /// - Parameter epoch: the leader epoch of all that it stands for.
    package static func placeholder(
        _ offsets: Range<Offset>, epoch: LeaderEpoch
    ) -> (ByteBuffer, RecordBatchHeader) {
        let count = offsets.upperBound - offsets.lowerBound
        invariant((1...Int64(Int32.max)).contains(count), "a placeholder for \(count) offsets")
        var header = RecordBatchHeader(
            attributes: 0, recordCount: 0, baseTimestamp: -1, maxTimestamp: -1,
            baseOffset: offsets.lowerBound, leaderEpoch: epoch)
        header.lastOffsetDelta = Int32(clamping: count - 1)
        return sealing(UnsafeRawBufferPointer(start: nil, count: 0), header, with: .none)
    }

    /// The batches, of which the first, if it is a placeholder, begins at `offset` at the earliest.
    ///
    /// Replicas are compacted one by one, so that a leader's placeholder may begin below the end of a
    /// follower's log.
    package static func trimmingPlaceholder(_ batches: ByteBuffer, to offset: Offset) -> ByteBuffer
    {
        guard let header = try? RecordBatchHeader(batches, at: batches.readerIndex),
            header.isPlaceholder, header.baseOffset < offset, header.nextOffset > offset,
            let bytes = batches.getSlice(at: batches.readerIndex, length: header.totalSize),
            (try? bytes.withBytes { (bytes) throws(RecordError) in try header.checkCRC(bytes) })
                != nil
        else { return batches }
        var (trimmed, _) = placeholder(offset..<header.nextOffset, epoch: header.leaderEpoch)
        var rest = batches
        rest.moveReaderIndex(forwardBy: header.totalSize)
        trimmed.writeBuffer(&rest)
        return trimmed
    }

    // MARK: Parts

    private static func records(
        of batch: ByteBuffer, _ header: RecordBatchHeader
    ) throws(RecordError) -> ByteBuffer {
        let stored = batch.getSlice(
            at: batch.readerIndex + RecordBatchHeader.size,
            length: header.totalSize - RecordBatchHeader.size)
        guard let stored else {
            throw .incomplete(needed: header.totalSize, available: batch.readableBytes)
        }
        guard let codec = header.compression, codec != .none, header.recordCount > 0 else {
            return stored
        }
        return try stored.withBytes { bytes throws(RecordError) in try codec.decompress(bytes) }
    }

    @inline(__always)
    private static func summary(
        of bytes: UnsafeRawBufferPointer, _ cursor: inout ByteCursor, _ index: Int,
        _ header: RecordBatchHeader
    ) throws(RecordError) -> (RecordSummary, RecordLayout) {
        let layout = try RecordLayout(&cursor, index: index)
        guard (0...Int(header.lastOffsetDelta)).contains(layout.offsetDelta) else {
            throw .invalidRecord(index: index, "its offset lies outside its batch")
        }
        do throws(ByteCursor.Overrun) {
            try cursor.skip(layout.end - cursor.position)
        } catch {
            throw .invalidRecord(index: index, "a length does not fit")
        }
        let summary = RecordSummary(
            offset: header.baseOffset + Int64(layout.offsetDelta),
            key: layout.key.map { UnsafeRawBufferPointer(rebasing: bytes[$0]) },
            isTombstone: layout.value == nil && !header.isControl)
        return (summary, layout)
    }
}

extension RecordBatchHeader {
    /// When tombstones and markers in the batch may go, in milliseconds since 1970; `nil` while that is
    /// open.
    package var deleteHorizon: Int64? {
        attributes & Attribute.deleteHorizon == 0 ? nil : baseTimestamp
    }

    /// Whether the batch only stands for offsets whose records were removed.
    package var isPlaceholder: Bool { recordCount == 0 && producerID < 0 && !isControl }
}

extension RecordLayout {
    /// Writes the record anew with another timestamp delta.
    ///
    /// - Parameters:
    ///   - record: its bytes.
    ///   - start: what its layout's ranges count from.
    fileprivate func write(
        _ record: UnsafeRawBufferPointer, from start: Int, timestampDelta: Int64,
        to output: inout ByteBuffer
    ) {
        // What follows the offset delta is copied; what lies before it is of known size.
        let rest = UnsafeRawBufferPointer(rebasing: record[(afterOffset - start)...])
        let length =
            1 + Varint.size(timestampDelta) + Varint.size(Int64(offsetDelta)) + rest.count
        output.writeWithUnsafeMutableBytes(minimumWritableBytes: length + 5) { bytes in
            var position = 0
            Varint.write(Int64(length), to: bytes, at: &position)
            bytes[position] = 0
            position += 1
            Varint.write(timestampDelta, to: bytes, at: &position)
            Varint.write(Int64(offsetDelta), to: bytes, at: &position)
            UnsafeMutableRawBufferPointer(rebasing: bytes[position...]).copyMemory(from: rest)
            return position + rest.count
        }
    }
}
