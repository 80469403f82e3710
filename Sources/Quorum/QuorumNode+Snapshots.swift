internal import Essentials
internal import Foundation
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import Protocol
internal import Raft
internal import Storage

/// Taking snapshots, fetching the leader's, and handing them to others.
extension QuorumNode {
    /// How long after one that failed the next is tried.
    private static let retryInterval = Duration.seconds(5)
    /// A snapshot that claims to be larger is refused.
    static let maxSnapshotBytes: Int64 = 16 << 30
    private static let maxServedFiles = 2

    // MARK: Taking

    /// Takes a snapshot when enough of the log, or enough time, has passed since the last.
    func considerSnapshot() {
        guard phase == .running, loading == nil, !snapshots.isTaking, let raft, let log,
            deliveredOffset > snapshots.newest?.endOffset ?? 0
        else { return }
        let now = MonotonicTime.now
        if let notBefore = snapshots.notBefore, now < notBefore { return }
        let isLarge = snapshots.bytesSinceLast >= options.snapshotBytes
        let isDue =
            options.snapshotInterval > .zero
            && now - snapshots.lastTime >= options.snapshotInterval
        guard isLarge || isDue, let source = listener?.snapshot(),
            source.endOffset > snapshots.newest?.endOffset ?? 0,
            // An observer that lost its log may have handed out more than it has again.
            source.endOffset >= raft.log.startOffset, source.endOffset <= raft.log.endOffset
        else { return }
        invariant(
            source.endOffset <= deliveredOffset,
            "a snapshot at \(source.endOffset) of a log handed out to \(deliveredOffset)")
        let id = SnapshotID(
            endOffset: source.endOffset, epoch: raft.log.epoch(before: source.endOffset))
        take(source, as: id, voters: raft.voters.set(before: id.endOffset), log)
    }

    private func take(
        _ source: QuorumSnapshotSource, as id: SnapshotID, voters: VoterSet?, _ log: MetadataLog
    ) {
        snapshots.isTaking = true
        snapshots.bytesSinceLast = 0
        let incarnation = incarnation
        let started = MonotonicTime.now
        // The log's start may only move where its records are durable; an observer's are not yet.
        let ticket = options.isController ? nil : log.prepareFlush()
        snapshotThreads.submit { [metadataFolder, fileSystem, eventLoop] _ in
            let result = Result<Int, any Error> {
                var writer = try SnapshotWriter(
                    id, in: metadataFolder, voters: voters, timestamp: source.appendTimestamp,
                    fileSystem: fileSystem)
                do {
                    try source.records { try writer.append($0) }
                    try ticket?.perform()
                    try writer.finish()
                } catch {
                    writer.abandon()
                    throw error
                }
                return writer.size
            }
            eventLoop.execute {
                self.snapshots.isTaking = false
                self.snapshots.lastTime = .now
                guard self.phase == .running, incarnation == self.incarnation else { return }
                switch result {
                case .success(let size):
                    if let ticket { self.log?.completeFlush(ticket) }
                    self.logger.info(
                        "took a metadata snapshot",
                        metadata: [
                            "snapshot": "\(id)", "bytes": "\(size)",
                            "milliseconds": "\((MonotonicTime.now - started).milliseconds)",
                        ])
                    self.snapshots.notBefore = nil
                    self.taken(id, bytes: size)
                case .failure(let error):
                    self.logger.error(
                        "a metadata snapshot can't be written; the log is kept as it is",
                        metadata: ["snapshot": "\(id)", "error": "\(error)"])
                    self.snapshots.notBefore = .now + Self.retryInterval
                    // It is as urgent as it was.
                    self.snapshots.bytesSinceLast += self.options.snapshotBytes
                }
            }
        }
    }

    private func taken(_ id: SnapshotID, bytes: Int) {
        // One that was fetched meanwhile goes further.
        guard id > snapshots.newest ?? BootstrapSnapshot.id else {
            return removeObsoleteSnapshots()
        }
        snapshots.newest = id
        snapshots.newestBytes = bytes
        step(.snapshotTaken(id))
        considerSnapshot()
    }

