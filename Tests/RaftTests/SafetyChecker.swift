import Essentials
import Raft

/// Watches a whole quorum and notes every rule that is broken; sees what no single replica can.
struct SafetyChecker {
    private(set) var violations: [String] = []
    /// The records known to be committed, in order.
    private(set) var committed: [Entry] = []
    private(set) var epochsLed = 0
    private let voters: VoterSet
    private let config: RaftConfig
    private var leaders: [LeaderEpoch: NodeID] = [:]
    private var votes: [VoteKey: ReplicaKey] = [:]
    private var preVotes: [VoteKey: Set<NodeID>] = [:]
    private var contents: [RecordKey: UInt64] = [:]
    private var chains: [RecordKey: UInt64] = [:]
    private var runsLeading: [LeaderEpoch: Int] = [:]
    private var checkedCommits: [NodeID: (run: Int, end: Int)] = [:]
    private var epochsShown: [NodeID: LeaderEpoch] = [:]
    private var contacts: [NodeID: [NodeID: MonotonicTime]] = [:]
    private var exposed: Offset = 0

    private struct VoteKey: Hashable {
        var voter: NodeID
        var epoch: LeaderEpoch
    }

    private struct RecordKey: Hashable {
        var offset: Offset
        var epoch: LeaderEpoch
    }

    init(voters: VoterSet, config: RaftConfig) {
        self.voters = voters
        self.config = config
    }

    mutating func fail(_ text: String) {
        violations.append(text)
    }

    /// Log matching: one offset and epoch, one record, and one history before it.
    mutating func appended(_ entry: Entry, at offset: Offset, after previous: Entry?) {
        let key = RecordKey(offset: offset, epoch: entry.epoch)
        let before = previous.flatMap {
            chains[RecordKey(offset: Offset(offset.rawValue - 1), epoch: $0.epoch)]
        }
        var chain = (before ?? 0) &* 0x100_0000_01B3
        chain = (chain ^ entry.payload) &* 0x100_0000_01B3
        if let known = contents[key], known != entry.payload {
            fail("R6: offset \(offset) of epoch \(entry.epoch) names two records")
        } else if let known = chains[key], known != chain {
            fail("R5: logs that share offset \(offset), epoch \(entry.epoch) differ before it")
        }
        contents[key] = entry.payload
        chains[key] = chain
    }

    /// What leaves a replica must follow from what is on its disk.
    mutating func left(_ packet: Packet, disk: SimulatedReplica.Disk, now: MonotonicTime) {
        let durable = disk.election ?? .initial
        switch packet.content {
        case .request(let request, _):
            shown(epoch(of: request), by: packet.from, durable)
            if case .vote(let vote) = request, !vote.isPreVote {
                voted(packet.from, for: vote.candidate, in: vote.epoch, durable)
                let granted = preVotes[
                    VoteKey(voter: packet.from, epoch: LeaderEpoch(vote.epoch.rawValue - 1)),
                    default: []]
                if granted.union([packet.from]).count < voters.majority,
                    granted.count < voters.majority
                {
                    fail("R12: \(packet.from) campaigns in \(vote.epoch) without pre-votes")
                }
            }
            if case .fetch(let fetch) = request, voters.isVoter(fetch.replica),
                fetch.fetchOffset > Offset(Int64(disk.durableCount))
            {
                fail("R9: \(packet.from) fetches at \(fetch.fetchOffset), which is not durable")
            }
        case .response(let response, _, _):
            shown(epoch(of: response), by: packet.from, durable)
        case .failure, .connectionLost:
            break
        }
    }

    /// A vote that was granted, by a response that leaves.
    mutating func answered(
        _ request: VoteRequest, by voter: NodeID, _ response: VoteResponse,
        disk: SimulatedReplica.Disk
    ) {
        guard response.isGranted else { return }
        if request.isPreVote {
            // Of the epochs before the one campaigned in, since a candidate may also have waited.
            preVotes[VoteKey(voter: request.candidate.id, epoch: request.epoch), default: []]
                .insert(voter)
        } else {
            voted(voter, for: request.candidate, in: request.epoch, disk.election ?? .initial)
        }
    }

    private mutating func voted(
        _ voter: NodeID, for candidate: ReplicaKey, in epoch: LeaderEpoch,
        _ durable: ElectionState
    ) {
        let key = VoteKey(voter: voter, epoch: epoch)
        if let other = votes[key], other != candidate {
            fail("R2: \(voter) votes for \(other) and \(candidate) in epoch \(epoch)")
        }
        votes[key] = candidate
        if durable.epoch < epoch || (durable.epoch == epoch && durable.votedFor != candidate) {
            fail("R2: the vote of \(voter) in epoch \(epoch) leaves before it is durable")
        }
    }

