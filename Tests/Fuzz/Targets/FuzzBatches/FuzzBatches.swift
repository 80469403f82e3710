internal import CLibFuzzer
internal import Essentials
internal import NIOCore
internal import Records

private let limit = 1 << 20

@main
enum FuzzBatches {
    static func main() {
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        _ = LLVMFuzzerRunDriver(&count, &arguments, fuzz)
    }
}

/// Decodes the input as record batches, as it is, and again with what keeps most inputs from being
/// looked at closely made right: magic, length and checksum.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = ByteBuffer(bytes: UnsafeRawBufferPointer(start: data, count: count))
    check(input)
    guard count >= RecordBatchHeader.size else { return 0 }
    var whole = input
    whole.setInteger(Int32(clamping: count - RecordBatchHeader.lengthOverhead), at: 8)
    whole.setInteger(Int8(2), at: 16)
    let crc = whole.withUnsafeReadableBytes {
        CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[21...]))
    }
    whole.setInteger(crc, at: 17)
    check(whole)
    return 0
}

private func check(_ batches: ByteBuffer) {
    _ = try? RecordBatches.headers(of: batches)
    let read = try? records(batches, checksCRC: true)
    _ = try? records(batches, checksCRC: false)
    var rules = AppendRules(maxBatchBytes: limit, maxDecompressedBytes: limit)
    guard let kept = try? rules.apply(to: batches) else { return }
    invariant(kept.batches == batches, "a batch was changed")
    guard let read else { invariant(false, "a valid batch can't be read"); return }
    let count = kept.headers.reduce(0) { $0 + Int($1.recordCount) }
    invariant(read.count == count, "\(read.count) records of \(count)")
    // Stored in another codec it says the same.
    for codec in Compression.allCases {
        rules.compression = codec
        guard let stored = try? rules.apply(to: batches).batches else { continue }
        let again = try? records(stored, checksCRC: true)
        invariant(again == read, "the records change with the codec \(codec)")
    }
}

private func records(
    _ batches: ByteBuffer, checksCRC: Bool
) throws(RecordError) -> [Record] {
    var reader = RecordReader(
        batches, includesControlBatches: true, checksCRC: checksCRC, maxDecompressedBytes: limit)
    var records: [Record] = []
    while let record = try reader.next() { records.append(record) }
    return records
}
