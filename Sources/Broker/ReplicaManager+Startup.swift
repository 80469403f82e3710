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

    /// Whether every log that the first image assigns here was opened, or can't be; control loop only.
    ///
    /// A broker that serves before that would be given partitions to lead that it does not have yet.
    var isReady: Bool {
        if case .done = startup { initialOpenings.isEmpty } else { false }
    }

    /// Deletes what `image` does not assign here, and then brings the replicas to life.
    func start(with image: MetadataImage) {
        startup = .deletingStrays(newest: image)
        guard openings.begin() else { return }
        onPool { [self, disks, options] in
            disks.deleteStrays { id in
                image.partition(id)?.replicas.contains(options.nodeID) == true
            }
            openings.end()
            controlLoop.execute { self.straysAreDeleted(by: image) }
        }
    }

    private func straysAreDeleted(by image: MetadataImage) {
        guard !isStopping, case .deletingStrays(let newest) = startup else { return }
        let broker = options.nodeID
        guard newest.partitions(on: broker) == image.partitions(on: broker) else {
            return start(with: newest)
        }
        startup = .done
        onPool { [disks] in disks.removeLeftovers() }
        update(to: newest, MetadataDelta(), isFirst: true)
    }

    /// A log was opened, or could not be; from any thread.
    func openingEnded(_ id: TopicPartition) {
        controlLoop.execute { [self] in initialOpenings.remove(id) }
    }
}
