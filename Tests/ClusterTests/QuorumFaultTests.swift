import Foundation
import Testing

extension ClusterTests {
    /// The metadata quorum under faults, with admin calls going on that must not notice.
    @Suite struct QuorumFaultTests {
        /// What `topic list --output json` answers.
        private struct TopicList: Decodable {
            struct Topic: Decodable {
                var name: String
            }

            var topics: [Topic]
        }

        /// Creates one topic after the other for as long as `body` runs; answers their names.
        ///
        /// Each call is made once: what can be retried, the client library has to retry.
        private func creatingTopics(
            on cluster: Cluster, while body: () async throws -> Void
        ) async throws -> [String] {
            let load = TopicLoad(cluster)
            async let names = load.run()
            do {
                try await body()
            } catch {
                load.stop()
                _ = try? await names
                throw error
            }
            load.stop()
            return try await names
        }

        private func checkTopics(_ names: [String], on cluster: Cluster) async throws {
            let found = try await cluster.millrace("topic", "list", as: TopicList.self)
            let missing = Set(names).subtracting(found.topics.map(\.name))
            #expect(missing.isEmpty)
        }

        /// Waits until a voter follows, or leads, from now on.
        private func awaitVoter(_ id: Int, on cluster: Cluster) async throws {
            let now = Date().timeIntervalSince1970 * 1000
            try await eventually("controller \(id) has caught up") {
                try await cluster.isCaughtUp(id, since: now)
            }
        }

        @Test func aRollingRestartOfAllControllersFailsNoAdminCall() async throws {
            try await Cluster.with(controllers: 3, brokers: 1) { cluster in
                let names = try await creatingTopics(on: cluster) {
                    for voter in try await cluster.quorum().voters.map(\.id) {
                        try await cluster.terminate(voter)
                        try cluster.restart(voter)
                        try await awaitVoter(voter, on: cluster)
                    }
                }
                #expect(names.count > 3)
                try await checkTopics(names, on: cluster)
            }
        }

        @Test func everyTopicCreatedWhileActiveControllersAreKilledIsThere() async throws {
            try await Cluster.with(controllers: 3, brokers: 1) { cluster in
                let before = try await cluster.quorum()
                var names: [String] = []
                for round in 0..<5 {
                    let active = try await cluster.quorum().leaderId
                    try await cluster.kill(active)
                    names.append("round-\(round)")
                    try await cluster.millrace("topic", "create", "round-\(round)")
                    try cluster.restart(active)
                    try await awaitVoter(active, on: cluster)
                }
                try await checkTopics(names, on: cluster)
                let after = try await cluster.quorum()
                #expect(after.leaderEpoch >= before.leaderEpoch + 5)
            }
        }

        @Test func aLeaderThatSleepsLongerThanItsSessionFollowsWhenItWakes() async throws {
            try await Cluster.with(controllers: 3, brokers: 1) { cluster in
                let before = try await cluster.quorum()
                try cluster.send(SIGSTOP, to: before.leaderId)
                // Brokers find the new one, and what it decides stays.
                try await cluster.millrace("topic", "create", "asleep")
                let during = try await cluster.quorum()
                #expect(during.leaderId != before.leaderId)
                #expect(during.leaderEpoch > before.leaderEpoch)
                try cluster.send(SIGCONT, to: before.leaderId)
                try await awaitVoter(before.leaderId, on: cluster)
                try await cluster.millrace("topic", "create", "awake")
                try await checkTopics(["asleep", "awake"], on: cluster)
                // The sleeper neither led again nor made the others elect.
                let after = try await cluster.quorum()
                #expect(after.leaderId == during.leaderId)
                #expect(after.leaderEpoch == during.leaderEpoch)
            }
        }

        @Test(.enabled(if: Cluster.canMount))
        func aVoterWithAFullDiskComesBackWhenThereIsSpace() async throws {
            try await Cluster.with(controllers: 3, brokers: 1) { cluster in
                let quorum = try await cluster.quorum()
                let voter = try #require(quorum.voters.map(\.id).first { $0 != quorum.leaderId })
                try await cluster.terminate(voter)
                try cluster.restartOnSmallDisk(voter, megabytes: 4)
                try await awaitVoter(voter, on: cluster)

                let data = try cluster.node(voter).dataDir
                let fill = try cluster.path(data + "/fill", seenBy: voter)
                try fillUp(fill)
                for number in 0..<15 {
                    try await cluster.millrace(
                        "topic", "create", "full-\(number)", "--partitions", "20")
                }
                #expect(try await cluster.quorum().leaderEpoch == quorum.leaderEpoch)
                try FileManager.default.removeItem(atPath: fill)
                try await awaitVoter(voter, on: cluster)
                try await checkTopics((0..<15).map { "full-\($0)" }, on: cluster)
            }
        }

        /// Writes until there is no space left.
        private func fillUp(_ path: String) throws {
            try Data().write(to: URL(fileURLWithPath: path))
            let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
            defer { try? file.close() }
            for size in [65_536, 4_096, 512, 1] {
                let block = Data(count: size)
                while (try? file.write(contentsOf: block)) != nil {}
            }
        }
    }
}

/// Admin calls, one after the other, until it is told to stop.
private final class TopicLoad: @unchecked Sendable {
    // Sendable: `isStopped` is under the lock, and the cluster only starts client processes here.
    private let cluster: Cluster
    private let lock = NSLock()
    private var isStopped = false

    init(_ cluster: Cluster) {
        self.cluster = cluster
    }

    func stop() {
        lock.withLock { isStopped = true }
    }

    func run() async throws -> [String] {
        var names: [String] = []
        while !lock.withLock({ isStopped }) {
            let name = "load-\(names.count)"
            try await cluster.millrace("topic", "create", name)
            names.append(name)
        }
        return names
    }
}

extension Cluster {
    /// Whether a voter holds nearly all that the leader has, by a fetch after `time`, in milliseconds
    /// since 1970.
    fileprivate func isCaughtUp(_ id: Int, since time: Double) async throws -> Bool {
        struct Replication: Decodable {
            struct Replica: Decodable {
                var id: Int
                var lag: Int?
                var lastFetchTimestamp: Int?
                var status: String
            }

            var replicas: [Replica]
        }
        let replicas = try await millrace("quorum", "replication", as: Replication.self).replicas
        guard let replica = replicas.first(where: { $0.id == id }) else { return false }
        if replica.status == "leader" { return true }
        guard let lag = replica.lag, let fetched = replica.lastFetchTimestamp else { return false }
        return lag < 10 && Double(fetched) > time
    }
}
