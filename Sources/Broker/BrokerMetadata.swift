internal import Essentials
internal import Logging
internal import Metadata
internal import NIOCore
internal import Quorum
internal import Synchronization

/// The broker's copy of the cluster's metadata, kept by replaying the committed metadata log.
///
/// Records arrive on the control loop; the image is an immutable value that any thread may read.
final class BrokerMetadata: QuorumListener, @unchecked Sendable {
    // Sendable: everything but `published` is touched on the control loop only.

    /// What `MetadataImage` and the changes since the last publication look like to a subscriber.
    typealias Subscriber = (_ image: MetadataImage, _ delta: MetadataDelta) -> Void

    let logger: Logger
    private let published = Mutex(MetadataImage())
    /// All that was applied; runs ahead of what is published in the middle of a burst.
    var image = MetadataImage()
    /// What changed since the last publication.
    var delta = MetadataDelta()
    /// When the last batch of `image` was appended, in milliseconds since 1970.
    var lastTimestamp: Int64 = -1
    private var highWatermark: () -> Offset = { .max }
    private var subscriber: Subscriber?
    private var waiters: [(offset: Offset, resume: (Result<Void, any Error>) -> Void)] = []
    /// Why this is no copy any more; nothing is applied or published after it.
    private(set) var failure: (any Error)?

    /// Called when a record can't be understood: going on would mean a wrong image.
    var onFailure: ((any Error) -> Void)?
    /// Called when another leader of the quorum is known, or none.
    var onLeaderChange: (() -> Void)?

    init(logger: Logger) {
        self.logger = logger
    }

    /// The newest published image.
    var current: MetadataImage { published.withLock { $0 } }

    /// End, exclusive, of what has been applied and handed on: what this broker acts on.
    var appliedOffset: Offset { current.nextOffset }

    /// Tells where the committed log ends, so that a burst of old records is published as one.
    func setHighWatermarkSource(_ source: @escaping () -> Offset) {
        highWatermark = source
    }

    /// Hands the whole image to `subscriber` at once, and every change from then on.
    func subscribe(_ subscriber: @escaping Subscriber) {
        guard failure == nil else { return }
        self.subscriber = subscriber
        publish()
    }

    /// Calls `body` on the control loop once everything below `offset` is applied and published, or
    /// can't be.
    func whenApplied(
        below offset: Offset, _ body: @escaping (Result<Void, any Error>) -> Void
    ) {
        if let failure {
            body(.failure(failure))
        } else if appliedOffset >= offset {
            body(.success(()))
        } else {
            waiters.append((offset, body))
        }
    }

    func committed(_ batch: CommittedBatch) {
        guard failure == nil else { return }
        // A batch is applied whole or not at all. What `delta` then has too much is handed to nobody.
        var next = image
        do {
            var offset = batch.baseOffset
            for bytes in batch.records {
                let record = try MetadataRecord(decoding: bytes)
                try next.apply(record, at: offset, delta: &delta)
                offset += 1
            }
            next.advance(to: batch.nextOffset, epoch: batch.epoch)
        } catch {
            return fail(error, at: batch.baseOffset)
        }
        image = next
        lastTimestamp = batch.appendTimestamp
        publishIfCaughtUp()
    }

    /// Ends the copy: what is published stays, nothing comes after it, and nobody waits in vain.
    func fail(_ error: any Error, at offset: Offset) {
        logger.critical(
            "cannot apply the metadata log",
            metadata: ["offset": "\(offset)", "error": "\(error)"])
        failure = error
        onFailure?(error)
        let failed = waiters
        waiters = []
        for waiter in failed { waiter.resume(.failure(error)) }
    }

    /// Publishes at the end of a burst of records.
    func publishIfCaughtUp() {
        if image.nextOffset >= highWatermark() { publish() }
    }

    func leaderChanged(_ leader: NodeID?, epoch: LeaderEpoch) { onLeaderChange?() }
    func startedLeading(epoch: LeaderEpoch) {}
    func stoppedLeading(epoch: LeaderEpoch) {}

    private func publish() {
        published.withLock { $0 = image }
        if let subscriber {
            let changes = delta
            delta = MetadataDelta()
            subscriber(image, changes)
        }
        let due = waiters.filter { $0.offset <= image.nextOffset }
        waiters.removeAll { $0.offset <= image.nextOffset }
        for waiter in due { waiter.resume(.success(())) }
    }
}
