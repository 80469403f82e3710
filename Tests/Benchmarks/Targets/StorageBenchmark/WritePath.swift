internal import Foundation
internal import Glibc

/// Compares ways to append to files, by system calls alone: what `Storage` does is chosen by this.
///
/// The appends are a little smaller than 16 KB, 128 KB and 1 MB, since batches end anywhere.
struct WritePath {
    private enum Way: String, CaseIterable {
        /// Through the page cache to a file that grows.
        case buffered = "buffered, new file"
        /// The same, after `fallocate` of the next chunk, which makes the file longer.
        case preallocated = "buffered, preallocated"
        /// The same, but the file's size stays what was written.
        case reserved = "buffered, preallocated, size kept"
        /// Over what an old file holds.
        case recycled = "buffered, recycled"
        /// Past the page cache, to whole blocks; what doesn't fill one is written again.
        case direct = "direct, preallocated"
        case directRecycled = "direct, recycled"
    }

    private struct Cell {
        var rates: [Double] = []
        var processor: [Double] = []
        var latency: [Double] = []
    }

    private let directory: String
    private let seconds: Double
    private let rounds: Int
    private let bytes: Int
    private let only: Int

    init(_ options: Options, in directory: String) {
        self.directory = directory
        seconds = options.number("seconds", 1)
        rounds = options.count("rounds", 3)
        bytes = options.count("megabytes", 1_024) << 20
        only = options.count("partitions", 0)
    }

    func run() {
        print("Medians of \(rounds) rounds, one way after the other in each.")
        for partitions in [1, 100] where only == 0 || only == partitions {
            for isSynced in [false, true] {
                print(
                    "\n\(partitions) file\(partitions == 1 ? "" : "s"), "
                        + (isSynced
                            ? "fdatasync after each append" : "one fdatasync each at the end"))
                printHeader(
                    ["way"]
                        + [16, 128, 1_024].map { "\($0)k: MB/s, CPU s/GB, p99 us" })
                var cells: [Way: [Cell]] = [:]
                for _ in 0..<rounds {
                    for (column, size) in [16 << 10, 128 << 10, 1 << 20].enumerated() {
                        for way in Way.allCases {
                            measure(
                                way, size: size - 100, partitions: partitions,
                                isSynced: isSynced,
                                into: &cells[way, default: .init(repeating: Cell(), count: 3)][
                                    column])
                        }
                    }
                }
                for way in Way.allCases {
                    printRow(
                        [way.rawValue]
                            + (cells[way] ?? []).map {
                                text($0.rates.median) + ", " + text($0.processor.median, 2) + ", "
                                    + text($0.latency.median)
                            })
                }
            }
        }
    }

    private func measure(
        _ way: Way, size: Int, partitions: Int, isSynced: Bool, into cell: inout Cell
    ) {
        let fileBytes = bytes / partitions
        var files = (0..<partitions).map { number in
            WrittenFile(
                "\(directory)/\(number)", limit: fileBytes,
                isRecycled: way == .recycled || way == .directRecycled,
                isDirect: way == .direct || way == .directRecycled,
                allocation: way == .preallocated || way == .direct
                    ? .longer : way == .reserved ? .sizeKept : .none,
                chunk: min(64 << 20, max(1 << 20, fileBytes / 4)))
        }
        let content = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4_096)
        for index in content.indices { content[index] = UInt8(truncatingIfNeeded: index &* 31) }
        defer { content.deallocate() }

        var latencies: [Double] = []
        var written = 0
        let startTime = now()
        let startProcessor = processorTime()
        var last = startTime
        while written + size * partitions <= bytes, last - startTime < seconds {
            for number in files.indices {
                files[number].append(UnsafeRawBufferPointer(content))
                if isSynced { files[number].sync() }
                let time = now()
                latencies.append(time - last)
                last = time
                written += size
            }
        }
        if !isSynced { for number in files.indices { files[number].sync() } }
        cell.rates.append(Double(written) / (now() - startTime) / 1e6)
        cell.processor.append((processorTime() - startProcessor) / Double(written) * 1e9)
        cell.latency.append(latencies.quantile(0.99) * 1e6)
        for number in files.indices { files[number].close() }
        // What it left to be written back is not to slow down the next.
        sync()
    }
}

