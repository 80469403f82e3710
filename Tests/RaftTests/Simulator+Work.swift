import Essentials
import Raft

/// What clients and operators want, faults or not.
extension Simulator {
    /// Those that believe that they lead, and run.
    private var leading: [SimulatedReplica] {
        ids.compactMap { replicas[$0] }.filter {
            $0.leading != nil && pausedUntil[$0.id] ?? .zero <= now
        }
    }

    func propose() {
        for replica in leading {
            if replica.propose(count: Int.random(in: 1...3, using: &generator), now: now) {
                note("proposed to \(replica.id)")
                settle(replica.id)
            }
        }
    }

    // MARK: - Voter changes

    /// Asks someone who believes that it leads for another voter set, at an odd moment.
    func changeVoters() {
        guard let leader = leading.randomElement(using: &generator),
            let voters = leader.node?.voters.current
        else { return }
        // A second change at once has to be refused.
        for _ in 0..<(chance(0.3) ? 2 : 1) {
            guard let (change, result) = pickChange(of: voters), survives(result) else { continue }
            note("\(change) on \(leader.id)")
            let error = leader.change(change, now: now)
            if let error { note("refused: \(error)") }
            settle(leader.id)
        }
    }

    private func pickChange(of voters: VoterSet) -> (VoterChange, VoterSet)? {
        let strangers = controllers.compactMap { replicas[$0] }.filter { !voters.isVoter($0.key) }
        if voters.count < 5, chance(0.6), let joining = strangers.randomElement(using: &generator) {
            if let old = voters[joining.id] {
                return voters.removing(old.id).map {
                    (.remove(id: old.id, directory: old.directory), $0)
                }
            }
            let voter = Simulator.voter(joining.id, joining.disk.directory)
            return voters.adding(voter).map { (.add(voter), $0) }
        }
        guard let voter = voters.voters.randomElement(using: &generator) else { return nil }
        if chance(0.2) {
            var moved = voter
            moved.port += 1
            return voters.replacing(moved).map { (.update(moved), $0) }
        }
        return voters.removing(voter.id).map {
            (.remove(id: voter.id, directory: chance(0.5) ? voter.directory : nil), $0)
        }
    }

    // MARK: - Snapshots, reads and transfers

    func takeSnapshot() {
        guard let replica = ids.randomElement(using: &generator).flatMap({ replicas[$0] }),
            pausedUntil[replica.id] ?? .zero <= now
        else { return }
        replica.maxPiece = Int64.random(in: 1...max(1, plan.snapshotSize), using: &generator)
        guard
            replica.beginSnapshot(
                size: Int64.random(in: 1...plan.snapshotSize, using: &generator))
        else { return }
        note("takes a snapshot \(replica.id)")
        settle(replica.id)
    }

    /// Reads, or now and then hands over the leadership, with or without success.
    func callLeader() {
        guard let any = ids.randomElement(using: &generator).flatMap({ replicas[$0] }) else {
            return
        }
        let replica = chance(0.8) ? leading.randomElement(using: &generator) ?? any : any
        guard replica.isUp, pausedUntil[replica.id] ?? .zero <= now else { return }
        let token = replica.newToken()
        let isRead = chance(0.8)
        checker.began(token, isRead: isRead, on: replica)
        if isRead {
            note("read on \(replica.id)")
            replica.step(.read(token), now: now)
        } else {
            let target = chance(0.5) ? nil : controllers.randomElement(using: &generator)
            note("transfer from \(replica.id) to \(target.map { "\($0)" } ?? "any")")
            replica.step(.transfer(to: target, token), now: now)
        }
        settle(replica.id)
    }

    // MARK: - Healing

    func heal() {
        note("heal")
        isFaulty = false
        cuts = [:]
        pausedUntil = [:]
        for id in ids { replicas[id]?.effectsUntilCrash = nil }
        for id in ids { start(id) }
    }

    /// After healing everyone comes to follow one leader, and what clients want is done.
    func demandProgress() {
        wait(seconds: 40) { self.disagreement }
        guard checker.violations.isEmpty,
            let voter = leading.first?.disk.votersInForce?.voters.first
        else { return }
        let before = checker.committed.count
        let confirmed = checker.readsConfirmed
        var moved = voter
        moved.port += 1_000
        propose()
        read()
        _ = update(moved)
        wait(seconds: 10) {
            // The leader of the healing moment may be replaced yet: then its successor is asked.
            if self.checker.readsConfirmed <= confirmed {
                self.read()
                return "the read is not confirmed"
            }
            if let refusal = self.update(moved) { return refusal }
            if self.checker.committed.count <= before + 1 { return "nothing new is committed" }
            return self.disagreement
        }
    }

    private func read() {
        guard let leader = leading.first else { return }
        let token = leader.newToken()
        checker.began(token, isRead: true, on: leader)
        leader.step(.read(token), now: now)
        settle(leader.id)
    }

    /// Asks for the voter's new address, unless it is in force; returns what is wrong.
    private func update(_ voter: Voter) -> String? {
        guard let leader = leading.first else { return "nobody leads" }
        if leader.disk.votersInForce?[voter.id] == voter { return nil }
        let refusal = leader.change(.update(voter), now: now)
        settle(leader.id)
        return "voters do not change: \(refusal.map { "\($0)" } ?? "lost")"
    }

    private func wait(seconds: Int, for problem: () -> String?) {
        for _ in 0..<(seconds * 2) {
            guard checker.violations.isEmpty else { return }
            run(until: now + .milliseconds(500))
            if problem() == nil { return }
        }
        if checker.violations.isEmpty, let text = problem() { checker.fail("R24: \(text)") }
    }

    /// In what the replicas differ that should have become alike; nothing may be left open.
    private var disagreement: String? {
        let leaders = leading
        guard leaders.count == 1, let leader = leaders.first, let node = leader.node,
            let highWatermark = leader.leading?.highWatermark
        else { return "leaders are \(leaders.map(\.id))" }
        if let offset = node.voters.currentOffset, offset >= highWatermark,
            leader.disk.voterRecords.last?.offset == Int(offset.rawValue)
        {
            return "the voter change at \(offset) is not committed"
        }
        for id in ids {
            guard let replica = replicas[id], let other = replica.node else {
                return "\(id) is down"
            }
            if other.election.epoch != node.election.epoch || other.leader != leader.id {
                return "\(id) does not follow \(leader.id)"
            }
            if other.voters.current != node.voters.current {
                return "\(id) goes by other voters than \(leader.id)"
            }
            let lag = highWatermark.rawValue - replica.committed.rawValue
            if lag > 20 { return "\(id) is \(lag) records behind" }
        }
        let open = checker.openCalls.filter { replicas[$0.run.replica.id]?.run == $0.run.run }
        return open.count > 0 ? "\(open.count) calls are not answered" : nil
    }
}
