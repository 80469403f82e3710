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
        onPool { [logger] in Self.write(checkpoints, logger: logger) }
    }

    static func write(
        _ checkpoints: [(disk: ReplicaDisk, logs: [String: LogCheckpoint])], logger: Logger
    ) {
        for (disk, logs) in checkpoints {
            do throws(LogError) {
                try disk.directory.checkpoint(logs)
            } catch {
                logger.error(
                    "cannot write checkpoints",
                    metadata: ["directory": "\(disk.directory.path)", "error": "\(error)"])
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
            let (checkpoints, logs) = await withCheckedContinuation { continuation in
                shard.eventLoop.execute {
                    let checkpoints = shard.takeCheckpoints(all: true)
                    continuation.resume(returning: (checkpoints, shard.closeAll()))
                }
            }
            await close(logs, checkpoints)
        }
        await withCheckedContinuation { continuation in
            pool.submit { [self] _ in
                disks.close(clean: true, brokerEpoch: brokerEpoch)
                continuation.resume()
            }
        }
        try? await pool.shutdownGracefully()
    }

    private func close(
        _ logs: [OpenedLog],
        _ checkpoints: [(disk: ReplicaDisk, logs: [String: LogCheckpoint])]
    ) async {
        await withCheckedContinuation { continuation in
            pool.submit { [logger] _ in
                for opened in logs {
                    do throws(LogError) {
                        try opened.disk.directory.closeLog(opened.log)
                    } catch {
                        logger.error(
                            "a log could not be closed in order",
                            metadata: ["log": "\(opened.log.folder)", "error": "\(error)"])
                    }
                }
                Self.write(checkpoints, logger: logger)
                continuation.resume()
            }
        }
    }
}
