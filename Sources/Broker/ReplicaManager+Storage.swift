import Essentials
import Logging
import NIOCore
import NIOPosix
import Storage

/// Logs that open, are deleted, checkpointed and closed, all on storage threads.
extension ReplicaManager {
    func onPool(_ body: @escaping @Sendable () -> Void) {
        pool.submit { state in
            switch state {
            case .active: body()
            // The broker stops, and the next start finds what was not done.
            case .cancelled: break
            }
        }
    }

    // MARK: Opening

    func open(_ replica: Replica) {
        let folder = replica.folder
        folders[folder] = replica.id
        var config = LogConfig()
        config.segmentBytes = replica.initialSettings.segmentBytes
        onPool { [self, disks, config] in
            let result: Result<(OpenedLog, Offset), LogError>
            do throws(LogError) {
                let (log, disk, report) = try disks.openLog(
                    folder, topicID: replica.id.topic, config: config)
                note(report, of: folder)
                if case .damaged(let offset, let error)? = report?.outcome {
                    try log.close(clean: false)
                    throw LogError.offline("damaged at offset \(offset): \(error)")
                }
                result = .success(
                    (
                        OpenedLog(log: log, disk: disk),
                        disk.directory.checkpoint(of: folder.name).highWatermark
                    ))
            } catch {
                result = .failure(error)
            }
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

    private func opened(_ replica: Replica, _ result: Result<(OpenedLog, Offset), LogError>) {
        switch result {
        case .success((let opened, let highWatermark)):
            if replica.isClosed {
                delete(opened, of: replica)
            } else {
                replica.open(opened, highWatermark: highWatermark)
            }
        case .failure(let error):
            replica.goOffline("\(error)")
            if replica.isClosed { controlLoop.execute { self.folderIsFree(replica.folder) } }
        }
    }

    // MARK: Deleting

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
                    try disk.directory.checkpoint(logs)
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
                continuation.resume(returning: !isStopping)
            }
        }
        guard isFirst else { return }
        environment.fetchers.close()
        for shard in shards {
            let logs = await withCheckedContinuation { continuation in
                shard.eventLoop.execute { continuation.resume(returning: shard.closeAll()) }
            }
            await close(logs)
        }
        await withCheckedContinuation { continuation in
            pool.submit { [self] _ in
                disks.close(clean: true, brokerEpoch: brokerEpoch)
                continuation.resume()
            }
        }
        try? await pool.shutdownGracefully()
    }

    private func close(_ logs: [(opened: OpenedLog, highWatermark: Offset)]) async {
        await withCheckedContinuation { continuation in
            pool.submit { [self] _ in
                for (opened, _) in logs {
                    attempt("flush a log", opened.log.folder) { () throws(LogError) in
                        try opened.log.flush()
                    }
                }
                // Only now may high watermarks be noted in full: all below them is durable.
                for disk in disks.disks {
                    var checkpoints: [String: LogCheckpoint] = [:]
                    for (opened, highWatermark) in logs where opened.disk === disk {
                        checkpoints[opened.log.folder] =
                            opened.log.checkpoint(highWatermark: highWatermark)
                    }
                    attempt("write checkpoints", disk.directory.path) { () throws(LogError) in
                        try disk.directory.checkpoint(checkpoints)
                    }
                }
                for (opened, _) in logs {
                    attempt("close a log in order", opened.log.folder) { () throws(LogError) in
                        try opened.disk.directory.closeLog(opened.log)
                    }
                }
                continuation.resume()
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
