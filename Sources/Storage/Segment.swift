import Essentials
import NIOCore
import Records

/// One file of a log: batches, one after the other, from `baseOffset` on.
///
/// The last segment of a log is written; the others only read. Owned by the log.
final class Segment {
    /// Tells segments apart, also two of the same name, one after the other.
    final class Identity: Sendable {}

    let identity: Identity
    let baseOffset: Offset
    let directory: String
    private let fileSystem: any FileSystem
    private let interval: Int

    /// The bytes of whole, valid batches; the file never ends earlier, and later only if the log was
    /// opened damaged.
    private(set) var size: Int
    /// The bytes known to be on stable storage.
    var durableSize: Int
    /// Where the room ends that was set aside for the file since it was last cut.
    private var reserved = 0
    /// Whether an append was taken back since the file was last synced for that.
    private(set) var wasCutBack = false
    /// `nil` while it has not been needed: see `open`.
    private var file: (any File)?
    /// `nil` while it has not been needed: see `loadIndex`.
    private var index: SegmentIndex?
    /// The index files are about so many bytes; `nil` if they may be missing, or of something else.
    private var writtenIndexSize: Int?
    /// The index was made by walking over the segment.
    private var isIndexNew = false
    /// Not the log's own, but a reader's on another thread: writes nothing.
    private let isCopy: Bool
    /// What the index said of the largest timestamp before it was let go.
    private var notedMaxTimestamp: Int64?
    private var notedFirstTimestamp: Int64?

    init(
        baseOffset: Offset, directory: String, size: Int, durableSize: Int,
        index: SegmentIndex? = nil, file: (any File)? = nil, fileSystem: any FileSystem,
        interval: Int, copyOf original: Identity? = nil
    ) {
        identity = original ?? Identity()
        isCopy = original != nil
        self.baseOffset = baseOffset
        self.directory = directory
        self.size = size
        self.durableSize = durableSize
        self.index = index
        self.file = file
        self.fileSystem = fileSystem
        self.interval = interval
    }

    /// A new, empty segment; its directory entry is not yet durable.
    static func create(
        baseOffset: Offset, directory: String, fileSystem: any FileSystem, interval: Int
    ) throws(FileError) -> Segment {
        let path = "\(directory)/\(SegmentName(baseOffset).log)"
        let file = try fileSystem.open(path, .create)
        return Segment(
            baseOffset: baseOffset, directory: directory, size: 0, durableSize: 0,
            index: SegmentIndex(baseOffset: baseOffset, interval: interval), file: file,
            fileSystem: fileSystem, interval: interval)
    }

    var name: SegmentName { SegmentName(baseOffset) }
    var path: String { "\(directory)/\(name.log)" }
    var isDurable: Bool { durableSize == size }

    func open() throws(FileError) -> any File {
        if let file { return file }
        let file = try fileSystem.open(path, .readWrite)
        self.file = file
        return file
    }

    var hasFile: Bool { file != nil }
    var hasIndex: Bool { index != nil }

    /// What a reader of this segment needs on another thread.
    ///
    /// - Parameter exactStart: where what is looked for begins; `nil` if that is to be found.
    func part<Answer>(
        for search: some LogSearch<Answer>, exactStart: Int?
    ) -> ColdRead<Answer>.Part {
        ColdRead.Part(
            identity: identity, baseOffset: baseOffset, directory: directory, size: size,
            interval: interval, file: file, start: index.map { search.start(in: $0) },
            exactStart: exactStart, maxTimestamp: maxTimestamp)
    }

    /// What a reader on another thread has opened and loaded of its copy of this segment.
    func found() -> (file: (any File)?, index: (SegmentIndex, isNew: Bool)?) {
        (file, index.map { ($0, isIndexNew) })
    }

    /// Takes over what a reader on another thread has opened and loaded, if it is still of use.
    func adopt<Answer>(_ part: ColdRead<Answer>.Part) {
        guard part.identity === identity, part.size == size else { return }
        if file == nil { file = part.file }
        if maxTimestamp == nil { notedMaxTimestamp = part.maxTimestamp }
        guard index == nil, let (index, isNew) = part.index else { return }
        self.index = index
        if isNew { writeIndex(index) }
    }

    /// Gives back what reading an older segment took; the log's last one needs it all.
    func release() {
        // A file that isn't durable stays open: a later descriptor may not hear of its write errors.
        if isDurable { file = nil }
        notedMaxTimestamp = maxTimestamp
        index = nil
    }

    // MARK: Times

    /// The largest timestamp, -1 for none; `nil` while it would have to be read.
    var maxTimestamp: Int64? { index?.maxTimestamp ?? notedMaxTimestamp }

    /// Takes note of the largest timestamp that `readMaxTimestamp` of another value found.
    func note(maxTimestamp: Int64) {
        notedMaxTimestamp = maxTimestamp
    }

