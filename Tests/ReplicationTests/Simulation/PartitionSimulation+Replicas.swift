import Essentials
import Replication

extension PartitionSimulation {
    // MARK: Clients

    func produce() {
        schedule(.produce, in: randomDelay(300...isHealedDelay))
        // A client that follows old metadata writes to whoever still thinks it leads.
        let leaders = ids.filter { id in
            if case .leader? = replicas[id]?.role { replicas[id]?.isUp == true } else { false }
        }
        guard let target = leaders.randomElement(using: &generator) else { return }
        let count = Int.random(in: 1...4, using: &generator)
        withLeader(target) { [now] leader, replica in
            let epoch = leader.leaderEpoch
            // P16: acks=all is refused; acks=1 writes go in all the same.
            let isAckAll = !leader.isBelowMinISR
            if !isAckAll, count > 2 { return [] }
            for _ in 0..<count {
                lastValue += 1
                replica.log.append([SimulatedLog.Entry(value: lastValue, epoch: epoch)])
            }
            if isAckAll {
                replica.pending.append(
                    Pending(
                        end: replica.log.end, value: lastValue, ackedBefore: highestAcknowledged))
            }
            return leader.appended(to: replica.log.end, now: now)
        }
        startFlush(target)
    }

    private var isHealedDelay: Int { isHealed ? 200_000 : 30_000 }

    private func acknowledge(_ id: NodeID, in replica: inout Replica) {
        let highWatermark = replica.highWatermark
        for pending in replica.pending where pending.end <= highWatermark {
            // P14: what was acknowledged before this was sent has a smaller offset.
            if pending.end <= pending.ackedBefore {
                report("acknowledged \(pending.end) after \(pending.ackedBefore)")
            }
            // P15: it is below this leader's HW, and is what it was.
            let index = Int(pending.end.rawValue) - 1
            if committed[index].value != pending.value {
                report("\(id) acknowledged \(pending.value) at \(index): \(committed[index])")
            }
            acknowledged[pending.value] = pending.end
            highestAcknowledged = max(highestAcknowledged, pending.end)
        }
        replica.pending.removeAll { $0.end <= highWatermark }
    }

    // MARK: Leaders

    func withLeader(
        _ id: NodeID,
        _ body: (inout PartitionLeader, inout Replica) -> [PartitionLeader.Effect]
    ) {
        guard var replica = replicas[id], replica.isUp, case .leader(var leader) = replica.role
        else { return }
        let effects = body(&leader, &replica)
        replica.role = .leader(leader)
        for effect in effects {
            switch effect {
            case .advanceHighWatermark(let end): commit(end, by: id, &replica)
            case .fellBelowMinISR: replica.pending = []
            case .propose(let proposal):
                propose(proposal, from: id, incarnation: replica.incarnation)
            }
        }
        replicas[id] = replica
    }

    private func commit(_ end: Offset, by id: NodeID, _ replica: inout Replica) {
        guard end > replica.highWatermark else {
            report("the HW of \(id) fell from \(replica.highWatermark) to \(end)")
            return
        }
        replica.highWatermark = end
        let count = Int(end.rawValue)
        let common = min(count, committed.count)
        guard replica.log.entries[..<common].elementsEqual(committed[..<common]) else {
            // P17: a replaced leader commits nothing its successor lacks.
            report("\(id) committed other records up to \(end)")
            return
        }
        if count > committed.count { committed = Array(replica.log.entries[..<count]) }
        acknowledge(id, in: &replica)
    }

    private func propose(_ proposal: ISRProposal, from id: NodeID, incarnation: Int) {
        if !chance(lossPercent) {
            let latest = chance(20) ? max(20_000, Int(maxDelay.nanoseconds / 1000)) : 5_000
            schedule(
                .alter(proposal, from: id, incarnation: incarnation),
                in: randomDelay(50...latest))
        }
        // The call's deadline; it may pass before the controller gets to it.
        schedule(
            .altered(
                attempt: proposal.attempt, .unknown, id, proposal.leaderEpoch,
                incarnation: incarnation), in: .milliseconds(20))
        guard brokenRule == .shrinkCountsAtOnce else { return }
        schedule(
            .altered(
                attempt: proposal.attempt,
                .accepted(
                    isr: proposal.isr.map(\.id), leaderEpoch: proposal.leaderEpoch,
                    partitionEpoch: proposal.partitionEpoch.next), id, proposal.leaderEpoch,
                incarnation: incarnation), in: .microseconds(1))
    }