    /// Removes what the older of the two newest snapshots stands for, once the log is durable there.
    ///
    /// Nothing of it waits for the disk on this loop: first the new start is noted, then the log
    /// begins there, then the files below go.
    func advanceLogStart() {
        guard !snapshots.isMovingLogStart, let log, let start = snapshots.logStart,
            log.durableOffset >= start, let note = log.startNote(at: start)
        else { return }
        snapshots.logStart = nil
        snapshots.isMovingLogStart = true
        let incarnation = incarnation
        writer.submit { [eventLoop] _ in
            let result: Result<Bool, LogError>
            do throws(LogError) {
                result = .success(try note())
            } catch {
                result = .failure(error)
            }
            eventLoop.execute {
                self.snapshots.isMovingLogStart = false
                guard self.phase == .running else { return }
                switch result {
                case .success(let isNoted):
                    guard incarnation == self.incarnation else { return }
                    if isNoted {
                        self.logStartNoted(start)
                    } else if self.snapshots.logStart == nil, start > self.log?.startOffset ?? 0 {
                        // A truncation came in between: once more.
                        self.snapshots.logStart = start
                    }
                    self.advanceLogStart()
                case .failure(let error):
                    self.storageFailed(error, in: incarnation)
                }
            }
        }
    }

    private func logStartNoted(_ start: Offset) {
        let removal: SegmentRemoval?
        do throws(LogError) {
            // It may have been replaced by a newer snapshot meanwhile, and start above.
            removal = try log?.moveStart(to: start)
        } catch {
            return storageFailed(error)
        }
        removeObsoleteSnapshots()
        guard let removal else { return }
        snapshots.isMovingLogStart = true
        let incarnation = incarnation
        snapshotThreads.submit { [eventLoop] _ in
            var failure: LogError?
            do throws(LogError) {
                try removal.perform()
            } catch {
                failure = error
            }
            eventLoop.execute { [failure] in
                self.snapshots.isMovingLogStart = false
                guard self.phase == .running else { return }
                if let failure { return self.storageFailed(failure, in: incarnation) }
                self.advanceLogStart()
            }
        }
    }

    /// Removes the snapshots that end below the log's start: no state is made of them any more.
    func removeObsoleteSnapshots() {
        guard let start = log?.startOffset, start > 0 else { return }
        snapshots.served.removeAll { $0.id.endOffset < start }
        snapshotThreads.submit { [metadataFolder, fileSystem, logger] _ in
            do throws(FileError) {
                for id in try SnapshotFile.all(in: metadataFolder, fileSystem)
                where id.endOffset < start {
                    try fileSystem.remove("\(metadataFolder)/\(SnapshotFile.name(of: id))")
                }
            } catch {
                logger.warning(
                    "an old metadata snapshot was not removed", metadata: ["error": "\(error)"])
            }
        }
    }

    // MARK: Fetching

    /// Adds a piece to the snapshot that is being fetched; after the last one it is verified.
    func appendSnapshot(
        _ bytes: ByteBuffer, of id: SnapshotID, at position: Int64, isLast: Bool
    ) {
        do throws(FileError) {
            guard !snapshots.isVerifying else { throw FileError("write", "a snapshot", code: 16) }
            if position == 0 {
                discardDownload()
                let path = "\(metadataFolder)/\(SnapshotFile.partName(of: id))"
                snapshots.download = SnapshotState.Download(
                    id: id, path: path, file: try fileSystem.open(path, .create))
            }
            guard var download = snapshots.download, download.id == id,
                download.position == position
            else { throw FileError("go on with", "a partial snapshot", code: 2) }
            try download.file.write(bytes, at: Int(position))
            download.position += Int64(bytes.readableBytes)
            snapshots.download = download
            if isLast { verify(download) }
        } catch {
            logger.error(
                "a fetched metadata snapshot can't be written",
                metadata: ["snapshot": "\(id)", "error": "\(error)"])
            discardDownload()
            // What has led here is still being performed.
            step(.snapshotFailed(id))
        }
    }

    func discardDownload() {
        guard let download = snapshots.download else { return }
        snapshots.download = nil
        // Whoever verifies it finds that it is not wanted any more, and removes it.
        if !snapshots.isVerifying { try? fileSystem.remove(download.path) }
    }

