internal import Essentials
package import Raft
internal import Storage

/// The names of snapshots in the folder of the metadata log: `<end offset>-<epoch>.checkpoint`.
package enum SnapshotFile {
    package static let suffix = ".checkpoint"
    /// What is written, or fetched, and not yet whole; never read.
    static let partSuffix = ".checkpoint.part"

    /// 20 digits of the end offset, and 10 of the epoch.
    package static func name(of id: SnapshotID) -> String {
        digits(id.endOffset.rawValue, 20) + "-" + digits(Int64(id.epoch.rawValue), 10) + suffix
    }

    static func partName(of id: SnapshotID) -> String { name(of: id) + ".part" }

    /// The snapshot that a file of this name holds; `nil` if no snapshot is called that.
    package static func id(named name: some StringProtocol) -> SnapshotID? {
        guard name.hasSuffix(suffix) else { return nil }
        let parts = name.dropLast(suffix.count).split(
            separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, parts[0].utf8.count == 20, parts[1].utf8.count == 10,
            parts.allSatisfy({ $0.utf8.allSatisfy { (0x30...0x39).contains($0) } }),
            let offset = Int64(parts[0]), let epoch = Int32(parts[1])
        else { return nil }
        return SnapshotID(endOffset: Offset(offset), epoch: LeaderEpoch(epoch))
    }

    private static func digits(_ value: Int64, _ count: Int) -> String {
        let text = String(max(0, value))
        return String(repeating: "0", count: max(0, count - text.count)) + text
    }

    /// The whole snapshots in `folder`, the oldest first; none if it isn't there.
    static func all(
        in folder: String, _ fileSystem: any FileSystem
    ) throws(FileError) -> [SnapshotID] {
        guard try fileSystem.isDirectory(folder) else { return [] }
        return try fileSystem.contents(of: folder).compactMap { id(named: $0) }.sorted()
    }

    /// Removes what was being written or fetched when the last process ended.
    static func removeParts(
        in folder: String, _ fileSystem: any FileSystem
    ) throws(FileError) {
        guard try fileSystem.isDirectory(folder) else { return }
        for name in try fileSystem.contents(of: folder) where name.hasSuffix(partSuffix) {
            try fileSystem.remove("\(folder)/\(name)")
        }
    }
}
