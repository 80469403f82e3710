import NIOCore
import Records

func records(_ buffer: ByteBuffer) throws -> [Record] {
    var reader = RecordReader(buffer, includesControlBatches: true)
    var records: [Record] = []
    while let record = try reader.next() { records.append(record) }
    return records
}

/// `batch` with one field written over and the checksum made right again.
func patched<T: FixedWidthInteger>(
    _ batch: ByteBuffer, _ value: T, at index: Int
) -> ByteBuffer {
    var batch = batch
    batch.setInteger(value, at: index)
    return checksummed(batch)
}

/// `batch` with the checksum that its bytes have.
func checksummed(_ batch: ByteBuffer) -> ByteBuffer {
    var batch = batch
    let crc = batch.withUnsafeReadableBytes {
        CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[21...]))
    }
    batch.setInteger(crc, at: 17)
    return batch
}

func validationError(_ buffer: ByteBuffer, limit: Int = 1_000_000) -> RecordError? {
    do throws(RecordError) {
        _ = try RecordBatches.validateForAppend(buffer, maxBatchBytes: limit)
        return nil
    } catch {
        return error
    }
}
