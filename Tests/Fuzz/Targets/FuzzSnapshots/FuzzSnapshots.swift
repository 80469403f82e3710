internal import CLibFuzzer
internal import Essentials
internal import NIOCore
@testable internal import Quorum
internal import Raft
internal import Records
@testable internal import DiskSupport
internal import Storage

@main
enum FuzzSnapshots {
    static func main() {
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        _ = LLVMFuzzerRunDriver(&count, &arguments, fuzz)
    }
}

/// Reads the input as a snapshot of the metadata, as it is, and again as batches that are whole.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = [UInt8](UnsafeRawBufferPointer(start: data, count: count))
    check(input)
    var buffer = ByteBuffer(bytes: input)
    var index = 0
    while index + RecordBatchHeader.size <= count {
        let length = Int(buffer.getInteger(at: index + 8, as: Int32.self) ?? 0)
        let size = length + RecordBatchHeader.lengthOverhead
        guard size >= RecordBatchHeader.size, size <= count - index else { break }
        let crc = buffer.withUnsafeReadableBytes {
            CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[(index + 21)..<(index + size)]))
        }
        buffer.setInteger(crc, at: index + 17)
        index += size
    }
    check(Array(buffer.readableBytesView))
    return 0
}

private func check(_ bytes: [UInt8]) {
    let disk = SimulatedDisk(seed: 0)
    let id = SnapshotID(endOffset: 1_234, epoch: 7)
    let path = "/\(SnapshotFile.name(of: id))"
    guard let file = try? disk.open(path, .create),
        (try? bytes.withUnsafeBytes { try file.write($0, at: 0) }) != nil,
        var reader = try? SnapshotReader(path: path, fileSystem: disk)
    else { return }
    var records: [[UInt8]] = []
    do {
        while let record = try reader.next() { records.append(record) }
    } catch {
        return
    }
    // What is whole says the same when it is written again.
    do {
        var writer = try SnapshotWriter(
            id, in: "/again", voters: reader.voters,
            timestamp: reader.lastContainedTimestamp, fileSystem: disk)
        for record in records { try writer.append(record) }
        try writer.finish()
        var again = try SnapshotReader(
            path: "/again/\(SnapshotFile.name(of: id))", fileSystem: disk)
        for record in records {
            let other = try again.next()
            invariant(other == record, "a record is another one")
        }
        try again.finish()
        invariant(again.voters == reader.voters, "the voters are others")
    } catch {
        invariant(false, "\(error)")
    }
}