    private mutating func shown(
        _ epoch: LeaderEpoch, by id: NodeID, _ durable: ElectionState
    ) {
        if epoch > durable.epoch { fail("R3: \(id) shows epoch \(epoch), which is not durable") }
        if durable.epoch < epochsShown[id] ?? 0 { fail("R3: the epoch of \(id) falls") }
        epochsShown[id] = max(epochsShown[id] ?? 0, durable.epoch)
    }

    /// A fetch reached a replica.
    mutating func fetched(from leader: NodeID, by voter: NodeID, now: MonotonicTime) {
        if voters.contains(voter) { contacts[leader, default: [:]][voter] = now }
    }

    /// Looks at a replica after a step, and at the disks of all.
    mutating func check(
        _ replica: SimulatedReplica, all: [SimulatedReplica], now: MonotonicTime
    ) {
        guard let node = replica.node else { return }
        if let reason = node.halted { fail("\(replica.id) halted: \(reason)") }
        if let leader = node.leader {
            if let other = leaders[node.election.epoch], other != leader {
                fail("R1: epoch \(node.election.epoch) is led by \(other) and \(leader)")
            }
            leaders[node.election.epoch] = leader
        }
        checkLogMatchesCommitted(replica)
        if case .leader(let leader) = node.role { check(leader, replica, all, now) }
        if replica.lastStep == now, node.nextDeadline <= now {
            fail("\(replica.id) has a deadline in the past as \(node.role.name)")
        }
    }

    private mutating func check(
        _ leader: Leader, _ replica: SimulatedReplica, _ all: [SimulatedReplica],
        _ now: MonotonicTime
    ) {
        let entries = replica.disk.entries
        if runsLeading[leader.epoch] == nil {
            epochsLed += 1
            runsLeading[leader.epoch] = replica.run
            // Leader completeness: the log before the epoch holds everything committed.
            let count = min(committed.count, Int(leader.epochStart.rawValue))
            if count < committed.count || Array(entries.prefix(count)) != committed {
                fail("R7: the leader of \(leader.epoch) lacks committed records")
            }
        } else if runsLeading[leader.epoch] != replica.run {
            fail("R6: \(replica.id) leads epoch \(leader.epoch) again after a restart")
        }
        if let highWatermark = leader.highWatermark {
            checkIsDurableOnMajority(highWatermark, replica, all)
            if highWatermark <= leader.epochStart {
                fail("R8: \(replica.id) commits before its epoch's first record")
            }
            exposed = max(exposed, highWatermark)
        }
        // A process that was paused learns the time with its next step.
        guard replica.lastStep == now else { return }
        let heard = voters.ids.filter { $0 != replica.id }
            .map { max(contacts[replica.id]?[$0] ?? .zero, leader.since) }
            .sorted(by: >)
        if voters.majority > 1, heard.count >= voters.majority - 1,
            now > heard[voters.majority - 2] + config.checkQuorumTimeout
        {
            fail("R13: \(replica.id) leads without a majority")
        }
    }

    private mutating func checkIsDurableOnMajority(
        _ highWatermark: Offset, _ leader: SimulatedReplica, _ all: [SimulatedReplica]
    ) {
        guard highWatermark > exposed, highWatermark > 0 else { return }
        let last = Int(highWatermark.rawValue) - 1
        let entry = leader.disk.entries[last]
        let holders = all.count {
            voters.isVoter($0.key) && $0.disk.durableCount > last && $0.disk.entries[last] == entry
        }
        if holders < voters.majority {
            fail("R8: \(leader.id) commits \(highWatermark), durable on \(holders) only")
        }
    }

    private mutating func checkLogMatchesCommitted(_ replica: SimulatedReplica) {
        var checked = checkedCommits[replica.id] ?? (replica.run, 0)
        if checked.run != replica.run { checked = (replica.run, 0) }
        let end = Int(replica.committed.rawValue)
        if end < checked.end { fail("R10: the high watermark of \(replica.id) falls") }
        guard end > checked.end else { return }
        guard end <= replica.disk.entries.count else {
            fail("\(replica.id) commits past its log's end")
            return
        }
        for index in checked.end..<end {
            let entry = replica.disk.entries[index]
            if index == committed.count {
                committed.append(entry)
            } else if committed[index] != entry {
                fail("R7: \(replica.id) commits another record at \(index)")
            }
        }
        checkedCommits[replica.id] = (replica.run, end)
    }

    private func epoch(of request: RaftRequest) -> LeaderEpoch {
        switch request {
        case .vote(let request): request.epoch
        case .beginQuorumEpoch(let request): request.epoch
        case .endQuorumEpoch(let request): request.epoch
        case .fetch(let request): request.epoch
        }
    }

    private func epoch(of response: RaftResponse) -> LeaderEpoch {
        switch response {
        case .vote(let response): response.epoch
        case .beginQuorumEpoch(let response), .endQuorumEpoch(let response): response.epoch
        case .fetch(let response): response.epoch
        }
    }
}