    /// Reads the largest timestamp without keeping or changing anything.
    func readMaxTimestamp() throws(LogError) -> Int64 {
        if let maxTimestamp { return maxTimestamp }
        if let stored = storedIndex() { return stored.maxTimestamp }
        return try walk(SegmentIndex(baseOffset: baseOffset, interval: interval), from: 0)
            .maxTimestamp
    }

    /// The largest timestamp of the first batch; `nil` if there is none, or it can't be read now.
    var firstTimestamp: Int64? {
        guard size > 0 else { return nil }
        if let notedFirstTimestamp { return notedFirstTimestamp }
        guard var scanner = try? scanner(from: 0, checksCRC: false, window: 4_096),
            case .batch(let header, _)? = try? scanner.next()
        else { return nil }
        notedFirstTimestamp = header.maxTimestamp
        return notedFirstTimestamp
    }

    /// The size of the larger index file as it will be.
    var indexBytes: Int {
        max((index?.offsets.count ?? 0) * 8, (index?.times.count ?? 0) * 12)
    }

    /// What is known of times may be of bytes that are gone.
    private func forgetTimes() {
        notedMaxTimestamp = nil
        notedFirstTimestamp = nil
    }

    // MARK: Writing

    /// Writes whole batches at the end; on failure the segment, in memory and on disk, is as before.
    ///
    /// - Throws: `LogError.io`, or `offline` when the file could not be cut back.
    func append(
        _ bytes: UnsafeRawBufferPointer, headers: ArraySlice<RecordBatchHeader>
    ) throws(LogError) {
        _ = try loadIndex()
        let file = try io { () throws(FileError) in try open() }
        reserve(bytes.count, in: file)
        do throws(FileError) {
            try file.write(bytes, at: size)
        } catch let failure {
            reserved = 0
            wasCutBack = true
            do throws(FileError) {
                try file.truncate(to: size)
            } catch {
                throw .offline("\(failure); then \(error)")
            }
            throw .io(failure)
        }
        if size == 0 { notedFirstTimestamp = headers.first?.maxTimestamp }
        for header in headers {
            index?.add(header, at: size)
            size += header.totalSize
        }
    }

    /// Sees to it that much of what follows has its place on the disk already, which is found with less
    /// effort for many bytes at a time.
    ///
    /// Where each append is synced it gains nothing. The room grows with the segment, so that many small
    /// ones take none.
    private func reserve(_ count: Int, in file: any File) {
        guard size + count > reserved, size - durableSize >= Self.unsyncedBytesToReserve else {
            return
        }
        reserved = size + count + min(size / 4, Self.maxReserve)
        file.reserve(size..<reserved)
    }

    private static let unsyncedBytesToReserve = 8 << 20
    private static let maxReserve = 16 << 20

    /// Whether room was set aside; never for a log that was opened damaged, whose file goes on.
    var hasReserve: Bool { reserved > size }

    /// Gives back what was set aside and isn't needed any more, if only until the next append.
    ///
    /// Also what was before a crash, which nobody knows of.
    func giveBackReserve() {
        guard let file = try? open(), (try? file.truncate(to: size)) != nil else { return }
        reserved = 0
    }

    /// The state that `undo` returns to.
    func mark() throws(LogError) -> (size: Int, index: SegmentIndex.Mark) {
        (size, try loadIndex().mark)
    }

    /// Takes back the appends since `mark`.
    func undo(to mark: (size: Int, index: SegmentIndex.Mark)) throws(FileError) {
        reserved = 0
        wasCutBack = true
        try open().truncate(to: mark.size)
        size = mark.size
        forgetTimes()
        index?.restore(mark.index)
    }

    /// Makes durable that nothing is left of appends that were taken back.
    func syncCutBack() throws(FileError) {
        try open().sync()
        wasCutBack = false
    }

    /// Cuts the file to `newSize` bytes, durably.
    func truncate(to newSize: Int) throws(LogError) {
        try io { () throws(FileError) in
            let file = try open()
            try removeIndexFiles()
            reserved = 0
            try file.truncate(to: newSize)
            try file.sync()
        }
        // Without one in memory, all is walked over again.
        var index = self.index ?? SegmentIndex(baseOffset: baseOffset, interval: interval)
        self.index = nil
        forgetTimes()
        size = newSize
        durableSize = newSize
        let start = index.rewind(to: newSize)
        self.index = try walk(index, from: start)
    }

    /// Leaves out what follows `size`, without touching the file.
    func limit(to size: Int) {
        self.size = size
        durableSize = size
        index = nil
        forgetTimes()
    }

    /// Removes the segment's files, the log last of all, so that no index is left without one.
    func remove() throws(FileError) {
        try removeIndexFiles()
        try fileSystem.remove(path)
    }

