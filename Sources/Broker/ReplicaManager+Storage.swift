import Essentials
import Logging
import NIOCore
import NIOPosix
import Storage

/// Logs that open, are deleted, checkpointed and closed, all on storage threads.
extension ReplicaManager {
    func onPool(_ body: @escaping @Sendable () -> Void) {
        environment.onPool(body)
    }

    // MARK: Opening

    func open(_ replica: Replica) {
        guard openings.begin() else { return }
        let folder = replica.folder
        folders[folder] = replica.id
        var config = LogConfig()
        replica.initialSettings.apply(to: &config)
        let mayCreate = !assignedBefore.contains(replica.id)
        let epoch = brokerEpoch
        onPool { [self, disks, config] in
            let result: Result<(Opening, Offset), LogError>
            var checkedBytes = 0
            do throws(LogError) {
                // What is not open yet when the broker stops need not be opened to be closed.
                guard !openings.isStopping else { throw .closed }
                let (log, disk, report) = try disks.openLog(
                    folder, topicID: replica.id.topic, brokerEpoch: epoch, config: config,
                    mayCreate: mayCreate)
                note(report, of: folder)
                checkedBytes = report?.checkedBytes ?? 0
                var opening = Opening.sound(OpenedLog(log: log, disk: disk))
                if case .damaged(let offset, let error)? = report?.outcome {
                    logger.error(
                        "a log is damaged",
                        metadata: [
                            "partition": "\(folder)", "offset": "\(offset)", "error": "\(error)",
                        ])
                    let opened = OpenedLog(log: log, disk: disk)
                    opening = .damaged(DamagedLog(opened: opened, offset: offset))
                }
                let highWatermark = disk.directory.checkpoint(of: folder.name).highWatermark
                result = .success((opening, highWatermark))
            } catch {
                result = .failure(error)
            }
            recoveryProgress.opened(checkedBytes: checkedBytes)
            replica.eventLoop.execute { self.opened(replica, result) }
        }
    }

    private func note(_ report: RecoveryReport?, of folder: PartitionFolder) {
        switch report?.outcome {
        case .recovered(let truncatedBytes)? where truncatedBytes > 0:
            logger.warning(
                "cut off a torn tail",
                metadata: ["partition": "\(folder)", "bytes": "\(truncatedBytes)"])
        case .recovered?, .trusted?, .damaged?, nil:
            break
        }
    }

    /// What a storage thread brings back to its replica.
    enum Opening: Sendable {
        case sound(OpenedLog)
        case damaged(DamagedLog)

        var opened: OpenedLog {
            switch self {
            case .sound(let opened): opened
            case .damaged(let damaged): damaged.opened
            }
        }
    }

    /// Gives a replica its log, unless it is gone meanwhile; ends what was begun with `openings`.
    func opened(_ replica: Replica, _ result: Result<(Opening, Offset), LogError>) {
        // Last: the broker is not ready before what it has to report is known.
        defer { openingEnded(replica.id) }
        switch result {
        case .success((let opening, let highWatermark)):
            let opened = opening.opened
            if replica.isRemoved {
                delete(opened, of: replica)
            } else if replica.isClosed {
                // The broker stops; the log is as live as any other.
                onPool { [self] in
                    attempt("close a log in order", opened.log.folder) { () throws(LogError) in
                        try opened.disk.directory.closeLog(opened.log)
                    }
                    openings.end()
                }
            } else {
                switch opening {
                case .sound:
                    replica.open(opened, highWatermark: highWatermark)
                case .damaged(let damaged):
                    replica.tookDamage(opened, at: damaged.offset, highWatermark: highWatermark)
                }
                openings.end()
            }
        case .failure(let error):
            replica.hasFailedToOpen = true
            if replica.isRemoved {
                deleteUnopened(replica)
                return
            }
            defer { openings.end() }
            guard !replica.isClosed, !openings.isStopping else { return }
            switch error {
            case .io:
                openAgain(replica, after: error)
                replica.goOffline("\(error)")
            default:
                replica.goOffline("\(error)")
            }
        }
    }

