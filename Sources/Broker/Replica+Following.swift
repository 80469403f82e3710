import Essentials
import Logging
import NIOCore
import Records
import Replication
import Storage

/// A leader's answer for one partition, as the wire brought it.
struct FollowerDelivery: Sendable {
    enum Content: Sendable {
        case batches(ByteBuffer)
        case diverging(EpochEnd)
        case failed(ErrorCode)
    }

    var replica: Replica
    /// What had been asked.
    var asked: PartitionFollower.Position
    var leaderEpoch: LeaderEpoch
    var fetchOffset: Offset
    var highWatermark: Offset
    var logStartOffset: Offset
    var content: Content
}

/// What became of a delivery.
enum FollowerReceipt {
    /// The replica is now here; `isUnsynced` if a flush or a new log start has to follow.
    case moved(PartitionFollower.Position, isUnsynced: Bool)
    /// Nothing changed, or the replica follows no longer in that epoch.
    case ignored
    /// Ask again, but not at once.
    case failed
}

extension Replica {
    /// Carries out a leader's answer.
    func receive(_ delivery: FollowerDelivery) -> FollowerReceipt {
        eventLoop.preconditionInEventLoop()
        if let repairQuestion { return repairAnswered(delivery, to: repairQuestion) }
        // The answer to an earlier epoch's question.
        guard let log, let current = follower, current.leaderEpoch == delivery.asked.leaderEpoch
        else { return .ignored }
        var delivery = delivery
        if case .batches(let bytes) = delivery.content {
            // The leader's log may have been compacted across the end of this one.
            delivery.content = .batches(
                RecordBatches.trimmingPlaceholder(bytes, to: log.logEndOffset))
        }
        guard let content = content(of: delivery) else { return .failed }
        let answer = PartitionFollower.Answer(
            leaderEpoch: delivery.leaderEpoch, fetchOffset: delivery.fetchOffset,
            lastFetchedEpoch: delivery.asked.lastFetchedEpoch,
            highWatermark: delivery.highWatermark, logStartOffset: delivery.logStartOffset,
            content: content)
        guard
            let action = follower?.received(
                answer,
                epochEnd: { epoch in
                    let end = log.endOffset(for: epoch)
                    return EpochEnd(epoch: end.epoch, endOffset: end.endOffset)
                })
        else { return .ignored }
        do throws(LogError) {
            return try perform(action, delivery, log)
        } catch {
            environment.logger.error(
                "cannot replicate",
                metadata: ["partition": "\(name)", "error": "\(error)"])
            opened?.disk.writeFailed(error)
            if case .offline = error { goOffline("\(error)") }
            return .failed
        }
    }

    private func content(of delivery: FollowerDelivery) -> PartitionFollower.Answer.Content? {
        switch delivery.content {
        case .diverging(let end):
            return .diverging(end)
        case .failed(.offsetOutOfRange):
            return .outOfRange
        case .failed(let code):
            environment.logger.debug(
                "the leader does not serve us",
                metadata: ["partition": "\(name)", "error": "\(code.name)"])
            return nil
        case .batches(let bytes):
            guard bytes.readableBytes > 0 else { return .batches(nil) }
            do throws(RecordError) {
                return .batches(try Self.summary(of: bytes))
            } catch {
                refuse("\(error)")
                return nil
            }
        }
    }

    /// What the core must know of the batches; their checksums are the log's to check.
    private static func summary(
        of bytes: ByteBuffer
    ) throws(RecordError) -> PartitionFollower.Batches {
        var index = bytes.readerIndex
        var summary: PartitionFollower.Batches?
        while index < bytes.writerIndex {
            let header = try RecordBatchHeader(bytes, at: index)
            if var seen = summary {
                seen.endOffset = header.nextOffset
                seen.lastEpoch = header.leaderEpoch
                summary = seen
            } else {
                summary = PartitionFollower.Batches(
                    baseOffset: header.baseOffset, endOffset: header.nextOffset,
                    firstEpoch: header.leaderEpoch, lastEpoch: header.leaderEpoch)
            }
            index += header.totalSize
        }
        guard let summary else { throw .noBatches }
        return summary
    }

    private func perform(
        _ action: PartitionFollower.Action, _ delivery: FollowerDelivery, _ log: Log
    ) throws(LogError) -> FollowerReceipt {
        switch action {
        case .ignore:
            return .ignored
        case .refuse(let violation):
            refuse("\(violation)")
            return .failed
        case .nothingNew:
            break
        case .append:
            guard case .batches(let bytes) = delivery.content else { return .ignored }
            let offsets = try log.appendAsFollower(
                Self.unpinned(bytes), leaderEpoch: delivery.asked.leaderEpoch)
            follower?.appended(to: offsets.upperBound, lastEpoch: log.latestEpoch)
            wake()
        case .truncate(let end):
            logTruncation(to: end, log)
            try log.truncate(to: end)
            follower?.truncated(
                to: log.logEndOffset, durableEnd: log.durableOffset, lastEpoch: log.latestEpoch)
            releaseFlushWaiters()
        case .restart(let start):
            logTruncation(to: start, log)
            try log.truncateFully(andStartAt: start)
            follower?.restarted(at: start, durableEnd: log.durableOffset)
            releaseFlushWaiters()
        }
        guard let follower else { return .ignored }
        highWatermark = follower.highWatermark
        let isUnsynced =
            settings.flushPolicy == .commit && follower.durableEnd < follower.logEndOffset
        if isUnsynced {
            flushSoon()
        } else if settings.flushPolicy == .interval {
            flushIfDue()
        }
        let isMoving = followStart(delivery.logStartOffset)
        return .moved(follower.position, isUnsynced: isUnsynced || isMoving)
    }

    /// The same bytes, in memory of their own if they are a small part of a large answer: the log keeps
    /// what was appended last, and the whole answer would stay with it.
    private static func unpinned(_ bytes: ByteBuffer) -> ByteBuffer {
        guard bytes.storageCapacity / 2 > bytes.readableBytes + 32_768 else { return bytes }
        var copy = ByteBufferAllocator().buffer(capacity: bytes.readableBytes)
        copy.writeImmutableBuffer(bytes)
        return copy
    }

    /// Waiters for offsets that are gone would wait for ever.
    private func releaseFlushWaiters() {
        let waiters = flushWaiters
        flushWaiters = []
        for waiter in waiters { waiter.body() }
    }

    private func logTruncation(to end: Offset, _ log: Log) {
        // Only an unclean election takes back what was committed.
        let level: Logger.Level = end < highWatermark ? .warning : .info
        environment.logger.log(
            level: level, "truncating to what the leader has",
            metadata: [
                "partition": "\(name)", "from": "\(log.logEndOffset)", "to": "\(end)",
                "highWatermark": "\(highWatermark)",
            ])
    }

    private func refuse(_ reason: String) {
        environment.logger.warning(
            "the leader's batches are refused and will be fetched again",
            metadata: ["partition": "\(name)", "reason": "\(reason)"])
    }
}
