import Essentials
import Logging
import NIOCore
import Records
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
            let bytes = try log.read(
                from: fetch.position, below: log.logEndOffset, maxBytes: maxBytes)
            answer.hasMore = Self.end(of: bytes) < log.logEndOffset
            answer.content = .batches(bytes)
            if case .batches(let bytes) = answer.content { try checkRepeated(fetch, bytes) }
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

    /// Where whole batches end; the largest offset for bytes that are none.
    private static func end(of batches: ByteBuffer) -> Offset {
        var index = batches.readerIndex
        var end = Offset.max
        while index < batches.writerIndex, let header = try? RecordBatchHeader(batches, at: index) {
            end = header.nextOffset
            index += header.totalSize
        }
        return end
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
