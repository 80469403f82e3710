import Essentials
import NIOCore
import Replication
import Storage

extension Replica {
    /// Starts a flush, or another one after the present.
    ///
    /// One at a time: whatever is appended meanwhile is covered by the next, all at once.
    func flushSoon() {
        guard let opened, offlineReason == nil else { return }
        guard !isFlushing else {
            needsFlush = true
            return
        }
        isFlushing = true
        needsFlush = false
        let ticket = opened.log.prepareFlush()
        flushedTo = ticket.end
        lastIntervalFlush = shard.now
        shard.flush(ticket, of: self, with: opened.disk.flusher)
    }

    /// Flushes after an append if the topic's policy wants that at once, or has waited for so much.
    func flushIfDue() {
        switch settings.flushPolicy {
        case .commit: flushSoon()
        case .interval:
            guard let log else { return }
            // A truncation takes back what was flushed, too.
            flushedTo = min(flushedTo, log.logEndOffset)
            if log.logEndOffset - flushedTo >= settings.flushMessages { flushSoon() }
        case .system: break
        }
    }

    func flushEnded(_ ticket: FlushTicket, _ result: Result<Void, LogError>) {
        eventLoop.preconditionInEventLoop()
        isFlushing = false
        guard let log, offlineReason == nil else { return }
        switch result {
        case .failure(let error):
            // Unless it was of a disk that the log has left since.
            guard opened?.disk.hasFailed == true || error == .closed else { return }
            // What the page cache holds may never reach the disk: nothing is to rely on it.
            goOffline("a flush failed: \(error)")
            return
        case .success:
            break
        }
        let durableEnd = log.completeFlush(ticket)
        withLeader { $0.madeDurable(to: durableEnd, now: shard.now) }
        if leader != nil { confirmWrites() }
        follower?.madeDurable(to: durableEnd)
        if needsFlush { flushSoon() }
        let due = flushWaiters.filter { $0.end <= durableEnd }
        flushWaiters.removeAll { $0.end <= durableEnd }
        for waiter in due { waiter.body() }
    }

    /// Makes the log durable and tells the leader so, though no answer of the leader led to it.
    ///
    /// On a partition where nothing else happens it would not hear of it, and not commit.
    func tellDurableEnd() {
        guard let log, let epoch = follower?.leaderEpoch else { return }
        let tell: () -> Void = { [unowned self] in
            guard let follower, follower.leaderEpoch == epoch else { return }
            environment.fetchers.moved(id, leader: follower.leader, to: follower.position)
        }
        guard log.durableOffset < log.logEndOffset else { return tell() }
        whenDurable(to: log.logEndOffset, tell)
        flushSoon()
    }

    /// Calls `body` once everything below `end` is durable, or cannot become so in this role.
    func whenDurable(to end: Offset, _ body: @escaping () -> Void) {
        flushWaiters.append((end, body))
    }
}
