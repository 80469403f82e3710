import Essentials
import Records

/// The snapshots of a log's producers: files that can be made again, and are, when they are no good.
struct ProducerSnapshots {
    static let suffix = ".snapshot"
    /// So many are kept, the newest.
    private static let maxCount = 3

    private let directory: String
    private let fileSystem: any FileSystem
    /// Those that there are files of, rising.
    private(set) var offsets: [Offset]

    init(directory: String, fileSystem: any FileSystem, offsets: [Offset] = []) {
        self.directory = directory
        self.fileSystem = fileSystem
        self.offsets = offsets
    }

    private func path(_ offset: Offset) -> String {
        "\(directory)/\(SegmentName(offset).producerSnapshot)"
    }

    /// The snapshot at `offset`; `nil` if it is no good.
    func read(_ offset: Offset) -> ProducerSnapshot? {
        // One that can't be read is missed no more than one that can't be understood.
        guard let bytes = (try? fileSystem.readFile(path(offset))) ?? nil,
            let snapshot = ProducerSnapshot(decoding: bytes),
            snapshot.offset == offset
        else { return nil }
        return snapshot
    }

    /// Writes a snapshot, and removes those that are too old to be kept.
    ///
    /// It is not synced: one that is cut is told by its checksum.
    mutating func write(_ snapshot: ProducerSnapshot) {
        guard let offset = snapshot.offset, offset > offsets.last ?? -1 else { return }
        do throws(FileError) {
            let file = try fileSystem.open(path(offset), .create)
            try file.write(array: snapshot.encoded, at: 0)
        } catch {
            // More is read at the next start.
            try? fileSystem.remove(path(offset))
            return
        }
        offsets.append(offset)
        while offsets.count > Self.maxCount {
            try? fileSystem.remove(path(offsets.removeFirst()))
        }
    }

    /// Removes those above `end`, durably, before anything else can be appended there.
    mutating func removeAll(above end: Offset) throws(FileError) {
        guard let last = offsets.last, last > end else { return }
        while let last = offsets.last, last > end {
            try fileSystem.remove(path(last))
            offsets.removeLast()
        }
        try fileSystem.syncDirectory(directory)
    }

    /// Removes one that is no good.
    mutating func remove(_ offset: Offset) throws(FileError) {
        try fileSystem.remove(path(offset))
        offsets.removeAll { $0 == offset }
    }
}
