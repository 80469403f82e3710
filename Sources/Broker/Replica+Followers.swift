import Essentials
import Logging
import NIOCore
import Replication
import Storage

/// What a leader answers one follower for one partition.
struct FollowerAnswer: Sendable {
    enum Content: Sendable {
        case batches(ByteBuffer)
        case diverging(EpochEnd)
        case failed(ErrorCode)
    }

    var id: TopicPartition
    var leaderEpoch: LeaderEpoch
    var fetchOffset: Offset
    var highWatermark: Offset
    var logStartOffset: Offset
    var hasMore: Bool
    var content: Content

    static func failure(_ id: TopicPartition, _ fetch: FollowerFetch, _ code: ErrorCode) -> Self {
        FollowerAnswer(
            id: id, leaderEpoch: fetch.leaderEpoch, fetchOffset: fetch.position,
            highWatermark: 0, logStartOffset: 0, hasMore: false, content: .failed(code))
    }

    /// Whether the answer brings nothing but a newer high watermark.
    var isHighWatermarkOnly: Bool {
        if case .batches(let bytes) = content { bytes.readableBytes == 0 } else { false }
    }

    var byteCount: Int {
        if case .batches(let bytes) = content { bytes.readableBytes } else { 0 }
    }
}

extension Replica {
    /// Takes note of what a follower says of itself; an answer only if it cannot simply be served.
    func followerFetched(_ fetch: FollowerFetch) -> FollowerAnswer? {
        eventLoop.preconditionInEventLoop()
        guard let log, leader != nil else {
            return .failure(
                id, fetch, offlineReason == nil ? .notLeaderOrFollower : .kafkaStorageError)
        }
        var verdict = FetchVerdict.serve
        withLeader { leader in
            let (judged, effects) = leader.fetched(
                fetch,
                epochEnd: { epoch in
                    let end = log.endOffset(for: epoch)
                    return EpochEnd(epoch: end.epoch, endOffset: end.endOffset)
                }, now: shard.now)
            verdict = judged
            return effects
        }
        confirmDeletions()
        switch verdict {
        case .serve:
            return nil
        case .diverging(let end):
            var answer = FollowerAnswer.failure(id, fetch, .offsetOutOfRange)
            answer.content = .diverging(end)
            return answer
        case .refused(let refusal):
            let code: ErrorCode =
                switch refusal {
                case .fencedLeaderEpoch: .fencedLeaderEpoch
                case .unknownLeaderEpoch: .unknownLeaderEpoch
                case .notAReplica: .unknownTopicOrPartition
                case .staleBrokerEpoch: .staleBrokerEpoch
                case .offsetOutOfRange: .offsetOutOfRange
                }
            var answer = FollowerAnswer.failure(id, fetch, code)
            answer.logStartOffset = log.logStartOffset
            return answer
        }
    }

    /// What there is for a follower whose fetch is to be served; `nil` while there is nothing.
    ///
    /// - Parameter maxBytes: none are read when this is not above 0, only announced.
    func news(for fetch: FollowerFetch, maxBytes: Int) -> FollowerAnswer? {
        guard let log, let leader, leader.leaderEpoch == fetch.leaderEpoch else {
            return .failure(id, fetch, .notLeaderOrFollower)
        }
        guard leader.hasNews(for: fetch) else { return nil }
        var answer = FollowerAnswer(
            id: id, leaderEpoch: leader.leaderEpoch, fetchOffset: fetch.position,
            highWatermark: leader.highWatermark, logStartOffset: log.logStartOffset,
            hasMore: false, content: .batches(ByteBuffer()))
        guard log.logEndOffset > fetch.position else { return answer }
        guard maxBytes > 0 else {
            answer.hasMore = true
            return answer
        }
        do throws(LogError) {
            guard let batches = try batches(for: fetch, from: log, maxBytes: maxBytes) else {
                // What is on the disk comes later; what is in memory isn't held up by it.
                return leader.highWatermark > fetch.highWatermark ? answer : nil
            }
            answer.hasMore = batches.end < log.logEndOffset
            answer.content = .batches(batches.bytes)
            try checkRepeated(fetch, batches.bytes)
        } catch {
            readFailed(error)
            environment.logger.error(
                "cannot read for a follower",
                metadata: ["partition": "\(name)", "error": "\(error)"])
            var failure = FollowerAnswer.failure(id, fetch, error.code)
            // Where to start anew, should the offset be out of range.
            failure.logStartOffset = log.logStartOffset
            return failure
        }
        return answer
    }

    /// What follows on the follower's position, if it is in memory, or has been read for it before;
    /// `nil` while it is on the disk only.
    private func batches(
        for fetch: FollowerFetch, from log: Log, maxBytes: Int
    ) throws(LogError) -> ReadBatches? {
        let read: LogRead<ReadBatches>
        if let earlier = followerReads[fetch.follower], earlier.position == fetch.position {
            guard let outcome = earlier.outcome else { return nil }
            forgetRead(for: fetch.follower)
            read = try log.resume(outcome)
        } else {
            // The follower has gone elsewhere.
            forgetRead(for: fetch.follower)
            read = try log.readCached(
                from: fetch.position, below: log.logEndOffset,
                maxBytes: min(maxBytes, FollowerRead.maxBytes))
        }
        switch read {
        case .found(let batches): return batches ?? ReadBatches(end: fetch.position)
        case .needsDisk(let cold):
            readLater(cold, for: fetch)
            return nil
        }
    }

    private func readLater(_ cold: ColdRead<ReadBatches>, for fetch: FollowerFetch) {
        let follower = fetch.follower
        // The others' turn comes with the answers to these.
        guard let disk = opened?.disk, shard.takeFollowerRead(for: follower) else { return }
        let read = FollowerRead(position: fetch.position)
        followerReads[follower] = read
        read.ticket = disk.reads.perform(
            cold, of: ObjectIdentifier(self), on: eventLoop
        ) { outcome in
            guard self.followerReads[follower] === read else { return }
            read.outcome = outcome
            for (id, part) in self.parkedFetches where id == follower { part.newsArrived() }
            // It may never come back for it.
            self.eventLoop.scheduleTask(in: FollowerRead.keptFor) {
                if self.followerReads[follower] === read { self.forgetRead(for: follower) }
            }
        }
    }

    func forgetRead(for follower: NodeID) {
        guard let read = followerReads.removeValue(forKey: follower) else { return }
        read.ticket?.cancel()
        shard.endFollowerRead(for: follower)
    }

    /// Has `part` told of whatever comes, in place of the follower's earlier fetch.
    func park(_ part: FollowerFetchPart, for follower: NodeID) {
        if let index = parkedFetches.firstIndex(where: { $0.follower == follower }) {
            parkedFetches[index].part = part
        } else {
            parkedFetches.append((follower, part))
        }
    }
}

/// What is being read from the disk for a follower, or was, and waits for it to ask again.
///
/// `@unchecked Sendable`: used on the replica's event loop only.
final class FollowerRead: @unchecked Sendable {
    let position: Offset
    var ticket: DiskReads.Ticket?
    var outcome: ColdRead<ReadBatches>.Outcome?

    /// The most that is read of one partition at once.
    static let maxBytes = 4 << 20
    /// How many of a follower's there may be on one event loop, which bounds the memory they take up.
    static let limit = 2
    static let keptFor = TimeAmount.seconds(10)

    init(position: Offset) {
        self.position = position
    }
}
