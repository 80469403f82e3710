import Essentials
import HashTreeCollections
import Metadata
import NIOCore

/// From the first image to the first replicas: what is not assigned here any more goes, what is gets
/// opened.
///
/// All of it waits for disks, and so none of it happens on the control loop.
extension ReplicaManager {
    enum Startup {
        /// No image yet.
        case new
        /// Logs that are assigned here no more are being deleted, going by an image; this is the newest.
        case deletingStrays(newest: MetadataImage)
        case done
    }

    /// Whether every log that the first image assigns here was opened, or can't be and the controller
    /// knows; control loop only.
    ///
    /// A broker that serves before that would be given partitions to lead that it does not have yet.
    var isReady: Bool {
        // What fails later is no reason to look as if this broker had only started.
        if wasReady { return true }
        guard case .done = startup, initialOpenings.isEmpty, environment.reports.isSettled else {
            return false
        }
        wasReady = true
        return true
    }

    /// Deletes what `image` does not assign here, and then brings the replicas to life.
    func start(with image: MetadataImage) {
        startup = .deletingStrays(newest: image)
        guard openings.begin() else { return }
        onPool { [self, disks, options] in
            disks.deleteStrays { id in
                image.partition(id)?.replicas.contains(options.nodeID) == true
            } isLedElsewhere: { id in
                image.partition(id)?.leader.map { $0 != options.nodeID } ?? false
            }
            let bytes = disks.bytesToCheck()
            openings.end()
            controlLoop.execute { self.straysAreDeleted(by: image, bytesToCheck: bytes) }
        }
    }

    private func straysAreDeleted(by image: MetadataImage, bytesToCheck: Int) {
        guard !isStopping, case .deletingStrays(let newest) = startup else { return }
        let broker = options.nodeID
        guard newest.partitions(on: broker) == image.partitions(on: broker) else {
            return start(with: newest)
        }
        startup = .done
        recoveryProgress.begin(logs: newest.partitions(on: broker).count, bytes: bytesToCheck)
        // What is in none of the directories is taken to be in one that can't be used.
        if !disks.unusable.isEmpty { assignedBefore = Set(newest.partitions(on: broker)) }
        onPool { [disks] in disks.removeLeftovers() }
        update(to: newest, MetadataDelta(), isFirst: true)
    }

    /// A log was opened, or could not be; from any thread.
    func openingEnded(_ id: TopicPartition) {
        controlLoop.execute { [self] in initialOpenings.remove(id) }
    }
}
