import Essentials
import Logging
import NIOCore
import Replication
import Storage

/// A replica lets go of its log for a moment, and goes on in its role with another that has the same
/// records.
///
/// Writes and fetches that come in the meantime are refused and tried again; those that wait for
/// followers, or for the disk, wait on.
extension Replica {
    enum Pause: Sendable {
        case paused(OpenedLog, highWatermark: Offset)
        /// Not just now.
        case busy
        /// There is no log to let go of.
        case gone
    }

    func pause() -> Pause {
        eventLoop.preconditionInEventLoop()
        guard let opened, let manager, offlineReason == nil, !isClosed else { return .gone }
        guard !startMoves.isMoving, !startMoves.isSurveying else { return .busy }
        guard manager.openings.begin() else { return .gone }
        pausedWith = .some(assignment)
        self.opened = nil
        return .paused(opened, highWatermark: highWatermark)
    }

    /// The log is there again: all of it is durable, and it ends where it did.
    func goOn(with opened: OpenedLog, assignedBefore before: PartitionAssignment?) {
        eventLoop.preconditionInEventLoop()
        let log = opened.log
        let end = leader?.logEndOffset ?? follower?.logEndOffset
        if let end, end != log.logEndOffset {
            // Its disk did not give back what it took.
            return tookDamage(
                opened, at: min(end, log.logEndOffset), highWatermark: highWatermark)
        }
        self.opened = opened
        pausedWith = nil
        applySettings(to: log)
        let durableEnd = log.durableOffset
        guard let assignment else { return }
        guard let before, before.leaderEpoch == assignment.leaderEpoch,
            before.leader == assignment.leader
        else { return take(assignment) }
        if leader != nil {
            log.assignEpoch(assignment.leaderEpoch, startOffset: log.logEndOffset)
            standingChanged()
            if assignment != before { withLeader { $0.apply(assignment, now: shard.now) } }
            withLeader { $0.madeDurable(to: durableEnd, now: shard.now) }
            confirmWrites()
        } else if let leading = follower?.leader {
            follower?.madeDurable(to: durableEnd)
            if let follower {
                environment.fetchers.moved(id, leader: leading, to: follower.position)
            }
        }
        let due = flushWaiters.filter { $0.end <= durableEnd }
        flushWaiters.removeAll { $0.end <= durableEnd }
        for waiter in due { waiter.body() }
        for (_, part) in parkedFetches { part.newsArrived() }
    }
}
