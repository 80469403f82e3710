import Essentials
import Logging
import Storage
import Synchronization

/// One log directory and what flushes the logs in it.
final class ReplicaDisk: Sendable {
    let directory: LogDirectory
    let flusher: LogFlusher

    init(directory: LogDirectory) {
        self.directory = directory
        flusher = LogFlusher()
    }
}

/// The log directories of a broker.
///
/// Any thread; what touches the disk blocks and belongs on a storage thread.
final class ReplicaDisks: Sendable {
    let disks: [ReplicaDisk]
    private let logger: Logger
    // A lock, because logs are opened on several threads; held for look-ups only.
    private let placement: Mutex<Placement>

    private struct Placement {
        /// Which disk a partition's folder is on.
        var disk: [PartitionFolder: Int] = [:]
        /// How many folders are on each.
        var counts: [Int]
    }

    /// Opens and locks every directory.
    ///
    /// - Throws: the first directory's failure: a start without a disk has to be wanted.
    init(
        paths: [String], fileSystem: any FileSystem = .local, logger: Logger
    ) throws(LogError) {
        var disks: [ReplicaDisk] = []
        var placement = Placement(counts: [])
        for path in paths {
            let directory = try LogDirectory.open(path, fileSystem: fileSystem)
            for folder in try directory.partitionFolders() {
                placement.disk[folder] = disks.count
            }
            do throws(LogError) {
                try directory.forgetDeleted()
            } catch {
                // Here it is forgotten, and there may be room when their files are removed.
                guard case .io(let cause) = error, cause.isOutOfSpace else { throw error }
                logger.warning(
                    "cannot note that logs are deleted",
                    metadata: ["directory": "\(path)", "error": "\(error)"])
            }
            disks.append(ReplicaDisk(directory: directory))
            placement.counts.append(placement.disk.values.count { $0 == disks.count - 1 })
        }
        invariant(!disks.isEmpty, "a broker needs a log directory")
        self.disks = disks
        self.logger = logger
        self.placement = Mutex(placement)
    }

    /// Calls `body` once for each log directory that fails, on the thread that finds it out.
    func onFailure(_ body: @escaping @Sendable (String, LogError) -> Void) {
        for disk in disks {
            disk.directory.health.onFailure { error in body(disk.directory.path, error) }
        }
    }

    /// What the last process proved when it stopped in order; `none` if it did not, in any directory.
    var previousBrokerEpoch: BrokerEpoch {
        let epochs = disks.map {
            $0.directory.wasCleanShutdown ? $0.directory.lastBrokerEpoch : nil
        }
        guard let first = epochs.first ?? nil, epochs.allSatisfy({ $0 == first }) else {
            return .none
        }
        return first
    }

    /// Opens the log of a partition, or makes it; one of another topic's id has to make way.
    ///
    /// - Throws: also when there should be records and they are not there, or not certainly this
    ///   topic's: in a new log in their place the loss would go unnoticed.
    func openLog(
        _ folder: PartitionFolder, topicID: TopicID, config: LogConfig
    ) throws(LogError) -> (log: Log, disk: ReplicaDisk, report: RecoveryReport?) {
        if let disk = existing(folder) {
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
            }
        }
        for disk in disks {
            let highWatermark = disk.directory.checkpoint(of: folder.name).highWatermark
            if highWatermark > 0 { throw .missingRecords(from: 0, to: highWatermark) }
        }
        let disk = existing(folder) ?? place(folder)
        let log = try disk.directory.createLog(folder, topicID: topicID, config: config)
        return (log, disk, nil)
    }

    private func existing(_ folder: PartitionFolder) -> ReplicaDisk? {
        placement.withLock { $0.disk[folder] }.map { disks[$0] }
    }

    private func place(_ folder: PartitionFolder) -> ReplicaDisk {
        let index = placement.withLock { placement in
            let index =
                placement.counts.indices.filter { disks[$0].directory.health.failure == nil }
                .min { placement.counts[$0] < placement.counts[$1] } ?? 0
            placement.disk[folder] = index
            placement.counts[index] += 1
            return index
        }
        return disks[index]
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
        let leftover = try disk.directory.deleteLog(log)
        forget(folder)
        try disk.directory.removeDeleted(leftover)
    }

    /// Deletes a log that is not open, unless it may be another topic's.
    func deleteUnopened(_ folder: PartitionFolder, topicID: TopicID) throws(LogError) {
        guard let disk = existing(folder) else { return }
        switch try disk.directory.topicID(of: folder.name) {
        case topicID?: try delete(folder, of: disk)
        case .some: break
        case nil where disk.directory.hasRecords(folder.name): break
        case nil: try delete(folder, of: disk)
        }
    }

    private func delete(_ folder: PartitionFolder, of disk: ReplicaDisk) throws(LogError) {
        logger.info("deleting the log of a deleted topic", metadata: ["folder": "\(folder.name)"])
        let leftover = try disk.directory.deleteLog(inFolder: folder.name)
        forget(folder)
        try disk.directory.removeDeleted(leftover)
    }

    /// Deletes the logs that are assigned here no more.
    ///
    /// Before any log is opened, lest a topic of the same name is given the folder meanwhile.
    func deleteStrays(isAssigned: (TopicPartition) -> Bool) {
        for disk in disks {
            let folders = placement.withLock { placement in
                placement.disk.keys.filter { disks[placement.disk[$0] ?? 0] === disk }.sorted()
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

    /// Removes the files of deleted logs.
    func removeLeftovers() {
        for disk in disks {
            do throws(LogError) {
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
