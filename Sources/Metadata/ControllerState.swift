package import Essentials
internal import HashTreeCollections

/// The active controller's mind: the speculative image, and who was heard from when.
///
/// A command checks itself against the *speculative* image, which holds what is proposed and not
/// yet committed, and returns records. Only `adopt` moves the image on. Commands touch nothing but
/// sessions, which are soft: a new active controller starts without any and gives every broker that
/// the log calls unfenced a full session to prove itself in.
package struct ControllerState: Sendable {
    /// What is known of a broker by ear.
    struct Session: Sendable {
        var epoch: BrokerEpoch
        /// The moment at which the session is over unless a heartbeat comes.
        var deadline: MonotonicTime
        /// End, exclusive, of the metadata that the broker has applied.
        var appliedOffset: Offset = 0
        /// End of the records that moved its leaderships away for a controlled shutdown.
        var shutdownOffset: Offset?
        /// What its registration said of `metadata.version`, which level 1 can't write down.
        var featureLevels: ClosedRange<Int32>?
    }

    package var options: ControllerOptions
    /// The committed image plus everything proposed since.
    package private(set) var image: MetadataImage
    var sessions: [NodeID: Session] = [:]
    package internal(set) var generator: SeededGenerator
    private var lastCheck: MonotonicTime

    /// Takes over at `now` with the image of everything committed.
    package init(
        image: MetadataImage, options: ControllerOptions, now: MonotonicTime,
        generator: SeededGenerator
    ) {
        self.options = options
        self.image = image
        self.generator = generator
        lastCheck = now
        for broker in image.brokers.values where !broker.fenced {
            sessions[broker.id] = Session(
                epoch: broker.epoch, deadline: now + options.sessionTimeout)
        }
    }

    /// Makes a decision part of the speculation.
    ///
    /// Its batches must be proposed, with nothing in between, before another command runs.
    package mutating func adopt<Reply>(_ result: ControllerResult<Reply>) {
        invariant(
            result.image.nextOffset == image.nextOffset
                + Int64(result.batches.reduce(0) { $0 + $1.count }),
            "a decision made at another offset than \(image.nextOffset)")
        image = result.image
    }

    /// The reply of a decision, without anything that it would change.
    package func checkOnly<Reply>(_ result: ControllerResult<Reply>) -> ControllerResult<Reply> {
        ControllerResult(batches: [], reply: result.reply, elections: [], image: image)
    }

    /// Follows the log's end past records that are not the controller's own.
    package mutating func advance(to offset: Offset, epoch: LeaderEpoch) {
        image.advance(to: offset, epoch: epoch)
    }

    /// Whether the broker was heard from in time under this epoch.
    package func hasValidSession(_ broker: NodeID, at now: MonotonicTime) -> Bool {
        guard let session = sessions[broker], session.epoch == image.brokers[broker]?.epoch else {
            return false
        }
        return session.deadline > now
    }

    /// Fences one broker whose session is over and elects new leaders for what it led; `nil` when
    /// there is none.
    ///
    /// Call again until there is none, and at least every `longestCheckGap`.
    package mutating func expireSessions(now: MonotonicTime) -> ControllerResult<NodeID>? {
        let gap = now - lastCheck
        lastCheck = now
        if gap > options.longestCheckGap {
            for broker in sessions.keys {
                sessions[broker]?.deadline = now + options.sessionTimeout
            }
        }
        sessions = sessions.filter { broker, session in
            session.epoch == image.brokers[broker]?.epoch && session.deadline > now
        }
        let silent = image.brokers.values.filter { !$0.fenced && sessions[$0.id] == nil }
        guard let broker = silent.min(by: { $0.id < $1.id }) else { return nil }
        return fence(broker)
    }

    /// Fences a broker whose process is known to be dead, without waiting for its session to end;
    /// `nil` when that registration is fenced or gone already.
    package mutating func brokerGone(
        _ id: NodeID, epoch: BrokerEpoch
    ) -> ControllerResult<NodeID>? {
        guard let broker = image.brokers[id], broker.epoch == epoch else { return nil }
        sessions[id] = nil
        return broker.fenced ? nil : fence(broker)
    }

    private func fence(_ broker: BrokerRegistration) -> ControllerResult<NodeID> {
        var draft = MetadataDraft(image: image, options: options)
        draft.fence(broker)
        return draft.result(broker.id)
    }

    /// The first command of a new active controller.
    ///
    /// It writes down, once in a cluster's life, which level its metadata records start at, and
    /// finishes what its predecessor may have left undone: the last batches of a decision about very
    /// many partitions.
    package func takeOver() -> ControllerResult<Void> {
        var draft = MetadataDraft(image: image, options: options)
        if image.features[MetadataFeatures.metadataVersion] == nil {
            draft.append(
                .featureLevel(
                    name: MetadataFeatures.metadataVersion, level: options.initialMetadataLevel))
        }
        draft.maySplit = true
        for id in image.unsettled.sorted() where image.partition(id)?.leader == nil {
            draft.settle(id)
        }
        return draft.result(())
    }

    /// Lets preferred replicas that are in sync lead again, at most `limit` of them.
    package func electPreferred(limit: Int) -> ControllerResult<Int> {
        var draft = MetadataDraft(image: image, options: options)
        var count = 0
        for id in image.displaced.smallest(limit) {
            guard let preferred = image.partition(id)?.preferredLeader, image.isActive(preferred)
            else { continue }
            draft.settle(id) { $0.prefersFirstReplica = true }
            count += 1
        }
        return draft.result(count)
    }
}
