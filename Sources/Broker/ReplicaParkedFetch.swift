import Essentials
import NIOCore
import RPC
import Replication

/// A follower's fetch, from its arrival until it is answered.
///
/// Its partitions may live on several loops; each loop's share is a `FollowerFetchPart`. It is answered
/// once every loop has looked and one found something, or later as soon as one finds something, or empty
/// when its time is up or a newer fetch supersedes it.
final class ReplicaParkedFetch: @unchecked Sendable {
    // Sendable: everything but the constants is touched on `eventLoop` only.

    let follower: NodeID
    let brokerEpoch: BrokerEpoch
    let eventLoop: any EventLoop
    private let call: ServerCall
    private var looking: Int
    private var answers: [FollowerAnswer] = []
    private var isDone = false
    private var timer: Scheduled<Void>?
    /// Called once, when the fetch is over.
    private let onEnd: (ReplicaParkedFetch) -> Void

    init(
        follower: NodeID, brokerEpoch: BrokerEpoch, call: ServerCall, parts: Int,
        answers: [FollowerAnswer], onEnd: @escaping (ReplicaParkedFetch) -> Void
    ) {
        self.follower = follower
        self.brokerEpoch = brokerEpoch
        self.call = call
        self.onEnd = onEnd
        self.answers = answers
        eventLoop = call.eventLoop
        looking = parts
    }

    func start(maxWait: Duration) {
        call.onCancel = { [self] in end() }
        timer = eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(maxWait.nanoseconds)) {
            self.answer()
        }
        answerIfComplete()
    }

    /// A loop has looked, or has something new since.
    func deliver(_ new: [FollowerAnswer], isFirst: Bool) {
        eventLoop.preconditionInEventLoop()
        // Answered already: the follower's next fetch finds what is too late for this one.
        guard !isDone else { return }
        if isFirst { looking -= 1 }
        answers += new
        answerIfComplete()
    }

    /// A newer fetch of the same follower is here.
    func supersede() {
        eventLoop.preconditionInEventLoop()
        answers = []
        answer()
    }

    private func answerIfComplete() {
        if looking == 0, !answers.isEmpty { answer() }
    }

    private func answer() {
        guard !isDone else { return }
        call.respond(ReplicaFetchCoding.encode(answers))
        end()
    }

    private func end() {
        guard !isDone else { return }
        isDone = true
        timer?.cancel()
        answers = []
        onEnd(self)
    }
}

/// One loop's share of a follower's fetch; on that loop only.
final class FollowerFetchPart: @unchecked Sendable {
    // Sendable: made by the connection's loop and then touched on the replicas' loop only.

    private let parked: ReplicaParkedFetch
    private let eventLoop: any EventLoop
    private let fetches: [(replica: Replica, fetch: FollowerFetch)]
    private let maxBytes: Int
    private var isDone = false
    private var isCollecting = false
    private var isHighWatermarkDue = false

    /// A newer high watermark waits so long for records to travel with.
    private static let highWatermarkDelay = TimeAmount.milliseconds(5)

    init(
        parked: ReplicaParkedFetch, eventLoop: any EventLoop,
        fetches: [(replica: Replica, fetch: FollowerFetch)], maxBytes: Int
    ) {
        self.parked = parked
        self.eventLoop = eventLoop
        self.fetches = fetches
        self.maxBytes = maxBytes
    }

    /// Records what the follower says, and looks for what there is for it.
    func start() {
        eventLoop.preconditionInEventLoop()
        var answers: [FollowerAnswer] = []
        var served: [(replica: Replica, fetch: FollowerFetch)] = []
        for (replica, fetch) in fetches {
            if let answer = replica.followerFetched(fetch) {
                answers.append(answer)
            } else {
                served.append((replica, fetch))
            }
        }
        answers += news(of: served)
        if answers.allSatisfy(\.isHighWatermarkOnly) {
            // Nothing, or nothing that could not wait for records.
            let hasHighWatermark = !answers.isEmpty
            answers = []
            for (replica, fetch) in served { replica.park(self, for: fetch.follower) }
            if hasHighWatermark { highWatermarkMoved() }
        } else {
            isDone = true
        }
        deliver(answers, isFirst: true)
    }

    /// Something is there for the follower; it goes out at the end of this turn of the loop.
    func newsArrived() {
        guard !isDone, !isCollecting else { return }
        isCollecting = true
        eventLoop.execute { self.collect() }
    }

    func highWatermarkMoved() {
        guard !isDone, !isCollecting, !isHighWatermarkDue else { return }
        isHighWatermarkDue = true
        eventLoop.scheduleTask(in: Self.highWatermarkDelay) { self.collect() }
    }

    private func collect() {
        isCollecting = false
        guard !isDone else { return }
        let answers = news(of: fetches)
        guard !answers.isEmpty else { return }
        isDone = true
        deliver(answers, isFirst: false)
    }

    private func news(
        of fetches: [(replica: Replica, fetch: FollowerFetch)]
    ) -> [FollowerAnswer] {
        var budget = maxBytes
        var answers: [FollowerAnswer] = []
        for (replica, fetch) in fetches {
            guard let answer = replica.news(for: fetch, maxBytes: budget) else { continue }
            budget -= answer.byteCount
            answers.append(answer)
        }
        return answers
    }

    private func deliver(_ answers: [FollowerAnswer], isFirst: Bool) {
        let parked = parked
        parked.eventLoop.runNow { parked.deliver(answers, isFirst: isFirst) }
    }
}