    /// No room, or no more file descriptors: that may pass.
    private func openAgain(_ replica: Replica, after error: LogError) {
        logger.error(
            "cannot open a log, trying again",
            metadata: ["partition": "\(replica.name)", "error": "\(error)"])
        replica.eventLoop.scheduleTask(in: .seconds(1)) { [self] in
            guard !replica.isClosed else { return }
            replica.hasFailedToOpen = false
            controlLoop.execute { [self] in open(replica) }
        }
    }

    /// Takes every replica on a log directory that has failed out of service; any thread.
    func diskFailed(_ disk: ReplicaDisk, _ error: LogError) {
        for shard in shards {
            shard.eventLoop.execute {
                for replica in shard.replicas.values where replica.opened?.disk === disk {
                    replica.goOffline("\(error)")
                }
            }
        }
    }

    // MARK: Deleting

    /// Deletes the log of a removed replica; ends what the caller has begun with `openings`.
    func delete(_ opened: OpenedLog, of replica: Replica) {
        let folder = replica.folder
        onPool { [self, disks, logger] in
            do throws(LogError) {
                try disks.delete(opened.log, folder: folder, on: opened.disk)
            } catch {
                logger.error(
                    "cannot delete a log",
                    metadata: ["partition": "\(folder)", "error": "\(error)"])
            }
            openings.end()
            controlLoop.execute { self.folderIsFree(folder) }
        }
    }

    /// Deletes the log of a removed replica that could not be opened; ends what was begun, too.
    func deleteUnopened(_ replica: Replica) {
        let folder = replica.folder
        onPool { [self] in
            attempt("delete a log", folder.name) { () throws(LogError) in
                try disks.deleteUnopened(folder, topicID: replica.id.topic)
            }
            openings.end()
            controlLoop.execute { self.folderIsFree(folder) }
        }
    }

    private func folderIsFree(_ folder: PartitionFolder) {
        folders[folder] = nil
        guard let waiting = waitingForFolder.removeValue(forKey: folder) else { return }
        open(waiting)
    }

    // MARK: Checkpoints

    func startCheckpoints() {
        let interval = TimeAmount.nanoseconds(options.checkpointInterval.nanoseconds)
        controlLoop.execute { [self] in
            checkpointTimer = controlLoop.scheduleRepeatedTask(
                initialDelay: interval, delay: interval
            ) { [unowned self] _ in
                for shard in shards {
                    shard.eventLoop.execute { [self] in checkpoint(shard) }
                }
            }
        }
    }

    /// Notes the high watermarks and recovery points of one loop's replicas.
    private func checkpoint(_ shard: ReplicaShard) {
        let checkpoints = shard.takeCheckpoints()
        guard !checkpoints.isEmpty else { return }
        onPool { [self] in
            for (disk, logs) in checkpoints {
                attempt("write checkpoints", disk.directory.path) { () throws(LogError) in
                    do throws(LogError) {
                        try disk.directory.checkpoint(logs)
                    } catch {
                        disk.writeFailed(error)
                        throw error
                    }
                }
            }
        }
    }

    // MARK: Retention

    func startRetention() {
        let interval = TimeAmount.nanoseconds(options.retentionCheckInterval.nanoseconds)
        controlLoop.execute { [self] in
            retentionTimer = controlLoop.scheduleRepeatedTask(
                initialDelay: interval, delay: interval
            ) { [unowned self] _ in
                // Records say when they are from, by the clock on the wall.
                let wallClock = environment.wallClock()
                for shard in shards {
                    shard.eventLoop.execute { shard.retain(wallClock: wallClock) }
                }
            }
        }
    }

    // MARK: The end

