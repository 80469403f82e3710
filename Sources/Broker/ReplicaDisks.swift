import Essentials
import Logging
import Storage
import Synchronization

/// One log directory, what flushes the logs in it, and what reads from them and may wait.
final class ReplicaDisk: Sendable {
    let directory: LogDirectory
    let flusher: LogFlusher
    let reads = DiskReads()

    init(directory: LogDirectory) {
        self.directory = directory
        // Without it each log is synced on its own, which is never wrong.
        flusher = LogFlusher(
            volume: (try? directory.fileSystem.volume(of: directory.path)) ?? nil)
    }

    var hasFailed: Bool { directory.health.failure != nil }

    /// Takes the directory out of use if a write has failed in a way that no later one would not.
    func writeFailed(_ error: LogError) {
        guard error.isOfOneDisk, !hasFailed else { return }
        directory.health.fail("\(error)")
    }
}

/// The log directories of a broker.
///
/// Any thread; what touches the disk blocks and belongs on a storage thread.
final class ReplicaDisks: Sendable {
    /// Those that could be opened; some may have failed since.
    let disks: [ReplicaDisk]
    /// Those that could not.
    let unusable: [LogDirectorySurvey.Unusable]
    private let required: String?
    /// By disk, what moves that were cut short have left: those of this process have other names.
    private let leftoverCopies: [[String]]
    private let logger: Logger
    // A lock, because logs are opened on several threads; held for look-ups only.
    private let placement: Mutex<Placement>

    private struct Placement {
        /// Which disk a partition's folder is on.
        var disk: [PartitionFolder: Int] = [:]
        /// How many folders are on each.
        var counts: [Int]
        /// All the disks on which a partition has a folder, where it has more than one.
        var copies: [PartitionFolder: [Int]] = [:]
        /// Those of which nobody can tell on which disk the right one is.
        var undecided: Set<PartitionFolder> = []
    }

    /// Opens and locks every directory, but for those whose disks are broken.
    ///
    /// - Parameters:
    ///   - unusable: directories that are known to be out of use.
    ///   - required: the directory that this broker can't do without.
    /// - Throws: when a directory is in use by another process, when the required one can't be used, and
    ///   when none can.
    init(
        paths: [String], unusable: [LogDirectorySurvey.Unusable] = [], required: String? = nil,
        fileSystem: any FileSystem = .local, logger: Logger
    ) throws(LogError) {
        var disks: [ReplicaDisk] = []
        var unusable = unusable
        var placement = Placement(counts: [])
        var leftoverCopies: [[String]] = []
        var first: LogError?
        for path in paths {
            do throws(LogError) {
                let (directory, folders) = try Self.open(path, fileSystem, logger)
                leftoverCopies.append(try directory.futureFolders())
                for folder in folders {
                    if let other = placement.disk[folder] {
                        placement.copies[folder, default: [other]].append(disks.count)
                    } else {
                        placement.disk[folder] = disks.count
                    }
                }
                disks.append(ReplicaDisk(directory: directory))
            } catch {
                guard error.isOfOneDisk, path != required else { throw error }
                first = first ?? error
                unusable.append(LogDirectorySurvey.Unusable(path: path, reason: "\(error)"))
            }
        }
        if disks.isEmpty, let first { throw first }
        invariant(!disks.isEmpty, "a broker needs a log directory")
        for directory in unusable {
            logger.critical(
                "a log directory can't be used; its replicas are offline",
                metadata: ["path": "\(directory.path)", "reason": "\(directory.reason)"])
        }
        placement.counts = disks.indices.map { index in
            placement.disk.values.count { $0 == index }
        }
        self.disks = disks
        self.unusable = unusable
        self.required = required
        self.leftoverCopies = leftoverCopies
        self.logger = logger
        self.placement = Mutex(placement)
    }

    private static func open(
        _ path: String, _ fileSystem: any FileSystem, _ logger: Logger
    ) throws(LogError) -> (LogDirectory, [PartitionFolder]) {
        let directory = try LogDirectory.open(path, fileSystem: fileSystem)
        let folders = try directory.partitionFolders()
        do throws(LogError) {
            try directory.forgetDeleted()
        } catch {
            // Here it is forgotten, and there may be room when their files are removed.
            guard case .io(let cause) = error, cause.isOutOfSpace else { throw error }
            logger.warning(
                "cannot note that logs are deleted",
                metadata: ["directory": "\(path)", "error": "\(error)"])
        }
        return (directory, folders)
    }

    /// Calls `body` once for each log directory that fails, on the thread that finds it out.
    func onFailure(_ body: @escaping @Sendable (ReplicaDisk, LogError) -> Void) {
        for disk in disks {
            disk.directory.health.onFailure { error in body(disk, error) }
        }
    }