    func removeIndexFiles() throws(FileError) {
        writtenIndexSize = nil
        try fileSystem.remove("\(directory)/\(name.offsetIndex)")
        try fileSystem.remove("\(directory)/\(name.timeIndex)")
    }

    // MARK: The index

    func loadIndex() throws(LogError) -> SegmentIndex {
        if let index { return index }
        let loaded: SegmentIndex
        if let stored = storedIndex() {
            loaded = stored
            writtenIndexSize = size
        } else {
            loaded = try walk(SegmentIndex(baseOffset: baseOffset, interval: interval), from: 0)
            isIndexNew = true
            if !isCopy { writeIndex(loaded) }
        }
        index = loaded
        return loaded
    }

    /// Puts aside the index that was made while recovering.
    func install(_ index: SegmentIndex) {
        self.index = index
    }

    /// The index in the files, if it is whole and fits.
    private func storedIndex() -> SegmentIndex? {
        guard
            let offsets = try? fileSystem.readFile("\(directory)/\(name.offsetIndex)"),
            let times = try? fileSystem.readFile("\(directory)/\(name.timeIndex)")
        else { return nil }
        return SegmentIndex(
            offsets: offsets, times: times, baseOffset: baseOffset, segmentSize: size)
    }

    private func walk(_ index: SegmentIndex, from start: Int) throws(LogError) -> SegmentIndex {
        var index = index
        var scanner = try scanner(from: start, checksCRC: false)
        while true {
            switch try io({ () throws(FileError) in try scanner.next() }) {
            case .batch(let header, let position): index.add(header, at: position)
            case .end: return index
            case .flaw(let error, let position):
                throw .corruptBatch(segment: path, position: position, error)
            }
        }
    }

    /// Walks over the batches from the one at `start` on.
    ///
    /// - Parameter window: the bytes to read at a time; as many as are good for a long walk, unless given.
    func scanner(
        from start: Int, checksCRC: Bool, window: Int? = nil
    ) throws(LogError) -> BatchScanner {
        let file = try io { () throws(FileError) in try open() }
        return BatchScanner(
            file, from: start, to: size, checksCRC: checksCRC,
            window: window ?? (checksCRC ? 1 << 20 : 1 << 16))
    }

    /// Writes the index files; that they are missing costs time, not records.
    func writeIndex(_ given: SegmentIndex? = nil) {
        guard let index = given ?? index, size > 0, writtenIndexSize != size else { return }
        let (offsets, times) = index.encoded(segmentSize: size)
        for (name, bytes) in [(name.offsetIndex, offsets), (name.timeIndex, times)] {
            let path = "\(directory)/\(name)"
            do throws(FileError) {
                let file = try fileSystem.open(path, .create)
                try file.write(array: bytes, at: 0)
            } catch {
                // Whatever is there is noticed by its checksum and made again.
                try? fileSystem.remove(path)
                return
            }
        }
        writtenIndexSize = size
    }
}

/// Runs `body`, and lets its failure appear as the log's.
@inline(__always)
func io<T>(_ body: () throws(FileError) -> T) throws(LogError) -> T {
    do throws(FileError) {
        return try body()
    } catch {
        throw .io(error)
    }
}

/// The names of one segment's files: 20 digits, and what they hold.
struct SegmentName: Hashable {
    let baseOffset: Offset

    init(_ baseOffset: Offset) {
        self.baseOffset = baseOffset
    }

    /// The segment that a file of this name belongs to; `nil` if it is none's.
    init?(_ name: some StringProtocol) {
        let digits = name.prefix { $0 != "." }
        guard digits.utf8.count == 20, digits.utf8.allSatisfy({ (48...57).contains($0) }),
            let number = Int64(digits)
        else { return nil }
        baseOffset = Offset(number)
    }

    var digits: String {
        let number = String(baseOffset.rawValue)
        return String(repeating: "0", count: max(0, 20 - number.utf8.count)) + number
    }

    var log: String { digits + ".log" }
    var offsetIndex: String { digits + ".index" }
    var timeIndex: String { digits + ".timeindex" }
    /// What takes the place of the segment, or of several, while it is being written.
    var cleaned: String { digits + ".log.cleaned" }

    /// Says that `cleaned` is complete, and takes the place of all segments from this one to `end`.
    func swap(to end: Offset) -> String { "\(digits)-\(SegmentName(end).digits).swap" }

    /// The segment and the end that a name made by `swap` is of.
    static func parseSwap(_ name: String) -> (SegmentName, end: Offset)? {
        let parts = name.dropLast(5).split(separator: "-", omittingEmptySubsequences: false)
        guard name.hasSuffix(".swap"), parts.count == 2, let first = SegmentName(parts[0]),
            let end = SegmentName(parts[1]), first.swap(to: end.baseOffset) == name
        else { return nil }
        return (first, end.baseOffset)
    }
}
