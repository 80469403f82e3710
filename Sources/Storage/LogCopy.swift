package import Essentials
import Synchronization

/// Copies a log to another log directory while it is written, and then takes its place there.
///
/// `copy` as often as need be, each time with a new `Plan` from the log's owner; then the owner lets go of
/// the log for a moment, and `finish` copies what is left and swaps. Which of the two counts, at each moment:
/// - until the copy has the partition's name, durably, the old one: a folder whose name ends in `.future`
///   is nobody's log, and the next start removes it;
/// - from then on the copy, because it says that it was moved once more (`LogCopyOrder`); nothing was
///   written to either in between, and nothing is before the old one has its name no more.
///
/// One thread at a time, but for `progress`.
package final class LogCopy {
    /// What a log consists of at a moment.
    package struct Plan: Sendable {
        struct Part: Sendable {
            var name: SegmentName
            var identity: Segment.Identity
            var size: Int
            var isActive: Bool
        }

        var parts: [Part]
        /// Whatever was copied before a truncation may be of no log any more.
        var generation: UInt64

        package var byteCount: Int { parts.reduce(0) { $0 + $1.size } }
    }

    /// How far it has come; any thread.
    package final class Progress: Sendable {
        private let bytes = Mutex((copied: 0, total: 0))

        package init() {}

        package var copied: Int { bytes.withLock { $0.copied } }
        package var total: Int { bytes.withLock { $0.total } }

        fileprivate func set(copied: Int, total: Int) {
            bytes.withLock { $0 = (copied, total) }
        }
    }

    private struct Copied {
        var identity: Segment.Identity
        var size: Int
        var isSealed: Bool
    }

    private let folder: PartitionFolder
    private let source: LogDirectory
    private let target: LogDirectory
    private let fileSystem: any FileSystem
    /// What the copy's folder is called until it counts.
    private let futureName: String
    private var copied: [SegmentName: Copied] = [:]
    private var generation: UInt64?
    package let progress: Progress

    private static let chunkBytes = 1 << 20

    /// Makes the copy's folder.
    package init(
        of folder: PartitionFolder, from source: LogDirectory, to target: LogDirectory,
        progress: Progress = Progress()
    ) throws(LogError) {
        self.folder = folder
        self.source = source
        self.target = target
        self.progress = progress
        fileSystem = target.fileSystem
        futureName = LogDirectory.futureName(of: folder.name)
        let path = "\(target.path)/\(futureName)"
        try target.health.check()
        try io { [fileSystem] () throws(FileError) in try fileSystem.makeDirectory(path) }
    }

    private var sourcePath: String { "\(source.path)/\(folder.name)" }
    private var futurePath: String { "\(target.path)/\(futureName)" }

    /// The bytes that `copy` would copy.
    package func missing(of plan: Plan) -> Int {
        plan.parts.reduce(0) { $0 + $1.size - known($1, in: plan) }
    }

    /// How much of a part is there already.
    private func known(_ part: Plan.Part, in plan: Plan) -> Int {
        guard plan.generation == generation, let copied = copied[part.name],
            copied.identity === part.identity
        else { return 0 }
        return min(copied.size, part.size)
    }

    /// Gives up.
    package func abandon() {
        do throws(LogError) {
            try target.removeFuture(futureName)
        } catch {
            // The next start removes it.
        }
    }

    // MARK: Copying

    /// Copies what is missing of `plan`, durably.
    ///
    /// - Parameter pace: called after each piece with its size; may wait, and may throw to end it.
    package func copy(
        _ plan: Plan, pace: (Int) throws(LogError) -> Void = { _ in }
    ) throws(LogError) {
        try copy(plan, checksSealed: true, pace: pace)
    }

    private func copy(
        _ plan: Plan, checksSealed: Bool, pace: (Int) throws(LogError) -> Void
    ) throws(LogError) {
        if generation != plan.generation {
            copied = [:]
            generation = plan.generation
        }
        try removeForeign(plan)
        let total = plan.byteCount
        var done = total - missing(of: plan)
        progress.set(copied: done, total: total)
        for part in plan.parts {
            let start = known(part, in: plan)
            if start == part.size, let copied = copied[part.name], copied.isSealed || part.isActive
            {
                continue
            }
            do throws(LogError) {
                try copy(part, from: start, isChecked: checksSealed && !part.isActive) {
                    count throws(LogError) in
                    done += count
                    progress.set(copied: done, total: total)
                    try pace(count)
                }
            } catch {
                // Retention or compaction may have taken or replaced it: the next plan tells.
                switch error {
                case .io(let cause) where cause.isOfLostFile: break
                case .missingRecords: break
                default: throw error
                }
                copied[part.name] = nil
            }
        }
        try target.health.watch { () throws(FileError) in try fileSystem.syncDirectory(futurePath) }
    }

    /// Removes what is not in the plan any more.
    private func removeForeign(_ plan: Plan) throws(LogError) {
        let names = Set(plan.parts.filter { known($0, in: plan) > 0 || $0.size == 0 }.map(\.name))
        try io { () throws(FileError) in
            for file in try fileSystem.contents(of: futurePath) {
                guard let name = SegmentName(file), !names.contains(name) else { continue }
                try fileSystem.remove("\(futurePath)/\(file)")
                copied[name] = nil
            }
        }
    }

    private func copy(
        _ part: Plan.Part, from start: Int, isChecked: Bool,
        pace: (Int) throws(LogError) -> Void
    ) throws(LogError) {
        let name = part.name.log
        let old = try io { () throws(FileError) in
            try fileSystem.open("\(sourcePath)/\(name)", .readOnly)
        }
        let path = "\(futurePath)/\(name)"
        let new = try io { () throws(FileError) in
            try fileSystem.open(path, start == 0 ? .create : .readWrite)
        }
        var position = start
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: Self.chunkBytes, alignment: 4_096)
        defer { buffer.deallocate() }
        while position < part.size {
            let wanted = min(buffer.count, part.size - position)
            let count = try io { () throws(FileError) in
                try old.read(
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]), at: position)
            }
            guard count > 0 else {
                throw .missingRecords(from: part.name.baseOffset, to: part.name.baseOffset)
            }
            try io { () throws(FileError) in
                try new.write(UnsafeRawBufferPointer(rebasing: buffer[..<count]), at: position)
            }
            position += count
            try pace(count)
        }
        try target.health.watch { () throws(FileError) in try new.sync() }
        if !part.isActive {
            try copySmallFiles { SegmentName($0) == part.name }
            // It was read and written once, and is not to push out what others read.
            old.dropCache()
            new.dropCache()
        }
        if isChecked {
            // From the disk, as far as that can be had: the old segment is to be deleted.
            try check(new, part)
            new.dropCache()
        }
        copied[part.name] = Copied(
            identity: part.identity, size: part.size, isSealed: !part.isActive)
    }

    /// Reads a copied segment, and compares the checksums of its batches.
    private func check(_ file: any File, _ part: Plan.Part) throws(LogError) {
        var scanner = BatchScanner(
            file, from: 0, to: part.size, checksCRC: true, window: Self.chunkBytes)
        while true {
            switch try io({ () throws(FileError) in try scanner.next() }) {
            case .batch: continue
            case .end: return
            case .flaw(let error, let position):
                throw .corruptBatch(
                    segment: "\(futurePath)/\(part.name.log)", position: position, error)
            }
        }
    }

    /// Copies what lies beside the segments; what is lost of that can be made again from them.
    private func copySmallFiles(_ isWanted: (String) -> Bool) throws(LogError) {
        try io { () throws(FileError) in
            for name in try fileSystem.contents(of: sourcePath)
            where !name.hasSuffix(".log") && !Self.isOwn(name) && isWanted(name) {
                guard let bytes = try fileSystem.readFile("\(sourcePath)/\(name)") else { continue }
                let file = try fileSystem.open("\(futurePath)/\(name)", .create)
                try file.write(array: bytes, at: 0)
                try file.sync()
            }
        }
    }

    /// Files that every folder has for itself, or that are left over from something.
    private static func isOwn(_ name: String) -> Bool {
        name == PartitionMetadata.fileName || name == LogRecovery.damageMarker
            || [".tmp", ".deleted", ".cleaned", ".swap", LogRecovery.anewSuffix].contains {
                name.hasSuffix($0)
            }
    }

    // MARK: The swap

    /// What is on the target disk is looked at, not what it was told to hold: the old log is deleted next.
    private func checkFiles(of plan: Plan) throws(LogError) {
        for part in plan.parts {
            let path = "\(futurePath)/\(part.name.log)"
            let size = try io { () throws(FileError) in try fileSystem.size(of: path) }
            guard size == part.size else {
                throw .unexpectedFile(
                    path, reason: "it has \(size ?? 0) bytes, and \(part.size) were copied")
            }
        }
    }

    /// Copies the rest of a log that nobody uses, and puts the copy in its place.
    ///
    /// - Parameter highWatermark: what is known to be committed.
    /// - Returns: the name of the folder with the old log's files, for `LogDirectory.removeDeleted`;
    ///   `nil` if the old directory has failed.
    /// - Throws: when the log is still the one in the old directory; closed in order, if it could be.
    package func finish(_ log: Log, highWatermark: Offset) throws(LogError) -> String? {
        guard let plan = log.copyPlan() else { throw .closed }
        try log.flush()
        var checkpoint = source.checkpoint(of: folder.name)
        checkpoint.recoveryPoint = log.durableOffset
        checkpoint.highWatermark = min(highWatermark, log.durableOffset)
        if log.logStartOffset > plan.parts.first?.name.baseOffset ?? 0 {
            checkpoint.logStartOffset = log.logStartOffset
        }
        guard var metadata = try source.metadata(of: folder.name) else {
            throw .unexpectedFile(
                "\(sourcePath)/\(PartitionMetadata.fileName)", reason: "cannot be read")
        }
        checkpoint.hasProducers = log.hasProducers
        try source.closeLog(log)
        // Without reading it all again: somebody waits.
        try copy(plan, checksSealed: false) { _ in }
        guard plan.parts.allSatisfy({ copied[$0.name]?.size == $0.size }) else {
            throw .unexpectedFile(sourcePath, reason: "its files changed while they were copied")
        }
        let sealed = Set(plan.parts.dropLast().map(\.name))
        try copySmallFiles { name in SegmentName(name).map { !sealed.contains($0) } ?? true }
        try checkFiles(of: plan)
        metadata.moves += 1
        try target.health.watch { [metadata] () throws(FileError) in
            // Syncs the folder, too.
            try fileSystem.replaceFile(
                PartitionMetadata.fileName, in: futurePath, with: metadata.encoded)
        }
        do throws(LogError) {
            try target.adopt(futureName, as: folder.name, checkpoint)
        } catch {
            // The copy may or may not have the name after the next start: it must not count then.
            metadata.moves += 1
            let (fileSystem, bytes) = (source.fileSystem, metadata.encoded)
            let failure = error
            do throws(LogError) {
                try source.health.watch { () throws(FileError) in
                    try fileSystem.replaceFile(
                        PartitionMetadata.fileName, in: sourcePath, with: bytes)
                }
            } catch {
                // The copy would count after the next start, without what is written here until then.
                source.health.fail(
                    "a copy of \(folder) may be in force in \(target.path), and that it is not can't"
                        + " be noted: \(error)")
            }
            throw failure
        }
        do throws(LogError) {
            return try source.deleteLog(log)
        } catch {
            // Without a mark of a clean stop nobody trusts what is there, should it turn up alone.
            source.health.fail("a log that was moved away can't be deleted: \(error)")
            return nil
        }
    }
}

extension Log {
    /// What is to be copied to have all of the log; `nil` while it can't be used.
    package func copyPlan() -> LogCopy.Plan? {
        guard refusal == nil else { return nil }
        return LogCopy.Plan(
            parts: segments.map { segment in
                LogCopy.Plan.Part(
                    name: segment.name, identity: segment.identity, size: segment.size,
                    isActive: segment === active)
            }, generation: generation)
    }
}