    /// Whether the broker can go on: not without the directory that it needs, nor without any.
    var canGoOn: Bool {
        disks.contains { !$0.hasFailed }
            && disks.allSatisfy { !$0.hasFailed || $0.directory.path != required }
    }

    /// What the last process proved when it stopped in order; `none` if it did not.
    ///
    /// Every directory that is open has to bear the mark of a clean stop. One that had been out of use
    /// since an earlier stop bears an older one, and is as it was then: its replicas were offline, and
    /// were reported so, in between.
    var previousBrokerEpoch: BrokerEpoch {
        var last = BrokerEpoch.none
        for disk in disks {
            guard disk.directory.wasCleanShutdown, let epoch = disk.directory.lastBrokerEpoch else {
                return .none
            }
            last = max(last, epoch)
        }
        return last
    }

    /// Opens the log of a partition, or makes it; one of another topic's id has to make way.
    ///
    /// - Parameter mayCreate: whether the log may be new; if not it is somewhere, and if not here then
    ///   in a directory that can't be used.
    /// - Throws: also when there should be records and they are not there, or not certainly this
    ///   topic's: in a new log in their place the loss would go unnoticed.
    func openLog(
        _ folder: PartitionFolder, topicID: TopicID, brokerEpoch: BrokerEpoch = .none,
        config: LogConfig, mayCreate: Bool = true
    ) throws(LogError) -> (log: Log, disk: ReplicaDisk, report: RecoveryReport?) {
        guard !placement.withLock({ $0.undecided.contains(folder) }) else {
            throw .offline(
                "it is in several log directories, and which copy counts can't be read; remove all"
                    + " but one")
        }
        if let disk = existing(folder) {
            try disk.directory.health.check()
            switch try disk.directory.topicID(of: folder.name) {
            case topicID?:
                let (log, report) = try disk.directory.openLog(folder.name, config: config)
                return (log, disk, report)
            case .some:
                try delete(folder, of: disk)
            case nil:
                if disk.directory.hasRecords(folder.name) {
                    throw .unexpectedFile(
                        "\(folder)/partition.metadata", reason: "cannot be read beside records")
                }
                // A power failure left it before it could hold anything.
                try delete(folder, of: disk)
            }
        }
        guard mayCreate else {
            throw .offline("it is in none of the log directories that can be used")
        }
        for disk in disks where !disk.hasFailed {
            let highWatermark = disk.directory.checkpoint(of: folder.name).highWatermark
            guard highWatermark > 0 else { continue }
            // Another replica may have them. In an empty log, not said to be damaged, the loss would go
            // unnoticed.
            let (log, report) = try disk.directory.createMissingLog(
                folder, topicID: topicID, brokerEpoch: brokerEpoch, config: config)
            moved(folder, to: disk)
            return (log, disk, report)
        }
        let disk = existing(folder) ?? place(folder)
        do throws(LogError) {
            let log = try disk.directory.createLog(
                folder, topicID: topicID, brokerEpoch: brokerEpoch, config: config)
            return (log, disk, nil)
        } catch {
            // Not even a folder was made: the next try may choose another directory.
            if !disk.directory.hasFolder(folder.name) { forget(folder) }
            throw error
        }
    }

    private func existing(_ folder: PartitionFolder) -> ReplicaDisk? {
        placement.withLock { $0.disk[folder] }.map { disks[$0] }
    }

    /// Chooses a directory for a new log: the one with the fewest, and of those the one with the most
    /// free space; while there are others, none that is nearly full.
    private func place(_ folder: PartitionFolder) -> ReplicaDisk {
        // Without the lock, since it asks the file systems.
        let spaces = disks.map { disk in
            disk.hasFailed ? nil : try? disk.directory.fileSystem.space(at: disk.directory.path)
        }
        let index = placement.withLock { placement in
            let index =
                disks.indices.filter { !disks[$0].hasFailed }.min { left, right in
                    let isFull = (spaces[left]?.isScarce ?? false, spaces[right]?.isScarce ?? false)
                    let free = (spaces[left]?.free ?? 0, spaces[right]?.free ?? 0)
                    if isFull.0 != isFull.1 { return isFull.1 }
                    let counts = (placement.counts[left], placement.counts[right])
                    if counts.0 != counts.1, !isFull.0 { return counts.0 < counts.1 }
                    return free.0 > free.1
                } ?? 0
            placement.disk[folder] = index
            placement.counts[index] += 1
            return index
        }
        return disks[index]
    }

    /// The log of a partition is on another disk now.
    func moved(_ folder: PartitionFolder, to disk: ReplicaDisk) {
        guard let index = disks.firstIndex(where: { $0 === disk }) else { return }
        placement.withLock { placement in
            if let old = placement.disk.updateValue(index, forKey: folder) {
                placement.counts[old] -= 1
            }
            placement.counts[index] += 1
        }
    }