    /// Ends all service, makes every log durable and leaves the mark of a clean stop.
    func stop() async {
        let isFirst = await withCheckedContinuation { continuation in
            controlLoop.execute { [self] in
                defer { isStopping = true }
                checkpointTimer?.cancel()
                retentionTimer?.cancel()
                continuation.resume(returning: !isStopping)
            }
        }
        guard isFirst else { return }
        openings.stop()
        moves.stop()
        environment.fetchers.close()
        await cleaner.stop()
        await withCheckedContinuation { continuation in
            controlLoop.execute { [self] in
                environment.reports.close()
                continuation.resume()
            }
        }
        var logs: [(opened: OpenedLog, highWatermark: Offset)] = []
        for shard in shards {
            logs += await withCheckedContinuation { continuation in
                shard.eventLoop.execute { continuation.resume(returning: shard.closeAll()) }
            }
        }
        await close(logs)
        // Their logs are closed, or deleted, before the directories are.
        await openings.ended()
        await moves.ended()
        await withCheckedContinuation { continuation in
            pool.submit { [self] _ in
                disks.close(clean: true, brokerEpoch: brokerEpoch)
                continuation.resume()
            }
        }
        for disk in disks.disks { await disk.reads.stop() }
        try? await pool.shutdownGracefully()
    }

    private func close(_ all: [(opened: OpenedLog, highWatermark: Offset)]) async {
        // With a failed directory nothing is left in order.
        let logs = all.filter { !$0.opened.disk.hasFailed }
        await flush(logs.map(\.opened))
        // Only now may high watermarks be noted in full: all below them is durable.
        await withCheckedContinuation { continuation in
            pool.submit { [self] _ in
                for disk in disks.disks where !disk.hasFailed {
                    var checkpoints: [String: LogCheckpoint] = [:]
                    for (opened, highWatermark) in logs where opened.disk === disk {
                        checkpoints[opened.log.folder] =
                            opened.log.checkpoint(highWatermark: highWatermark)
                    }
                    attempt("write checkpoints", disk.directory.path) { () throws(LogError) in
                        try disk.directory.checkpoint(checkpoints)
                    }
                }
                continuation.resume()
            }
        }
        await onPool(each: logs.map(\.opened)) { [self] opened in
            attempt("close a log in order", opened.log.folder) { () throws(LogError) in
                try opened.disk.directory.closeLog(opened.log)
            }
        }
    }

    /// Makes all the logs durable, together where that is cheaper.
    private func flush(_ logs: [OpenedLog]) async {
        await withTaskGroup(of: Void.self) { group in
            for opened in logs {
                let ticket = opened.log.prepareFlush()
                guard !ticket.isEmpty else { continue }
                group.addTask { [self] in
                    let result = await withCheckedContinuation { continuation in
                        opened.disk.flusher.submit(ticket) { continuation.resume(returning: $0) }
                    }
                    attempt("flush a log", opened.log.folder) { () throws(LogError) in
                        try result.get()
                        opened.log.completeFlush(ticket)
                    }
                }
            }
        }
    }

    /// Calls `body` for each of the logs, on all storage threads, and returns when that is done.
    private func onPool(
        each logs: [OpenedLog], _ body: @escaping @Sendable (OpenedLog) -> Void
    ) async {
        let count = max(1, options.storageThreads)
        await withTaskGroup(of: Void.self) { group in
            for part in 0..<count {
                group.addTask { [pool] in
                    await withCheckedContinuation { continuation in
                        pool.submit { _ in
                            for index in stride(from: part, to: logs.count, by: count) {
                                body(logs[index])
                            }
                            continuation.resume()
                        }
                    }
                }
            }
        }
    }

    private func attempt(
        _ what: String, _ path: String, _ body: () throws(LogError) -> Void
    ) {
        do throws(LogError) {
            try body()
        } catch {
            logger.error("cannot \(what)", metadata: ["path": "\(path)", "error": "\(error)"])
        }
    }
}
