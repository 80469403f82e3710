import Essentials

/// The checkpoint files of one log directory: an offset for each log, by its folder.
///
/// A file that is missing or no good counts as empty, which is always safe: more is checked then.
struct DirectoryCheckpoints {
    enum Kind: Int, CaseIterable, Comparable {
        case recoveryPoint
        case highWatermark
        case logStart
        case compacted

        var fileName: String {
            switch self {
            case .recoveryPoint: "recovery-point-offset-checkpoint"
            case .highWatermark: "replication-offset-checkpoint"
            case .logStart: "log-start-offset-checkpoint"
            case .compacted: "cleaner-offset-checkpoint"
            }
        }

        static func < (left: Kind, right: Kind) -> Bool { left.rawValue < right.rawValue }
    }

    private var offsets: [Kind: [String: Offset]] = [:]

    init(reading directory: String, fileSystem: any FileSystem) throws(FileError) {
        for kind in Kind.allCases {
            let bytes = try fileSystem.readFile("\(directory)/\(kind.fileName)")
            offsets[kind] = bytes.flatMap { Self.decode($0) } ?? [:]
        }
    }

    /// All of which anything is noted.
    var folders: Set<String> {
        Kind.allCases.reduce(into: []) { folders, kind in
            if let offsets = offsets[kind] { folders.formUnion(offsets.keys) }
        }
    }

    subscript(_ folder: String) -> LogCheckpoint {
        LogCheckpoint(
            recoveryPoint: offsets[.recoveryPoint]?[folder] ?? 0,
            highWatermark: offsets[.highWatermark]?[folder] ?? 0,
            logStartOffset: offsets[.logStart]?[folder],
            compactedTo: offsets[.compacted]?[folder])
    }

    /// Returns whether that changes anything.
    mutating func set(_ kind: Kind, _ folder: String, _ offset: Offset?) -> Bool {
        guard offsets[kind]?[folder] != offset else { return false }
        offsets[kind, default: [:]][folder] = offset
        return true
    }

    mutating func lower(_ kind: Kind, _ folder: String, to offset: Offset) -> Bool {
        guard let current = offsets[kind]?[folder], current > offset else { return false }
        return set(kind, folder, offset)
    }

    /// Returns which files that changes.
    mutating func remove(_ folder: String) -> Set<Kind> {
        var changed = Set<Kind>()
        for kind in Kind.allCases where set(kind, folder, nil) { changed.insert(kind) }
        return changed
    }

    func write(
        _ kind: Kind, to directory: String, fileSystem: any FileSystem
    ) throws(FileError) {
        let entries = (offsets[kind] ?? [:]).sorted { $0.key < $1.key }
        let bytes = CheckpointText.encode(entries.map { "\($0.key) \($0.value)" }, version: 0)
        try fileSystem.replaceFile(kind.fileName, in: directory, with: bytes)
    }

    private static func decode(_ bytes: [UInt8]) -> [String: Offset]? {
        guard let lines = CheckpointText.lines(of: bytes, version: 0) else { return nil }
        var offsets: [String: Offset] = [:]
        for line in lines {
            guard line.count == 2, let offset = Int64(line[1]), offset >= 0 else { return nil }
            offsets[String(line[0])] = Offset(offset)
        }
        return offsets
    }
}