    private func forget(_ folder: PartitionFolder) {
        placement.withLock { placement in
            guard let index = placement.disk.removeValue(forKey: folder) else { return }
            placement.counts[index] -= 1
        }
    }

    // MARK: Deleting

    /// Deletes an open log.
    func delete(_ log: Log, folder: PartitionFolder, on disk: ReplicaDisk) throws(LogError) {
        // Of a failed disk this broker has no more use: the next start finds what is left there.
        defer { if disk.hasFailed { forget(folder) } }
        let leftover = try disk.directory.deleteLog(log)
        forget(folder)
        try disk.directory.removeDeleted(leftover)
    }

    /// Deletes a log that is not open, unless it may be another topic's.
    func deleteUnopened(_ folder: PartitionFolder, topicID: TopicID) throws(LogError) {
        guard let disk = existing(folder) else { return }
        guard !disk.hasFailed else { return forget(folder) }
        switch try disk.directory.topicID(of: folder.name) {
        case topicID?: try delete(folder, of: disk)
        case .some: break
        case nil where disk.directory.hasRecords(folder.name): break
        case nil: try delete(folder, of: disk)
        }
    }

    private func delete(_ folder: PartitionFolder, of disk: ReplicaDisk) throws(LogError) {
        guard disk.directory.hasFolder(folder.name) else { return forget(folder) }
        logger.info("deleting the log of a deleted topic", metadata: ["folder": "\(folder.name)"])
        let leftover = try disk.directory.deleteLog(inFolder: folder.name)
        forget(folder)
        try disk.directory.removeDeleted(leftover)
    }

    /// Deletes the logs that are assigned here no more.
    ///
    /// Before any log is opened, lest a topic of the same name is given the folder meanwhile.
    /// - Parameter isLedElsewhere: whether the partition's records can be fetched from another broker.
    func deleteStrays(
        isAssigned: (TopicPartition) -> Bool,
        isLedElsewhere: (TopicPartition) -> Bool = { _ in true }
    ) {
        let copies = placement.withLock { placement in
            defer { placement.copies = [:] }
            return placement.copies
        }
        for (folder, indices) in copies {
            choose(
                of: indices, folder,
                isWanted: { isAssigned(TopicPartition(topic: $0, partition: folder.partition)) },
                isLedElsewhere: {
                    isLedElsewhere(TopicPartition(topic: $0, partition: folder.partition))
                })
        }
        for disk in disks {
            let folders = placement.withLock { placement in
                placement.disk.keys.filter {
                    disks[placement.disk[$0] ?? 0] === disk && !placement.undecided.contains($0)
                }.sorted()
            }
            for folder in folders {
                do throws(LogError) {
                    // Without a readable id nobody can tell whose it is: left for a person.
                    guard let topic = try disk.directory.topicID(of: folder.name),
                        !isAssigned(TopicPartition(topic: topic, partition: folder.partition))
                    else { continue }
                    logger.info("deleting a stray log", metadata: ["folder": "\(folder.name)"])
                    _ = try disk.directory.deleteLog(inFolder: folder.name)
                    forget(folder)
                } catch {
                    logger.error(
                        "cannot delete a stray log",
                        metadata: [
                            "path": "\(disk.directory.path)/\(folder.name)", "error": "\(error)",
                        ])
                }
            }
        }
    }

