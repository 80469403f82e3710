import Essentials
import Raft

/// What goes wrong, and the end of it.
extension Simulator {
    func injectFault() {
        guard let id = ids.randomElement(using: &generator), let replica = replicas[id] else {
            return
        }
        // The leader is the most interesting victim.
        let leader = ids.first { replicas[$0]?.node?.leader == $0 }
        let victim = chance(0.4) ? replicas[leader ?? id] ?? replica : replica
        if chance(plan.wipeRate) {
            wipe(victim)
            return
        }
        switch Int.random(in: 0..<9, using: &generator) {
        case 0, 1: cut(around: victim.id, both: true)
        case 2: cut(around: victim.id, both: false)
        case 3: cutInTwo()
        case 4:
            note("pause \(victim.id)")
            pausedUntil[victim.id] =
                now + .milliseconds(Int.random(in: 100...6_000, using: &generator))
        case 5: crash(victim, losingPower: false)
        case 6: crash(victim, losingPower: true)
        case 7:
            note("crash soon \(victim.id)")
            victim.effectsUntilCrash = Int.random(in: 0...3, using: &generator)
        default:
            if chance(0.2) {
                for id in ids {
                    if let replica = replicas[id] { crash(replica, losingPower: true) }
                }
            } else {
                note("resign \(victim.id)")
                victim.step(.resign, now: now)
                settle(victim.id)
            }
        }
    }

    private func cut(around id: NodeID, both: Bool) {
        let outward = Set(ids.filter { $0 != id }.map { Link(from: id, to: $0) })
        let inward = Set(ids.filter { $0 != id }.map { Link(from: $0, to: id) })
        let links = both ? outward.union(inward) : chance(0.5) ? outward : inward
        addCut(links)
        guard chance(0.5) else { return }
        // Its connections break, on both sides.
        for peer in ids where peer != id {
            let lost = Packet(from: id, to: peer, run: 0, content: .connectionLost)
            schedule(.arrive(lost), after: networkDelay())
        }
    }

    private func cutInTwo() {
        let side = Set(ids.filter { _ in chance(0.5) })
        addCut(
            Set(
                ids.flatMap { from in
                    ids.filter { side.contains($0) != side.contains(from) }
                        .map { Link(from: from, to: $0) }
                }))
    }

    private func addCut(_ links: Set<Link>) {
        lastCut += 1
        note("cut \(lastCut) \(links.count)")
        cuts[lastCut] = links
        schedule(
            .endCut(lastCut),
            after: .milliseconds(Int.random(in: 100...8_000, using: &generator)))
    }

    private func crash(_ replica: SimulatedReplica, losingPower: Bool) {
        guard replica.isUp else { return }
        note("crash \(replica.id) \(losingPower)")
        if losingPower {
            let unsynced = replica.disk.endOffset - replica.disk.durableEnd
            replica.losePower(
                survivors: Int.random(in: 0...unsynced, using: &generator),
                electionSurvives: chance(0.5))
        } else {
            replica.kill()
        }
        comeBack(replica)
    }

    /// A replica that is down is started again some time.
    func comeBack(_ replica: SimulatedReplica) {
        guard starting.insert(replica.id).inserted else { return }
        pausedUntil[replica.id] = nil
        for peer in ids where peer != replica.id && chance(0.7) {
            let lost = Packet(from: replica.id, to: peer, run: 0, content: .connectionLost)
            schedule(.arrive(lost), after: .microseconds(200))
        }
        schedule(
            .start(replica.id),
            after: .milliseconds(Int.random(in: 5...4_000, using: &generator)))
    }

    // MARK: - Disks that are gone for good

    /// Puts an empty disk in the place of the replica's, if enough voters keep theirs.
    private func wipe(_ replica: SimulatedReplica) {
        guard possibleVoters.allSatisfy({ survives($0, without: replica.id) }) else { return }
        note("wipe \(replica.id)")
        replica.kill()
        checker.graveyard[replica.key] = replica.disk
        replica.disk = SimulatedDisk(
            directory: .random(using: &generator), bootstrapVoters: nil)
        comeBack(replica)
    }

    /// Every voter set that is in force, or may come into force again.
    private var possibleVoters: [VoterSet] {
        checker.possibleVoters
            + ids.compactMap { replicas[$0]?.disk.votersInForce }
    }

    /// Whether a majority of these voters still has its disks.
    func survives(_ voters: VoterSet, without lost: NodeID? = nil) -> Bool {
        let left = voters.voters.count { $0.id != lost && replicas[$0.id]?.key == $0.key }
        return left >= voters.majority
    }
}
