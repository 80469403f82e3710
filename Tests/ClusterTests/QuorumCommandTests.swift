import Foundation
import Testing

extension ClusterTests {
    @Suite struct QuorumCommandTests {
        private struct Replicas: Decodable {
            struct Replica: Decodable {
                var id: Int
                var directoryId: String?
                var status: String
            }

            var replicas: [Replica]
        }

        private func voters(_ cluster: Cluster) async throws -> [Int] {
            try await cluster.quorum().voters.map(\.id).sorted()
        }

        @Test func aFourthControllerVotesOnceItIsAddedAndNoMoreOnceItIsRemoved() async throws {
            try await Cluster.with(controllers: 3) { cluster in
                let fourth = try await cluster.startController(1004)
                let added = try await cluster.millrace("quorum", "add-voter", fourth.voter)
                #expect(added.contains("Controller 1004 is a voter now"))
                #expect(try await voters(cluster) == [1001, 1002, 1003, 1004])
                let replicas = try await cluster.millrace(
                    "quorum", "replication", as: Replicas.self)
                let own = replicas.replicas.first { $0.id == 1004 }
                #expect(own?.directoryId == fourth.directoryID)
                #expect(own?.status == "follower")
                // Once more changes nothing; from elsewhere it would be another controller.
                try await cluster.millrace("quorum", "add-voter", fourth.voter)
                let elsewhere = try await cluster.failure(
                    "quorum", "add-voter", "1004@127.0.0.1:1", "--timeout", "3")
                #expect(elsewhere.contains("1004"), "\(elsewhere)")
                #expect(try await voters(cluster) == [1001, 1002, 1003, 1004])

                // With one of four down the other three are a majority.
                try await cluster.kill(1001)
                try await cluster.millrace("topic", "create", "with-three")
                try cluster.restart(1001)
                try await cluster.awaitRestarted(1001)

                try await cluster.millrace(
                    "quorum", "remove-voter", "1004/\(fourth.directoryID)")
                #expect(try await voters(cluster) == [1001, 1002, 1003])
                #expect(
                    try await cluster.failure("quorum", "remove-voter", "1004")
                        .contains("VOTER_NOT_FOUND"))
                #expect(fourth.process.isRunning)
                fourth.process.send(SIGTERM)
                #expect(try await fourth.process.wait().exitCode == 0)
            }
        }

        @Test func aControllerThatDoesNotRunIsNoVoter() async throws {
            try await Cluster.with { cluster in
                let message = try await cluster.failure(
                    "quorum", "add-voter", "7@127.0.0.1:1", "--timeout", "2")
                #expect(message.contains("7"), "\(message)")
                #expect(try await voters(cluster) == [1001])
                _ = try await cluster.failure("quorum", "remove-voter", "1001")
                #expect(try await voters(cluster) == [1001])
            }
        }

        @Test func aQuorumOfOneGrowsToThreeAndSurvivesItsFirst() async throws {
            // They outlive the cluster, whose brokers need a quorum to leave in order.
            var others: [Cluster.OwnController] = []
            try await Cluster.with(controllers: 1) { cluster in
                try await cluster.millrace("topic", "create", "early")
                for id in [1002, 1003] {
                    let next = try await cluster.startController(id)
                    try await cluster.millrace("quorum", "add-voter", next.voter)
                    others.append(next)
                }
                try await cluster.kill(1001)
                try await cluster.millrace("topic", "create", "late")
                #expect(try await [1002, 1003].contains(cluster.quorum().leaderId))
                try cluster.restart(1001)
                try await cluster.awaitRestarted(1001)
            }
            for other in others { other.process.send(SIGKILL) }
        }

        @Test func aVoterWhoseDiskWasLostFollowsUntilItIsReplaced() async throws {
            try await Cluster.with(controllers: 3) { cluster in
                let lost = try cluster.node(1003)
                try await cluster.kill(1003)
                try FileManager.default.removeItem(atPath: lost.dataDir)
                let directoryID = try await Cluster.run(
                    "storage", "random-id", in: cluster.directory)
                _ = try await Cluster.run(
                    "storage", "format", "--config", lost.config, "--no-initial-controllers",
                    "--cluster-id", try await cluster.quorum().clusterId,
                    "--directory-id", directoryID, in: cluster.directory)
                try cluster.restart(1003)
                try await eventually("the new disk is seen beside the old voter") {
                    let quorum = try await cluster.quorum()
                    return quorum.voters.map(\.id).contains(1003)
                        && quorum.observers.map(\.id).contains(1003)
                }
                try await cluster.millrace("quorum", "remove-voter", "1003")
                try await cluster.millrace(
                    "quorum", "add-voter", "1003@127.0.0.1:\(lost.port)/\(directoryID)")
                #expect(try await voters(cluster) == [1001, 1002, 1003])

                // It counts: without it there were no majority now.
                try await cluster.kill(1001)
                try await cluster.millrace("topic", "create", "without-the-first")
                try cluster.restart(1001)
                try await cluster.awaitRestarted(1001)
            }
        }

        @Test func leadershipGoesToTheVoterThatIsNamed() async throws {
            try await Cluster.with(controllers: 3) { cluster in
                let before = try await cluster.quorum()
                let target = try #require(
                    before.voters.map(\.id).first { $0 != before.leaderId })
                let answer = try await cluster.millrace("quorum", "transfer", "--to", "\(target)")
                #expect(answer.contains("Controller \(target) leads now"))
                let after = try await cluster.quorum()
                #expect(after.leaderId == target && after.leaderEpoch > before.leaderEpoch)
                #expect(
                    try await cluster.failure("quorum", "transfer", "--to", "77")
                        .contains("VOTER_NOT_FOUND"))

                try await cluster.millrace("quorum", "transfer")
                #expect(try await cluster.quorum().leaderId != target)
            }
        }

        @Test func watchingWithoutATerminalPrintsOneView() async throws {
            try await Cluster.with(controllers: 3) { cluster in
                for arguments in [["quorum", "watch"], ["quorum", "watch", "--once"]] {
                    let result = try await RunningProcess.run(
                        Cluster.binary, arguments + ["--bootstrap", cluster.bootstrap],
                        in: cluster.directory)
                    #expect(result.exitCode == 0, "\(result.errors)")
                    let lines = result.output.split(separator: "\n")
                    #expect(lines.contains { $0.hasPrefix("Leader  ") }, "\(result.output)")
                    #expect(lines.filter { $0.contains(" voter ") }.count == 2)
                    #expect(lines.filter { $0.contains(" leader ") }.count == 1)
                    #expect(lines.filter { $0.contains(" observer ") }.count == 1)
                    #expect(!result.output.contains("\u{1b}"))
                }
            }
        }
    }
}