    func serve(_ fetch: FollowerFetch, at id: NodeID) {
        withLeader(id) { [now] leader, replica in
            let log = replica.log
            let (verdict, effects) = leader.fetched(fetch, epochEnd: log.epochEnd, now: now)
            var answer = PartitionFollower.Answer(
                leaderEpoch: leader.leaderEpoch, fetchOffset: fetch.position,
                lastFetchedEpoch: fetch.lastFetchedEpoch,
                highWatermark: leader.highWatermark, logStartOffset: 0, content: .batches(nil))
            var entries: [SimulatedLog.Entry] = []
            switch verdict {
            case .refused(.offsetOutOfRange): answer.content = .outOfRange
            case .refused: return effects
            case .diverging(let end): answer.content = .diverging(end)
            case .serve:
                entries = log.entries(
                    from: fetch.position, count: Int.random(in: 1...20, using: &generator))
                if let first = entries.first, let last = entries.last {
                    answer.content = .batches(
                        .init(
                            baseOffset: fetch.position,
                            endOffset: fetch.position + Int64(entries.count),
                            firstEpoch: first.epoch, lastEpoch: last.epoch))
                }
            }
            send(.answer(answer, entries, to: fetch.follower))
            return effects
        }
    }

    // MARK: Followers

    func sendFetch(from id: NodeID) {
        guard let replica = replicas[id], replica.isUp, case .follower(let follower) = replica.role
        else { return }
        let position = follower.position
        send(
            .fetch(
                FollowerFetch(
                    follower: id, brokerEpoch: replica.brokerEpoch,
                    leaderEpoch: position.leaderEpoch, position: position.offset,
                    lastFetchedEpoch: position.lastFetchedEpoch,
                    durableEnd: brokenRule == .unsyncedCountsAsDurable
                        ? position.offset : position.durableEnd,
                    highWatermark: position.highWatermark), to: follower.leader))
    }

    func receive(
        _ answer: PartitionFollower.Answer, _ entries: [SimulatedLog.Entry], at id: NodeID
    ) {
        guard var replica = replicas[id], replica.isUp,
            case .follower(var follower) = replica.role
        else { return }
        var answer = answer
        if brokenRule == .lateAnswersCount, case .batches(let batches) = answer.content {
            answer.leaderEpoch = follower.leaderEpoch
            answer.fetchOffset = follower.logEndOffset
            answer.lastFetchedEpoch = follower.lastEpoch
            if var batches {
                batches.baseOffset = follower.logEndOffset
                batches.endOffset = follower.logEndOffset + Int64(entries.count)
                answer.content = .batches(batches)
            }
        }
        let log = replica.log
        switch follower.received(answer, epochEnd: log.epochEnd) {
        case .ignore: return
        case .nothingNew: break
        case .append:
            replica.log.append(entries)
            follower.appended(to: replica.log.end, lastEpoch: replica.log.lastEpoch)
            checkIsPrefix(replica.log, of: follower)
        case .truncate(let end):
            replica.log.truncate(to: end)
            follower.truncated(
                to: end, durableEnd: replica.log.durableEnd, lastEpoch: replica.log.lastEpoch)
        case .restart(let start):
            // Not one record in common: nothing of the follower's can have been committed.
            if start > 0 { report("\(id) was told to start anew at \(start)") }
            replica.log.truncate(to: 0)
            follower.restarted(at: 0, durableEnd: 0)
        case .refuse(let violation):
            report("\(id) refused an honest leader's batches: \(violation)")
        }
        replica.highWatermark = follower.highWatermark
        replica.role = .follower(follower)
        replicas[id] = replica
        startFlush(id)
    }

    /// P6: once a follower has appended in an epoch, all of its log is its leader's.
    private func checkIsPrefix(_ log: SimulatedLog, of follower: PartitionFollower) {
        guard let leader = replicas[follower.leader], case .leader(let core) = leader.role,
            core.leaderEpoch == follower.leaderEpoch, !leader.log.holds(log.entries)
        else { return }
        report("a follower of \(follower.leader) has another log than its leader")
    }

