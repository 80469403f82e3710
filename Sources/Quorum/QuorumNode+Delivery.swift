internal import Essentials
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import Raft
internal import Storage

/// Something the listener has to be told, in its place.
enum Delivery {
    /// Committed batches up to here, exclusive.
    case batches(below: Offset)
    /// A snapshot in place of all that was handed out before.
    case load(SnapshotID)
    case startedLeading(LeaderEpoch)
    case stoppedLeading(LeaderEpoch)
}

/// What the listener is told: in the order of the log, and nothing while a snapshot is loaded.
extension QuorumNode {
    /// The most bytes of the log to read at a time.
    private static let deliveryBytes = 1 << 20

    func deliver(_ delivery: Delivery) {
        deliveries.append(delivery)
        continueDelivering()
    }

    private func continueDelivering() {
        guard !isDelivering else { return }
        isDelivering = true
        while loading == nil, phase == .running, raft != nil, !deliveries.isEmpty {
            switch deliveries.removeFirst() {
            case .batches(let end):
                do throws(LogError) {
                    try deliverBatches(below: end)
                } catch {
                    storageFailed(error)
                }
            case .load(let id):
                load(id)
            case .startedLeading(let epoch):
                leading = epoch
                listener?.startedLeading(epoch: epoch)
            case .stoppedLeading(let epoch):
                stoppedLeading(epoch)
            }
        }
        isDelivering = false
        readsMayBeDone()
        considerSnapshot()
    }

    private func deliverBatches(below end: Offset) throws(LogError) {
        while deliveredOffset < end, let log {
            let bytes = try log.read(
                from: deliveredOffset, below: end, maxBytes: Self.deliveryBytes)
            guard bytes.readableBytes > 0 else { return }
            let batches: [CommittedBatch]
            do throws(QuorumRecordError) {
                batches = try QuorumBatches.committed(in: bytes)
            } catch {
                logger.critical(
                    "a committed batch can't be read", metadata: ["error": "\(error.reason)"])
                return giveUp(damagedLog)
            }
            snapshots.bytesSinceLast += bytes.readableBytes
            for batch in batches where batch.baseOffset >= deliveredOffset {
                deliveredOffset = batch.nextOffset
                deliveredTimestamp = batch.appendTimestamp
                listener?.committed(batch)
            }
        }
    }

    /// Reads a snapshot on another thread, and has the listener install it.
    private func load(_ id: SnapshotID) {
        // What was handed out already goes further.
        guard id.endOffset > deliveredOffset, let loader = listener?.load(id) else { return }
        loading = id
        let incarnation = incarnation
        let started = MonotonicTime.now
        logger.info("loading a metadata snapshot", metadata: ["snapshot": "\(id)"])
        snapshotThreads.submit { [metadataFolder, fileSystem, eventLoop] _ in
            let result = Result<@Sendable () -> Void, any Error> {
                var reader = try SnapshotReader(
                    path: "\(metadataFolder)/\(SnapshotFile.name(of: id))", fileSystem: fileSystem)
                let install = try loader(&reader)
                // A loader that stopped early would not have noticed that there is no footer.
                try reader.finish()
                return install
            }
            eventLoop.execute {
                guard self.phase == .running, incarnation == self.incarnation,
                    self.loading == id
                else { return }
                self.loading = nil
                switch result {
                case .success(let install):
                    install()
                    self.deliveredOffset = id.endOffset
                    self.snapshots.bytesSinceLast = 0
                    self.logger.info(
                        "loaded a metadata snapshot",
                        metadata: [
                            "snapshot": "\(id)",
                            "milliseconds": "\((MonotonicTime.now - started).milliseconds)",
                        ])
                    self.continueDelivering()
                case .failure(let error):
                    self.loadFailed(id, error)
                }
            }
        }
    }

    private func loadFailed(_ id: SnapshotID, _ error: any Error) {
        let path = "\(metadataFolder)/\(SnapshotFile.name(of: id))"
        logger.error(
            "a metadata snapshot can't be loaded",
            metadata: ["path": "\(path)", "error": "\(error)"])
        switch error as? QuorumError {
        case .damagedSnapshot where !options.isController:
            // A copy, as the log is: what is missing then is fetched again.
            try? fileSystem.remove(path)
            storageFailed(.damaged(at: id.endOffset))
        case .storage(let failure):
            storageFailed(failure)
        case let known?:
            giveUp(known)
        case nil:
            giveUp(.unreadable(path: path, reason: "\(error)"))
        }
    }
}
