internal import Essentials

/// Chooses the brokers of a topic's partitions, one after the other.
///
/// What counts, in this order. For the preferred leader: few leaderships of this topic, few of all
/// topics, few replicas. For every further replica: a rack that this partition does not have yet,
/// few replicas of this topic, few places behind this leader (so that a dead broker's leaderships
/// spread over all others), few at this place, few replicas of all topics. What is still equal is
/// decided by a rotation that starts at random.
struct ReplicaPlacement {
    struct Candidate {
        var id: NodeID
        var rack: String?
        /// Partitions that name it first, of all topics.
        var preferred: Int
        /// Replicas of all topics.
        var replicas: Int
    }

    private struct Load {
        var preferred = 0
        var replicas = 0
        /// By leader's index: how often it stands behind that leader.
        var behind: [Int]
        /// By place in the list of replicas.
        var atPlace: [Int] = []
    }

    private var candidates: [Candidate]
    /// What this topic has given each candidate so far.
    private var loads: [Load]
    private let rotation: Int
    /// Candidates without a rack count as alone in theirs, as far as spreading goes.
    private let racks: [Int]

    /// `brokers` are in a fixed order and not empty.
    init(brokers: [Candidate], rotation: Int) {
        candidates = brokers
        loads = Array(
            repeating: Load(behind: Array(repeating: 0, count: brokers.count)),
            count: brokers.count)
        self.rotation = rotation
        var known: [String: Int] = [:]
        racks = brokers.indices.map { index in
            guard let rack = brokers[index].rack else { return index }
            let number = known[rack] ?? index
            known[rack] = number
            return number
        }
    }

    /// The next partition's replicas, the preferred leader first; at most as many as brokers.
    mutating func next(replicas count: Int) -> [NodeID] {
        let leader = best(of: candidates.indices) { index in
            Cost(
                fields: (
                    loads[index].preferred, candidates[index].preferred,
                    candidates[index].replicas, 0, 0
                ))
        }
        loads[leader].preferred += 1
        candidates[leader].preferred += 1
        var chosen = [leader]
        while chosen.count < min(count, candidates.count) {
            let place = chosen.count - 1
            let next = best(of: candidates.indices.filter { !chosen.contains($0) }) { index in
                let load = loads[index]
                return Cost(
                    fields: (
                        chosen.count { racks[$0] == racks[index] }, load.replicas,
                        load.behind[leader], place < load.atPlace.count ? load.atPlace[place] : 0,
                        candidates[index].replicas
                    ))
            }
            loads[next].behind[leader] += place == 0 ? 1 : 0
            while loads[next].atPlace.count <= place { loads[next].atPlace.append(0) }
            loads[next].atPlace[place] += 1
            chosen.append(next)
        }
        for index in chosen {
            loads[index].replicas += 1
            candidates[index].replicas += 1
        }
        return chosen.map { candidates[$0].id }
    }

    /// The index with the least cost; among equals, the one whose turn it is.
    private func best(
        of indices: some Sequence<Int>, by cost: (Int) -> Cost
    ) -> Int {
        var winner: (index: Int, cost: Cost, turn: Int)?
        for index in indices {
            let cost = cost(index)
            let turn = (index - rotation + candidates.count) % candidates.count
            if let known = winner, (known.cost, known.turn) < (cost, turn) { continue }
            winner = (index, cost, turn)
        }
        return winner?.index ?? 0
    }

    /// Compared field by field, the most important one first.
    private struct Cost: Comparable {
        var fields: (Int, Int, Int, Int, Int)

        static func == (left: Cost, right: Cost) -> Bool { left.fields == right.fields }
        static func < (left: Cost, right: Cost) -> Bool { left.fields < right.fields }
    }
}