    // MARK: Disks

    func startFlush(_ id: NodeID) {
        guard let replica = replicas[id], replica.isUp, !replica.flushing,
            replica.log.durableEnd < replica.log.end
        else { return }
        replicas[id]?.flushing = true
        schedule(
            .flush(id, end: replica.log.end, truncations: replica.log.truncations),
            in: randomDelay(200...(chance(5) ? 200_000 : 8_000)))
    }

    func flushed(_ id: NodeID, _ end: Offset, _ truncations: Int) {
        guard var replica = replicas[id], replica.isUp, replica.flushing else { return }
        replica.flushing = false
        replica.log.flushed(to: end, truncations: truncations)
        let durableEnd = replica.log.durableEnd
        if case .follower(var follower) = replica.role {
            follower.madeDurable(to: durableEnd)
            replica.role = .follower(follower)
        }
        if chance(20) { replica.checkpoint = min(replica.highWatermark, durableEnd) }
        replicas[id] = replica
        withLeader(id) { [now] leader, _ in leader.madeDurable(to: durableEnd, now: now) }
        startFlush(id)
    }

    // MARK: Brokers

    func crash(_ id: NodeID) {
        guard !isHealed, var replica = replicas[id], replica.isUp else { return }
        replica.isUp = false
        replica.incarnation += 1
        replica.log.crash(using: &generator)
        replica.role = .none
        replica.pending = []
        replica.flushing = false
        replica.highWatermark = min(replica.checkpoint, replica.log.end)
        replica.knownAssignment = nil
        replicas[id] = replica
        schedule(.restart(id), in: randomDelay(1_000...700_000))
        // A quick return can come before anyone has noticed.
        schedule(.fence(id), in: randomDelay(10_000...300_000))
    }

    func restart(_ id: NodeID) {
        guard var replica = replicas[id], !replica.isUp else { return }
        replica.isUp = true
        replica.brokerEpoch = controller.register(id)
        replica.appliedMetadata = 0
        replicas[id] = replica
        announceMetadata()
        applyMetadata(id, upTo: controller.log.count)
        schedule(.unfence(id, replica.brokerEpoch), in: randomDelay(1_000...100_000))
        startTimers(id)
        if !isHealed { schedule(.crash(id), in: randomDelay(100_000...2_500_000)) }
    }

    func applyMetadata(_ id: NodeID, upTo end: Int) {
        guard var replica = replicas[id], replica.isUp, end > replica.appliedMetadata else {
            return
        }
        replica.appliedMetadata = end
        let image = controller.log[end - 1]
        let assignment = image.assignment
        defer { replicas[id]?.knownAssignment = assignment }
        if case .leader(let leader) = replica.role, leader.leaderEpoch == assignment.leaderEpoch {
            withLeader(id) { [now, configuration] leader, replica in
                replica.appliedMetadata = end
                return leader.update(
                    brokers: image.brokers, configuration: configuration, now: now)
                    + leader.apply(assignment, now: now)
            }
            return
        }
        if replica.knownAssignment?.leaderEpoch == assignment.leaderEpoch {
            replicas[id] = replica
            return
        }
        // A new leader epoch: everything begins anew; whoever waited for an answer gets none.
        replica.pending = []
        replica.role = .none
        if brokenRule == .truncationByHighWatermark {
            replica.log.truncate(to: replica.highWatermark)
        }
        let log = replica.log
        if assignment.leader == id {
            let leader = PartitionLeader(
                id: id, assignment: assignment, configuration: configuration,
                brokers: image.brokers, logStartOffset: 0, logEndOffset: log.end,
                durableEnd: log.durableEnd, highWatermark: replica.highWatermark, now: now)
            replica.log.assign(assignment.leaderEpoch)
            replica.role = .leader(leader)
        } else if let leader = assignment.leader {
            replica.role = .follower(
                PartitionFollower(
                    leader: leader, leaderEpoch: assignment.leaderEpoch, logStartOffset: 0,
                    logEndOffset: log.end, durableEnd: log.durableEnd, lastEpoch: log.lastEpoch,
                    highWatermark: replica.highWatermark))
        }
        replicas[id] = replica
        withLeader(id) { [now] leader, _ in leader.start(now: now) }
    }
}