    /// Reads all of a fetched snapshot, makes it durable and gives it its name.
    private func verify(_ download: SnapshotState.Download) {
        snapshots.isVerifying = true
        let incarnation = incarnation
        let id = download.id
        snapshotThreads.submit { [metadataFolder, fileSystem, eventLoop] _ in
            let result = Result<VoterSet?, any Error> {
                try download.file.sync()
                var reader = try SnapshotReader(
                    id, path: download.path, fileSystem: fileSystem)
                try reader.finish()
                try SnapshotWriter.publish(id, in: metadataFolder, fileSystem)
                return reader.voters
            }
            eventLoop.execute {
                self.snapshots.isVerifying = false
                guard self.phase == .running, incarnation == self.incarnation,
                    self.snapshots.download?.id == id
                else {
                    // If it is whole it has its name now, and stays until the log starts above it:
                    // a next start may use it as any other. If not, nobody else removes it.
                    try? fileSystem.remove(download.path)
                    return
                }
                do {
                    let voters = try result.get()
                    self.snapshots.download = nil
                    self.snapshots.newest = id
                    self.snapshots.newestBytes = Int(download.position)
                    self.logger.info(
                        "fetched a metadata snapshot",
                        metadata: ["snapshot": "\(id)", "bytes": "\(download.position)"])
                    self.step(.snapshotInstalled(id, voters: voters))
                } catch {
                    self.logger.error(
                        "a fetched metadata snapshot is no good; it is fetched again",
                        metadata: ["snapshot": "\(id)", "error": "\(error)"])
                    self.discardDownload()
                    self.step(.snapshotFailed(id))
                }
            }
        }
    }

    /// Replaces the log by a snapshot that is on disk.
    func resetLog(to id: SnapshotID) throws(LogError) {
        let committed = committedOffset
        // An observer that lost its copy starts from what there is, and has handed out more already.
        guard id.endOffset >= committed || !options.isController else {
            return giveUp(
                .diverged(
                    "the leader's snapshot ends at offset \(id.endOffset), but records below "
                        + "\(committed) are known to be committed"))
        }
        logger.info("replacing the metadata log", metadata: ["snapshot": "\(id)"])
        try log?.reset(to: id)
        snapshots.logStart = nil
        // What waits behind a snapshot that is being loaded is gone from the disk. The new snapshot,
        // and how far to go on after it, come next, and stand for all of it.
        deliveries.removeAll { delivery in
            switch delivery {
            case .batches, .load: true
            case .startedLeading, .stoppedLeading: false
            }
        }
        removeObsoleteSnapshots()
    }

    // MARK: Serving

    func answerSnapshot(
        _ token: RequestToken, _ id: SnapshotID, position: Int64, maxBytes: Int
    ) {
        guard let pending = requests.removeValue(forKey: token) else { return }
        var response = WireFetchSnapshotResponse()
        response.leaderEpoch = epoch.rawValue
        response.leaderID = options.local.rawValue
        if let endpoint = wireEndpoint(of: options.local) { response.leaderEndpoint = endpoint }
        do throws(FileError) {
            let served = try open(id)
            response.size = Int64(served.size)
            response.position = position
            if position < 0 || position >= Int64(served.size) {
                response.status = .positionOutOfRange
            } else {
                let count = min(
                    min(maxBytes, options.snapshotChunkBytes, max(1, pending.maxBytes)),
                    served.size - Int(position))
                var bytes = ByteBufferAllocator().buffer(capacity: count)
                try served.file.read(into: &bytes, count: count, at: Int(position))
                response.data = .init(bytes.readableBytesView)
                if bytes.readableBytes == 0 { response.status = .unavailable }
            }
        } catch {
            logger.warning(
                "a metadata snapshot can't be read", metadata: ["error": "\(error)"])
            snapshots.served.removeAll { $0.id == id }
            response.status = .snapshotNotFound
        }
        pending.respond(response)
    }

    private func open(_ id: SnapshotID) throws(FileError) -> SnapshotState.Served {
        if let known = snapshots.served.first(where: { $0.id == id }) { return known }
        let file = try fileSystem.open("\(metadataFolder)/\(SnapshotFile.name(of: id))", .readOnly)
        let served = SnapshotState.Served(id: id, file: file, size: try file.size())
        snapshots.served.append(served)
        if snapshots.served.count > Self.maxServedFiles { snapshots.served.removeFirst() }
        return served
    }

    /// Lets go of what belongs to the present state machine.
    func closeSnapshots() {
        discardDownload()
        snapshots.served = []
    }
}
