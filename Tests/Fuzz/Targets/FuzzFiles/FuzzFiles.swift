internal import CLibFuzzer
internal import Essentials
internal import NIOCore
internal import Records
@testable internal import Storage

@main
enum FuzzFiles {
    static func main() {
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        _ = LLVMFuzzerRunDriver(&count, &arguments, fuzz)
    }
}

/// Decodes the input as one of the files that stand beside a log's segments; its first byte says which.
///
/// Each is tried as it is, and again with its checksum made right. What is accepted has to be the same
/// once written and read again.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = [UInt8](UnsafeRawBufferPointer(start: data, count: count))
    guard let kind = input.first else { return 0 }
    let bytes = Array(input.dropFirst())
    switch kind % 8 {
    case 0: checkIndex(bytes)
    case 1: checkText(bytes) { bytes in EpochCache(decoding: bytes).map { $0.encoded } }
    case 2: checkText(bytes) { bytes in checkpoints(bytes) }
    case 3: check(bytes) { CleanShutdownMark(decoding: $0)?.encoded }
    case 4: check(bytes) { PartitionMetadata(decoding: $0)?.encoded }
    case 5: _ = try? MetaProperties.parse(String(decoding: bytes, as: UTF8.self), path: "")
    case 6: checkProducers(bytes)
    default: check(bytes) { TransactionIndex(decoding: $0)?.encoded }
    }
    return 0
}

/// What is decoded and encoded again stays as it is from then on.
private func check(_ bytes: [UInt8], _ again: ([UInt8]) -> [UInt8]?) {
    guard let once = again(bytes) else { return }
    let twice = again(once)
    invariant(twice == once, "it changes as it is read and written again")
}

private func checkText(_ bytes: [UInt8], _ again: ([UInt8]) -> [UInt8]?) {
    check(bytes, again)
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map { String($0) }
    check(CheckpointText.encode(lines, version: 0), again)
}

private func checkpoints(_ bytes: [UInt8]) -> [UInt8]? {
    // No name of a folder has one, and to Swift it is one character with the line's end.
    guard !bytes.contains(0x0d) else { return nil }
    return CheckpointText.lines(of: bytes, version: 0).map { lines in
        CheckpointText.encode(lines.map { $0.joined(separator: " ") }, version: 0)
    }
}

/// The input's first bytes say how it is split into the two files.
private func checkIndex(_ bytes: [UInt8]) {
    guard bytes.count >= 3 else { return }
    let size = 1 << 20
    let base = Offset(Int64(bytes[0]))
    let rest = bytes.dropFirst(2)
    let split = rest.startIndex + Int(bytes[1]) * rest.count / 256
    let parts = [Array(rest[..<split]), Array(rest[split...])]
    func look(_ offsets: [UInt8], _ times: [UInt8]) {
        guard
            let index = SegmentIndex(
                offsets: offsets, times: times, baseOffset: base, segmentSize: size)
        else { return }
        // Whoever uses it must be able to.
        for entry in index.offsets.prefix(16) {
            _ = index.position(for: base + Int64(entry.relativeOffset))
        }
        for entry in index.times.prefix(16) { _ = index.offset(before: entry.timestamp) }
        let (newOffsets, newTimes) = index.encoded(segmentSize: size)
        let again = SegmentIndex(
            offsets: newOffsets, times: newTimes, baseOffset: base, segmentSize: size)
        invariant(again?.offsets == index.offsets, "the index changes as it is written again")
    }
    look(parts[0], parts[1])
    // As entries behind which the footer is right.
    func footed(_ entries: [UInt8]) -> [UInt8] {
        var buffer = ByteBuffer(bytes: entries)
        let footer = SegmentIndex(baseOffset: base, interval: 4_096).encoded(segmentSize: size)
        buffer.writeBytes(footer.offsets.dropLast(4))
        let crc = buffer.withUnsafeReadableBytes { CRC32C.checksum($0) }
        buffer.writeInteger(crc)
        return Array(buffer.readableBytesView)
    }
    look(footed(parts[0]), footed(parts[1]))
}

private func checkProducers(_ bytes: [UInt8]) {
    _ = ProducerSnapshot(decoding: bytes)
    guard bytes.count > 6 else { return }
    var buffer = ByteBuffer(bytes: bytes)
    let crc = buffer.withUnsafeReadableBytes {
        CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[6...]))
    }
    buffer.setInteger(crc, at: 2)
    check(Array(buffer.readableBytesView)) { ProducerSnapshot(decoding: $0)?.encoded }
}