    /// Decides which of several copies of a log counts, and deletes the others.
    ///
    /// There are several when a directory was out of use, and the log was made anew elsewhere meanwhile;
    /// or when a crash cut a move short between its two renames. In the first case what was made anew may
    /// be all but empty, and the older copy the only one with the records: while nobody else leads, it is
    /// kept, and used if there is nothing in the newer.
    private func choose(
        of indices: [Int], _ folder: PartitionFolder, isWanted: (TopicID) -> Bool,
        isLedElsewhere: (TopicID) -> Bool
    ) {
        var found: [CopyFound] = []
        var isUndecided = false
        for index in indices {
            let directory = disks[index].directory
            do throws(LogError) {
                if let topic = try directory.topicID(of: folder.name),
                    let order = try directory.copyOrder(of: folder.name)
                {
                    found.append(
                        CopyFound(
                            index: index, order: order, isWanted: isWanted(topic),
                            isLedElsewhere: isLedElsewhere(topic),
                            hasRecords: directory.hasRecords(folder.name),
                            isKnownToHaveHadRecords: directory.checkpoint(of: folder.name)
                                .highWatermark > 0))
                    continue
                }
                // Without records a power failure has left it before it could hold anything.
                isUndecided = isUndecided || directory.hasRecords(folder.name)
            } catch {
                isUndecided = true
                logger.error(
                    "cannot tell whose log this is",
                    metadata: ["path": "\(directory.path)/\(folder.name)", "error": "\(error)"])
            }
        }
        guard !isUndecided else {
            logger.error(
                "a log is in several directories, and which copy counts can't be read: none is used",
                metadata: ["folder": "\(folder)"])
            return placement.withLock { _ = $0.undecided.insert(folder) }
        }
        let wanted = found.filter(\.isWanted)
        let newest = wanted.max { $0.order < $1.order }
        let fullest = wanted.filter(\.hasRecords).max { $0.order < $1.order }
        let isNewestEmpty =
            newest.map { !$0.isLedElsewhere && !$0.hasRecords && !$0.isKnownToHaveHadRecords }
            ?? false
        guard let winner = (isNewestEmpty ? fullest ?? newest : newest) ?? found.first else {
            return
        }
        placement.withLock { placement in
            if let old = placement.disk.updateValue(winner.index, forKey: folder) {
                placement.counts[old] -= 1
            }
            placement.counts[winner.index] += 1
        }
        // The winner is a stray like any other if it isn't wanted. Of two of the same order nobody can
        // tell: one is used, and the other left for a person.
        for copy in found where copy.index != winner.index {
            guard !copy.isWanted || copy.order < winner.order else { continue }
            let directory = disks[copy.index].directory
            if copy.isWanted, copy.hasRecords, !copy.isLedElsewhere,
                copy.order.brokerEpoch < winner.order.brokerEpoch
            {
                logger.warning(
                    "an older copy of a log is kept, since no other broker leads the partition",
                    metadata: [
                        "path": "\(directory.path)/\(folder.name)",
                        "instead": "\(disks[winner.index].directory.path)",
                    ])
                continue
            }
            logger.warning(
                "deleting an older copy of a log",
                metadata: [
                    "path": "\(directory.path)/\(folder.name)",
                    "instead": "\(disks[winner.index].directory.path)",
                ])
            do throws(LogError) {
                _ = try directory.deleteLog(inFolder: folder.name)
            } catch {
                logger.error(
                    "cannot delete an older copy of a log",
                    metadata: ["path": "\(directory.path)/\(folder.name)", "error": "\(error)"])
                // Without a mark of a clean stop nobody trusts what is there, should it turn up alone.
                directory.health.fail("an older copy of \(folder) can't be deleted: \(error)")
            }
        }
    }

    /// How many bytes of logs have to be checked before all can be used, about.
    func bytesToCheck() -> Int {
        let folders = placement.withLock { $0.disk }
        return folders.reduce(0) { sum, entry in
            sum + disks[entry.value].directory.bytesToCheck(entry.key.name)
        }
    }

    /// One of several logs of a partition.
    private struct CopyFound {
        /// Which disk it is on.
        var index: Int
        var order: LogCopyOrder
        var isWanted: Bool
        var isLedElsewhere: Bool
        var hasRecords: Bool
        /// Whether some were committed, and may have been deleted since.
        var isKnownToHaveHadRecords: Bool
    }

    /// Removes the files of deleted logs.
    func removeLeftovers() {
        for (disk, copies) in zip(disks, leftoverCopies) {
            do throws(LogError) {
                for copy in copies {
                    try disk.directory.removeFuture(copy)
                }
                for leftover in try disk.directory.deletedFolders() {
                    remove(leftover, from: disk.directory)
                }
            } catch {
                logger.error(
                    "cannot look for the files of deleted logs",
                    metadata: ["directory": "\(disk.directory.path)", "error": "\(error)"])
            }
        }
    }

    private func remove(_ leftover: String, from directory: LogDirectory) {
        do throws(LogError) {
            try directory.removeDeleted(leftover)
        } catch {
            logger.error(
                "cannot remove the files of a deleted log",
                metadata: ["path": "\(directory.path)/\(leftover)", "error": "\(error)"])
        }
    }

    // MARK: The end

    /// Gives the directories back; blocks until all flushes are done.
    func close(clean: Bool, brokerEpoch: BrokerEpoch) {
        for disk in disks {
            disk.flusher.stop()
            if let failure = disk.directory.health.failure {
                logger.warning(
                    "a log directory failed and is left as it is",
                    metadata: ["directory": "\(disk.directory.path)", "error": "\(failure)"])
            }
            do throws(LogError) {
                try disk.directory.close(clean: clean, brokerEpoch: brokerEpoch)
            } catch {
                logger.error(
                    "a log directory could not be closed in order",
                    metadata: ["directory": "\(disk.directory.path)", "error": "\(error)"])
            }
        }
    }
}

extension LogError {
    /// Whether other directories may be all right.
    fileprivate var isOfOneDisk: Bool {
        switch self {
        case .io(let error): error.isOfOneDisk
        case .offline: true
        default: false
        }
    }
}
