internal import CLibFuzzer
internal import Essentials
internal import NIOCore
internal import Records
@testable internal import DiskSupport
internal import Storage

@main
enum FuzzLog {
    static func main() {
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        _ = LLVMFuzzerRunDriver(&count, &arguments, fuzz)
    }
}

/// Opens a log whose segments are made of the input, reads all of it, cuts it and goes on with it.
///
/// The first four bytes say how it is opened; in a second pass checksums, lengths and offsets are made
/// right, so that there is more to be read than a torn tail.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = [UInt8](UnsafeRawBufferPointer(start: data, count: count))
    guard input.count > 4 else { return 0 }
    let options = Array(input[..<4])
    let bytes = Array(input[4...])
    do {
        try check(bytes, options)
        try check(repaired(bytes), options)
    } catch {
        invariant(false, "\(error)")
    }
    return 0
}

/// The same with as many whole batches as there is room for, one after the other.
private func repaired(_ bytes: [UInt8]) -> [UInt8] {
    var buffer = ByteBuffer(bytes: bytes)
    var index = 0
    var offset: Int64 = 0
    while index + RecordBatchHeader.size <= buffer.readableBytes {
        let left = buffer.readableBytes - index
        let length = Int(buffer.getInteger(at: index + 8, as: Int32.self) ?? 0)
        let size = max(RecordBatchHeader.size, min(left, abs(length) % 4_096))
        buffer.setInteger(offset, at: index)
        buffer.setInteger(Int32(size - RecordBatchHeader.lengthOverhead), at: index + 8)
        buffer.setInteger(Int8(2), at: index + 16)
        let delta = abs(Int64(buffer.getInteger(at: index + 23, as: Int32.self) ?? 0)) % 16
        buffer.setInteger(Int32(delta), at: index + 23)
        let crc = buffer.withUnsafeReadableBytes {
            CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[(index + 21)..<(index + size)]))
        }
        buffer.setInteger(crc, at: index + 17)
        offset += delta + 1
        index += size
    }
    return Array(buffer.readableBytesView)
}

private func check(_ bytes: [UInt8], _ options: [UInt8]) throws {
    let disk = SimulatedDisk(seed: 0)
    try disk.makeDirectory("/t-0")
    let file = try disk.open("/t-0/00000000000000000000.log", .create)
    try bytes.withUnsafeBytes { try file.write($0, at: 0) }
    var config = LogConfig()
    config.segmentBytes = 2_048
    config.indexIntervalBytes = 128
    config.tailBytes = 0
    config.allowsOffsetGaps = options[0] & 2 != 0
    let known = Offset(Int64(options[1]))
    func open(
        isClean: Bool, known: Offset, start: Offset?
    ) -> (log: Log, report: RecoveryReport)? {
        try? Log.open(
            at: "/t-0", config: config, fileSystem: disk, afterCleanShutdown: isClean,
            checkpoint: LogCheckpoint(
                recoveryPoint: known, highWatermark: known,
                logStartOffset: start))
    }
    let noted = options[0] & 4 != 0 ? Offset(Int64(options[2])) : nil
    guard let (log, report) = open(isClean: options[0] & 1 != 0, known: known, start: noted)
    else { return }
    walk(log)
    if report.isDamaged {
        try log.truncate(to: log.logStartOffset)
    } else if report.outcome != .trusted, known == 0 {
        let flaw = try log.verify()
        invariant(flaw == nil, "what was checked is not sound: \(report)")
    }
    let cut = Offset(Int64(options[3]))
    if report.outcome != .trusted, cut >= log.logStartOffset {
        try log.truncate(to: cut)
    }
    walk(log)
    var builder = RecordBatchBuilder()
    builder.append(key: nil, value: ByteBuffer(string: "on it goes"), timestamp: 1)
    let batch = builder.finish()
    let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1_000)
    // No leader's epoch is older than what it finds, below the log start either.
    try log.appendAsLeader(batch, headers: headers, leaderEpoch: LeaderEpoch(.max))
    let (start, end) = (log.logStartOffset, log.logEndOffset)
    guard report.outcome != .trusted else { return }
    try log.close(clean: false)
    guard let (again, second) = open(isClean: false, known: 0, start: start) else {
        return invariant(false, "it can't be opened again")
    }
    invariant(
        !second.isDamaged && again.logStartOffset == start && again.logEndOffset == end,
        "it ends at \(again.logEndOffset) instead of \(end): \(second)")
}

/// Reads all there is; what is not good is told, or passed over, but never goes on for ever.
private func walk(_ log: Log) {
    var offset = log.logStartOffset
    while offset < log.logEndOffset {
        guard let bytes = try? log.read(from: offset, below: .max, maxBytes: 300) else { break }
        guard let headers = try? RecordBatches.headers(of: bytes), let last = headers.last else {
            break
        }
        invariant(last.nextOffset > offset, "the reader at \(offset) does not move")
        offset = last.nextOffset
    }
    _ = try? log.offset(forTimestamp: 1_000, below: .max)
    _ = log.endOffset(for: log.latestEpoch)
}
