import Configuration
import Essentials
import Foundation
import Logging
import NIOCore
import NIOPosix
import Protocol
import Quorum
import RPC
import Storage
import Synchronization
import Testing

/// Real nodes, sockets and files: what the simulator can't show.
@Suite(.serialized) struct QuorumNodeTests {
    private func has(_ records: [String], _ members: [Member]) async throws {
        try await eventually("\(records.suffix(3)) everywhere") {
            members.allSatisfy { $0.witness.account.records == records } ? true : nil
        }
        for member in members { #expect(member.witness.account.isInOrder) }
    }

    private func withCluster(
        _ voterCount: Int = 3, _ body: (QuorumCluster) async throws -> Void
    ) async throws {
        let cluster = try await QuorumCluster(voterCount: voterCount)
        do {
            try await body(cluster)
        } catch {
            await cluster.remove()
            throw error
        }
        await cluster.remove()
    }

    @Test func committedRecordsReachEveryVoterAndObserver() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3, 101] as [NodeID] { members.append(try await cluster.start(id)) }
            let leader = try await cluster.leader(of: members)
            var records: [String] = []
            for batch in 0..<20 {
                let new = (0...batch % 3).map { "batch \(batch), record \($0)" }
                _ = try await leader.propose(new)
                records += new
            }
            try await has(records, members)
            let described = try await leader.node.onLoop { $0.describe() }
            #expect(described.voters.map(\.id) == [1, 2, 3])
            #expect(described.observers.map(\.id) == [101])
            #expect(described.leaderID == leader.id.rawValue)
            #expect(described.highWatermark == described.voters.map(\.logEndOffset).max())
            for member in members { await member.stop() }
        }
    }

    @Test func anotherLeaderTakesOverAndTheOldOneComesBack() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3, 101] as [NodeID] { members.append(try await cluster.start(id)) }
            let first = try await cluster.leader(of: members)
            let firstEpoch = try #require(first.witness.account.leading)
            _ = try await first.propose(["before"])
            try await has(["before"], members)

            await first.stop()
            members.removeAll { $0.id == first.id }
            let second = try await cluster.leader(of: members)
            let secondEpoch = try #require(second.witness.account.leading)
            #expect(secondEpoch > firstEpoch)
            _ = try await second.propose(["after"])
            try await has(["before", "after"], members)

            members.append(try await cluster.start(first.id))
            try await has(["before", "after"], members)
            #expect(second.witness.account.leading == secondEpoch)
            for member in members { await member.stop() }
        }
    }

    @Test func leaderThatNobodyReachesIsReplacedAndFollows() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3, 101] as [NodeID] { members.append(try await cluster.start(id)) }
            let first = try await cluster.leader(of: members)
            _ = try await first.propose(["before"])
            try await has(["before"], members)
            // It still reaches the others, but they lose it.
            await first.server?.stop(grace: .zero)
            let others = members.filter { $0.id != first.id }
            let second = try await cluster.leader(of: others)
            _ = try? await first.propose(["void"])
            _ = try await second.propose(["after"])
            try await has(["before", "after"], members)
            #expect(first.witness.account.leading == nil)
            for member in members { await member.stop() }
        }
    }

    @Test func restartFromDiskDeliversEverythingAgain() async throws {
        try await withCluster { cluster in
            var records: [String] = []
            var epochs: [LeaderEpoch] = []
            for round in 0..<3 {
                var members: [Member] = []
                for id in [1, 2, 3, 101] as [NodeID] { members.append(try await cluster.start(id)) }
                let leader = try await cluster.leader(of: members)
                epochs.append(try #require(leader.witness.account.leading))
                try await has(records, members)
                _ = try await leader.propose(["round \(round)"])
                records.append("round \(round)")
                try await has(records, members)
                for member in members { await member.stop() }
            }
            #expect(epochs == epochs.sorted() && Set(epochs).count == epochs.count)
        }
    }

    @Test func oneVoterCommitsAlone() async throws {
        try await withCluster(1) { cluster in
            for round in 0..<3 {
                let member = try await cluster.start(1)
                _ = try await cluster.leader(of: [member])
                _ = try await member.propose(["\(round)"])
                try await has((0...round).map { "\($0)" }, [member])
                await member.stop()
            }
        }
    }

    @Test func proposalsAreRefusedWhereNobodyLeads() async throws {
        try await withCluster { cluster in
            let member = try await cluster.start(1)
            await #expect(throws: QuorumError.self) { try await member.propose(["x"]) }
            await member.stop()
            await #expect(throws: QuorumError.self) { try await member.propose(["x"]) }
        }
    }

    @Test func oversizedProposalIsRefused() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            _ = try await cluster.leader(of: [member])
            let large = String(repeating: "x", count: 5 << 20)
            await #expect(throws: QuorumError.self) { try await member.propose([large]) }
            _ = try await member.propose(["small"])
            try await has(["small"], [member])
            await member.stop()
        }
    }

    // MARK: The disk

    @Test func damagedStateFileStopsTheStartAndIsKept() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            _ = try await cluster.leader(of: [member])
            await member.stop()
            let file = "\(cluster.path(1))/quorum-state"
            let good = try Data(contentsOf: URL(filePath: file))
            let damaged = [
                Data(), good.prefix(good.count / 2), Data("garbage".utf8),
                Data(repeating: 0, count: good.count), Data(repeating: 32, count: 1 << 17),
            ]
            for bytes in damaged {
                try bytes.write(to: URL(filePath: file))
                await #expect(throws: QuorumError.self) { _ = try await cluster.start(1) }
                #expect(try Data(contentsOf: URL(filePath: file)) == bytes)
            }
            // What a crash in the middle of a write leaves beside the file is of no account.
            try good.write(to: URL(filePath: file))
            try Data("{\"leaderEpoch\":".utf8).write(to: URL(filePath: file + ".tmp"))
            let again = try await cluster.start(1)
            _ = try await cluster.leader(of: [again])
            await again.stop()
        }
    }

    @Test func missingStateFileBesideALogIsRefused() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            _ = try await cluster.leader(of: [member])
            await member.stop()
            let file = "\(cluster.path(1))/quorum-state"
            let good = try Data(contentsOf: URL(filePath: file))
            try FileManager.default.removeItem(atPath: file)
            await #expect(throws: QuorumError.self) { _ = try await cluster.start(1) }
            #expect(!FileManager.default.fileExists(atPath: file))
            try good.write(to: URL(filePath: file))
            let again = try await cluster.start(1)
            _ = try await cluster.leader(of: [again])
            await again.stop()
        }
    }

    @Test func stateFileIsThereBeforeThereAreRecords() async throws {
        try await withCluster { cluster in
            let member = try await cluster.start(1)
            #expect(FileManager.default.fileExists(atPath: "\(cluster.path(1))/quorum-state"))
            await member.stop()
        }
    }

    @Test func anotherClustersStateFileIsRefused() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            _ = try await cluster.leader(of: [member])
            await member.stop()
            await #expect(throws: QuorumError.self) {
                _ = try await cluster.start(1, clusterID: "another-cluster-00000")
            }
        }
    }

    @Test func fullDiskOfTheLeaderHandsOverAndHealsWhenThereIsSpace() async throws {
        try await withCluster { cluster in
            let disks = (0..<3).map { _ in FaultyFileSystem() }
            var members: [Member] = []
            for (index, id) in ([1, 2, 3] as [NodeID]).enumerated() {
                members.append(try await cluster.start(id, fileSystem: disks[index]))
            }
            let first = try await cluster.leader(of: members)
            _ = try await first.propose(["before"])
            try await has(["before"], members)

            let disk = disks[Int(first.id.rawValue) - 1]
            disk.fault = .full
            _ = try? await first.propose(["lost"])
            let others = members.filter { $0.id != first.id }
            let second = try await cluster.leader(of: others)
            #expect(first.witness.account.leading == nil)
            _ = try await second.propose(["meanwhile"])
            try await has(["before", "meanwhile"], others)

            disk.fault = nil
            try await has(["before", "meanwhile"], members)
            #expect(first.failure.error.withLock { $0 } == nil)
            for member in members { await member.stop() }
        }
    }

    @Test func failedSyncTakesTheNodeOutForGood() async throws {
        try await withCluster { cluster in
            let disks = (0..<3).map { _ in FaultyFileSystem() }
            var members: [Member] = []
            for (index, id) in ([1, 2, 3] as [NodeID]).enumerated() {
                members.append(try await cluster.start(id, fileSystem: disks[index]))
            }
            let first = try await cluster.leader(of: members)
            disks[Int(first.id.rawValue) - 1].fault = .syncFails
            _ = try? await first.propose(["never durable here"])
            _ = try await eventually("the failure") { first.failure.error.withLock { $0 } }
            await #expect(throws: QuorumError.self) { try await first.propose(["x"]) }
            let others = members.filter { $0.id != first.id }
            let second = try await cluster.leader(of: others)
            _ = try await second.propose(["after"])
            try await eventually("the others go on") {
                others.allSatisfy { $0.witness.account.records.last == "after" } ? true : nil
            }
            for member in members { await member.stop() }
        }
    }

    @Test func failedSyncWhileComingBackIsNotTriedAgain() async throws {
        try await withCluster { cluster in
            let disks = (0..<3).map { _ in FaultyFileSystem() }
            var members: [Member] = []
            for (index, id) in ([1, 2, 3] as [NodeID]).enumerated() {
                members.append(try await cluster.start(id, fileSystem: disks[index]))
            }
            let first = try await cluster.leader(of: members)
            let disk = disks[Int(first.id.rawValue) - 1]
            disk.fault = .full
            _ = try? await first.propose(["lost"])
            _ = try await eventually("it leaves") {
                first.witness.account.leading == nil ? true : nil
            }
            disk.fault = .syncFails
            _ = try await eventually("the failure") { first.failure.error.withLock { $0 } }
            disk.fault = nil
            await #expect(throws: QuorumError.self) { try await first.propose(["x"]) }
            for member in members { await member.stop() }
        }
    }

    @Test func committedBatchThatCannotBeReadTakesTheNodeOutForGood() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let leader = try await cluster.leader(of: members)
            _ = try await leader.propose(["kept"])
            try await has(["kept"], members)
            for member in members { await member.stop() }

            let disk = FaultyFileSystem()
            members = [try await cluster.start(1, fileSystem: disk)]
            // Only once there are others does it know what is committed, and reads it.
            disk.fault = .rots
            for id in [2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let error = try await eventually("the failure") {
                members[0].failure.error.withLock { $0 }
            }
            guard case .damagedLog? = error as? QuorumError else {
                Issue.record("\(error)")
                return
            }
            #expect(members[0].witness.account.records == [])
            disk.fault = nil
            try await has(["kept"], Array(members.dropFirst()))
            for member in members { await member.stop() }
        }
    }

    @Test func observerWithAFullDiskStillNamesTheLeaderAndCatchesUp() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let disk = FaultyFileSystem()
            let observer = try await cluster.start(101, fileSystem: disk)
            members.append(observer)
            let leader = try await cluster.leader(of: members)
            disk.fault = .full
            _ = try await leader.propose(["meanwhile"])
            try await eventually("the disk is full") { disk.failureCount > 0 ? true : nil }
            #expect(try await observer.node.onLoop { $0.leader } != nil)
            disk.fault = nil
            try await has(["meanwhile"], members)
            #expect(observer.failure.error.withLock { $0 } == nil)
            for member in members { await member.stop() }
        }
    }

    @Test func listenerOfAStoppedNodeSeesTheLogWhereItEnded() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            _ = try await cluster.leader(of: [member])
            _ = try await member.propose(["x"])
            try await has(["x"], [member])
            let end = try await member.node.onLoop { $0.logEndOffset }
            await member.stop()
            #expect(try await member.node.onLoop { $0.logEndOffset } == end)
            #expect(member.witness.account.leading == nil)
        }
    }

    // MARK: Bad input

    @Test func otherClustersAndGarbageAreRefused() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            _ = try await cluster.leader(of: [member])
            let epoch = try await member.node.onLoop { $0.epoch }
            let client = RPCClient(
                host: cluster.endpoint(1).host, port: cluster.endpoint(1).port,
                eventLoop: cluster.group.next(), logger: Logger(label: "client"))
            var vote = WireVoteRequest()
            vote.clusterID = "another-cluster"
            vote.candidateEpoch = 1_000
            vote.candidateID = 9
            vote.voterID = 1
            await #expect(throws: RPCError.self) {
                let _: WireVoteResponse = try await client.call(
                    "/millrace.internal.v1.Raft/Vote", vote, timeout: .seconds(5))
            }
            vote.clusterID = cluster.clusterID
            vote.candidateEpoch = .max
            await #expect(throws: RPCError.self) {
                let _: WireVoteResponse = try await client.call(
                    "/millrace.internal.v1.Raft/Vote", vote, timeout: .seconds(5))
            }
            var fetch = WireFetchLogRequest()
            fetch.clusterID = cluster.clusterID
            fetch.replicaID = -7
            fetch.fetchOffset = .min
            fetch.lastFetchedEpoch = .min
            fetch.maxBytes = .min
            fetch.maxWaitMs = .min
            await #expect(throws: RPCError.self) {
                let _: WireFetchLogResponse = try await client.call(
                    "/millrace.internal.v1.Raft/Fetch", fetch, timeout: .seconds(5))
            }
            for path in [
                "Vote", "BeginQuorumEpoch", "EndQuorumEpoch", "Fetch", "FetchSnapshot",
                "UpdateVoter",
            ] {
                let garbage = ByteBuffer(bytes: [0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x01])
                let result = await withCheckedContinuation { continuation in
                    client.unary(
                        "/millrace.internal.v1.Raft/\(path)", [garbage], timeout: .seconds(5)
                    ) { continuation.resume(returning: $0) }
                }
                #expect(throws: RPCError.self) { try result.get() }
            }
            client.close()
            #expect(try await member.node.onLoop { $0.epoch } == epoch)
            _ = try await member.propose(["fine"])
            try await has(["fine"], [member])
            await member.stop()
        }
    }
}