// Linux has these; the module of its C library leaves them out.
@_silgen_name("fallocate")
private func fallocate(_ file: Int32, _ mode: Int32, _ start: off_t, _ length: off_t) -> Int32
private let keepSize: Int32 = 1
#if arch(arm64)
    private let openDirect: Int32 = 0o200000
#else
    private let openDirect: Int32 = 0o40000
#endif

/// One file that is appended to in one of the ways.
private struct WrittenFile {
    enum Allocation { case none, longer, sizeKept }

    private let path: String
    private let descriptor: Int32
    private let isRecycled: Bool
    private let allocation: Allocation
    private let chunk: Int
    /// Room for an append and the start of its first block; only for direct writes.
    private let blocks: UnsafeMutableRawBufferPointer?
    private var size = 0
    private var allocated = 0

    init(
        _ path: String, limit: Int, isRecycled: Bool, isDirect: Bool, allocation: Allocation,
        chunk: Int
    ) {
        self.isRecycled = isRecycled
        self.path = isRecycled ? path + ".recycled" : path
        self.allocation = allocation
        self.chunk = chunk
        if isRecycled { Self.fill(self.path, to: limit) }
        descriptor = check(
            open(
                self.path,
                O_RDWR | O_CREAT | O_CLOEXEC | (isRecycled ? 0 : O_TRUNC)
                    | (isDirect ? openDirect : 0), 0o644), "open \(self.path)")
        blocks =
            isDirect ? .allocate(byteCount: 1 << 20 + 8_192, alignment: 4_096) : nil
    }

    /// Makes a file of written blocks, unless it is there.
    private static func fill(_ path: String, to limit: Int) {
        var status = stat()
        if stat(path, &status) == 0, status.st_size == limit { return }
        let descriptor = check(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644), "open")
        let bytes = [UInt8](repeating: 0xa5, count: 1 << 20)
        var size = 0
        while size < limit {
            size += check(write(descriptor, bytes, min(bytes.count, limit - size)), "write")
        }
        check(fsync(descriptor), "sync")
        Glibc.close(descriptor)
    }

    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        let end = size + bytes.count
        if allocation != .none, end > allocated { allocate() }
        guard let blocks else {
            let count = check(
                pwrite(descriptor, bytes.baseAddress, bytes.count, off_t(size)), "write")
            precondition(count == bytes.count)
            size = end
            return
        }
        // The block that is not full is kept in memory, and written with what follows on it.
        let inBlock = size % 4_096
        let whole = (inBlock + bytes.count + 4_095) / 4_096 * 4_096
        UnsafeMutableRawBufferPointer(rebasing: blocks[inBlock...]).copyMemory(from: bytes)
        let count = check(
            pwrite(descriptor, blocks.baseAddress, whole, off_t(size - inBlock)), "write")
        precondition(count == whole)
        let rest = (inBlock + bytes.count) % 4_096
        let tail = inBlock + bytes.count - rest
        blocks.copyMemory(from: UnsafeRawBufferPointer(rebasing: blocks[tail..<(tail + rest)]))
        size = end
    }

    private mutating func allocate() {
        let mode = allocation == .sizeKept ? keepSize : 0
        check(fallocate(descriptor, mode, off_t(allocated), off_t(chunk)), "allocate")
        allocated += chunk
    }

    func sync() { check(fdatasync(descriptor), "sync") }

    func close() {
        Glibc.close(descriptor)
        blocks?.deallocate()
        if !isRecycled { unlink(path) }
    }
}
