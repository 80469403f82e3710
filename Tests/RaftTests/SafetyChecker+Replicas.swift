import Essentials
import Raft

/// What must hold of a replica after each of its steps.
extension SafetyChecker {
    /// A fetch of its own epoch reached a replica.
    mutating func fetched(from leader: NodeID, by replica: ReplicaKey, now: MonotonicTime) {
        contacts[leader, default: [:]][replica] = now
    }

    mutating func check(
        _ replica: SimulatedReplica, all: [SimulatedReplica], now: MonotonicTime
    ) {
        guard let node = replica.node else { return }
        if let reason = node.halted { fail("halt: \(replica.id) gives up: \(reason)") }
        if let leader = node.leader {
            if let other = leaders[node.election.epoch], other != leader {
                fail("R1: epoch \(node.election.epoch) is led by \(other) and \(leader)")
            }
            leaders[node.election.epoch] = leader
        }
        checkDiskAgrees(replica, node)
        if case .leader(let leader) = node.role { check(leader, replica, node, all, now) }
        if replica.lastStep == now, node.nextDeadline <= now {
            fail("\(replica.id) has a deadline in the past as \(node.role.name)")
        }
    }

    /// What the replica believes of its log is what its disk holds.
    private mutating func checkDiskAgrees(_ replica: SimulatedReplica, _ node: RaftNode) {
        let disk = replica.disk
        let epochBefore = disk.epoch(before: replica.logStart)
        if node.log.endOffset != Offset(Int64(disk.endOffset))
            || node.log.startOffset != Offset(Int64(replica.logStart))
            || node.log.endOffset > node.log.startOffset && node.log.lastEpoch != disk.lastEpoch
            || replica.knowsEpochBeforeStart && node.log.epochBeforeStart != epochBefore
        {
            fail("R21: \(replica.id) takes its log for \(node.log), it ends at \(disk.endOffset)")
        }
        if node.voters.current != disk.votersInForce {
            fail("R15: \(replica.id) goes by other voters than its log holds")
        }
        if replica.config.isDurable, node.log.durableEnd > Offset(Int64(disk.durableEnd)) {
            fail("R9: \(replica.id) takes \(node.log.durableEnd) for durable")
        }
        if replica.logStart > 0,
            disk.snapshots.last?.id.endOffset ?? 0 < Offset(Int64(replica.logStart))
        {
            fail("R21: \(replica.id) has neither snapshot nor log of \(replica.logStart)")
        }
    }

    private mutating func check(
        _ leader: Leader, _ replica: SimulatedReplica, _ node: RaftNode,
        _ all: [SimulatedReplica], _ now: MonotonicTime
    ) {
        let run = run(of: replica)
        if runsLeading[leader.epoch] == nil {
            epochsLed += 1
            runsLeading[leader.epoch] = run
            checkIsComplete(leader, replica)
        } else if runsLeading[leader.epoch] != run {
            fail("R6: \(replica.id) leads epoch \(leader.epoch) again after a restart")
        }
        var record = led[run, default: Leadership()]
        if record.over >= leader.epoch {
            fail("R14: \(replica.id) leads \(leader.epoch) again")
        }
        guard let voters = node.voters.current else {
            fail("R15: \(replica.id) leads no voters")
            return
        }
        if record.voters != voters { (record.voters, record.votersSince) = (voters, now) }
        if let highWatermark = leader.highWatermark {
            if highWatermark > record.highWatermark ?? 0 {
                checkIsDurableOnMajority(highWatermark, replica, voters, all)
            }
            if highWatermark <= leader.epochStart {
                fail("R8: \(replica.id) commits before its epoch's first record")
            }
            if !voters.isVoter(replica.key), highWatermark > node.voters.currentOffset ?? 0 {
                fail("R17: \(replica.id) leads on after its removal is committed")
            }
            record.highWatermark = highWatermark
        }
        led[run] = record
        // A process that was paused learns the time with its next step.
        guard replica.lastStep == now else { return }
        let needed = voters.majority - (voters.isVoter(replica.key) ? 1 : 0)
        let heard = voters.voters.filter { $0.id != replica.id }
            .map { max(contacts[replica.id]?[$0.key] ?? .zero, leader.since, record.votersSince) }
            .sorted(by: >)
        if needed > 0, heard.count >= needed,
            now > heard[needed - 1] + config.checkQuorumTimeout
        {
            fail("R13: \(replica.id) leads without a majority")
        }
    }

    /// Leader completeness: the log before the epoch holds everything committed in earlier ones.
    private mutating func checkIsComplete(_ leader: Leader, _ replica: SimulatedReplica) {
        var count = committed.count
        while count > 0, commitEpochs[count - 1] >= leader.epoch { count -= 1 }
        let disk = replica.disk
        let start = disk.startOffset
        guard count <= Int(leader.epochStart.rawValue) else {
            fail("R7: the leader of \(leader.epoch) lacks committed records")
            return
        }
        if start < count, committed[start..<count] != disk.entries[0..<(count - start)] {
            fail("R7: the leader of \(leader.epoch) has other records than those committed")
        }
    }

    private mutating func checkIsDurableOnMajority(
        _ highWatermark: Offset, _ leader: SimulatedReplica, _ voters: VoterSet,
        _ all: [SimulatedReplica]
    ) {
        let last = Int(highWatermark.rawValue) - 1
        guard let entry = leader.disk.entry(at: last) else { return }
        let holders = voters.voters.count { voter in
            let replica = all.first { $0.key == voter.key }
            guard let disk = replica?.disk ?? graveyard[voter.key] else { return false }
            if let snapshot = disk.snapshots.last?.id, snapshot.endOffset >= highWatermark {
                return true
            }
            return disk.durableEnd > last && disk.entry(at: last) == entry
        }
        if holders < voters.majority {
            fail("R8: \(leader.id) commits \(highWatermark), durable on \(holders) only")
        }
    }
}
