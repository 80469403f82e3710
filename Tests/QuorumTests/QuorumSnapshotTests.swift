import Configuration
import Essentials
import Foundation
import NIOCore
import NIOPosix
import Protocol
import Quorum
import RPC
import Raft
import Storage
import Synchronization
import Testing

/// Snapshots in a running quorum: taken, fetched, resumed, refused.
@Suite(.serialized) struct QuorumSnapshotTests {
    /// Small enough for a snapshot every few batches, and segments that go with it.
    static let often: @Sendable (inout QuorumOptions) -> Void = { options in
        options.snapshotBytes = 64 << 10
        options.snapshotInterval = .zero
    }

    /// Appends until `count` snapshots were taken by every one of these, and the log was cut.
    func fill(
        _ cluster: QuorumCluster, _ leader: Member, until members: [Member],
        records: inout [String], bytes: Int = 4_000
    ) async throws {
        let filler = String(repeating: "x", count: bytes)
        try await eventually("the log's start moves") {
            let new = "\(records.count) \(filler)"
            _ = try await leader.propose([new])
            records.append(new)
            return try members.allSatisfy {
                try segments(cluster, $0.id).min() ?? 0 > 0 && snapshots(cluster, $0.id).count == 2
            } ? true : nil
        }
    }

    func files(_ cluster: QuorumCluster, _ id: NodeID) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: cluster.logPath(id)).sorted()
    }

    func snapshots(_ cluster: QuorumCluster, _ id: NodeID) throws -> [SnapshotID] {
        try files(cluster, id).compactMap { SnapshotFile.id(named: $0) }.filter { $0.endOffset > 0 }
    }

    func segments(_ cluster: QuorumCluster, _ id: NodeID) throws -> [Int64] {
        try files(cluster, id).filter { $0.hasSuffix(".log") }.compactMap { Int64($0.dropLast(4)) }
    }

    func has(_ records: [String], _ members: [Member]) async throws {
        try await eventually("\(records.count) records everywhere") {
            members.allSatisfy { $0.witness.account.records == records } ? true : nil
        }
        for member in members { #expect(member.witness.account.isInOrder) }
    }

    func withCluster(
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

    func startAll(
        _ cluster: QuorumCluster, _ ids: [NodeID]
    ) async throws -> [Member] {
        var members: [Member] = []
        for id in ids { members.append(try await cluster.start(id, change: Self.often)) }
        return members
    }

    @Test func logIsCutAfterSnapshotsAndARestartNeedsOnlyWhatIsLeft() async throws {
        try await withCluster { cluster in
            var members = try await startAll(cluster, [1, 2, 3, 101])
            var records: [String] = []
            try await fill(
                cluster, try await cluster.leader(of: members), until: members, records: &records)
            try await has(records, members)
            let described = try await cluster.leader(of: members).node.onLoop { $0.describe() }
            #expect(described.logStartOffset > 0)
            #expect(described.snapshot.endOffset > described.logStartOffset)
            #expect(described.snapshot.sizeBytes > 0)
            for member in members { await member.stop() }

            members = try await startAll(cluster, [1, 2, 3, 101])
            try await has(records, members)
            for member in members { #expect(member.witness.account.snapshotsLoaded.count == 1) }
            let leader = try await cluster.leader(of: members)
            _ = try await leader.propose(["after"])
            try await has(records + ["after"], members)
            for member in members { await member.stop() }
        }
    }

    @Test func sameSnapshotHasTheSameBytesOnEveryNode() async throws {
        try await withCluster { cluster in
            let members = try await startAll(cluster, [1, 2, 3])
            var records: [String] = []
            try await fill(
                cluster, try await cluster.leader(of: members), until: members, records: &records)
            try await has(records, members)
            for member in members { await member.stop() }
            var seen: [String: Data] = [:]
            for id in [1, 2, 3] as [NodeID] {
                for snapshot in try snapshots(cluster, id) {
                    let name = SnapshotFile.name(of: snapshot)
                    let data = try Data(
                        contentsOf: URL(filePath: "\(cluster.logPath(id))/\(name)"))
                    #expect(seen[name] ?? data == data)
                    seen[name] = data
                }
            }
        }
    }

    @Test func nodeFarBehindAndEmptyDiskCatchUpBySnapshot() async throws {
        try await withCluster { cluster in
            var members = try await startAll(cluster, [1, 2, 3])
            let late = members.removeLast()
            _ = try await cluster.leader(of: members + [late])
            await late.stop()
            var records: [String] = []
            try await fill(
                cluster, try await cluster.leader(of: members), until: members, records: &records)
            // Far behind, a new controller, a new broker.
            let comers = try await startAll(cluster, [3, 4, 101])
            try await has(records, members + comers)
            for member in comers { #expect(member.witness.account.snapshotsLoaded.count == 1) }
            let leader = try await cluster.leader(of: members + comers)
            _ = try await leader.propose(["after"])
            records.append("after")
            try await has(records, members + comers)
            for member in members + comers { await member.stop() }
            // What was fetched is enough to start from.
            let again = try await startAll(cluster, [1, 3, 4, 101])
            try await has(records, again)
            for member in again { await member.stop() }
        }
    }

    /// Waits until a part of a snapshot is there.
    func partBytes(_ cluster: QuorumCluster, _ id: NodeID, over least: Int) async throws {
        try await eventually("a partial snapshot") { () -> Bool? in
            let parts = try files(cluster, id).filter { $0.hasSuffix(".part") }
            guard let part = parts.first,
                let size = try? FileManager.default.attributesOfItem(
                    atPath: "\(cluster.logPath(id))/\(part)")[.size] as? Int
            else { return nil }
            return size > least ? true : nil
        }
    }

    @Test func brokenDownloadIsResumed() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1) { options in
                Self.often(&options)
                options.snapshotChunkBytes = 512
            }
            let leader = try await cluster.leader(of: [member])
            var records: [String] = []
            try await fill(cluster, leader, until: [member], records: &records)
            try FileManager.default.createDirectory(
                atPath: cluster.logPath(4), withIntermediateDirectories: true)
            let disk = FaultyFileSystem()
            let late = try await cluster.start(4, fileSystem: disk, change: Self.often)
            try await partBytes(cluster, 4, over: 4_000)
            await member.server?.stop(grace: .zero)
            // What is here stays here while nobody answers.
            try await partBytes(cluster, 4, over: 4_000)
            #expect(late.witness.account.records == [])
            let server = try await cluster.serve(member.node, 1)
            try await has(records, [late])
            #expect(disk.created.filter { $0.hasSuffix(".checkpoint.part") }.count == 1)
            #expect(late.witness.account.snapshotsLoaded.count == 1)
            await late.stop()
            await member.node.stop()
            await server.stop(grace: .zero)
        }
    }

    @Test func leaderThatDiesMidTransferIsReplacedByTheNext() async throws {
        try await withCluster { cluster in
            func small(_ options: inout QuorumOptions) {
                Self.often(&options)
                options.snapshotChunkBytes = 512
            }
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] {
                members.append(try await cluster.start(id, change: small))
            }
            let behind = members.removeLast()
            _ = try await cluster.leader(of: members + [behind])
            await behind.stop()
            let leader = try await cluster.leader(of: members)
            var records: [String] = []
            try await fill(cluster, leader, until: members, records: &records)
            let late = try await cluster.start(3, change: small)
            try await partBytes(cluster, 3, over: 4_000)
            await leader.stop()
            let rest = members.filter { $0.id != leader.id } + [late]
            let next = try await cluster.leader(of: rest)
            _ = try await next.propose(["after"])
            try await has(records + ["after"], rest)
            #expect(late.witness.account.snapshotsLoaded.count == 1)
            for member in rest { await member.stop() }
        }
    }

    /// What was to be handed out after the first snapshot is not there any more when that is loaded.
    @Test func aLogReplacedWhileASnapshotLoadsIsHandedOutFromTheNewOne() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1, change: Self.often)
            let leader = try await cluster.leader(of: [member])
            var records: [String] = []
            try await fill(cluster, leader, until: [member], records: &records)
            var late = try await cluster.start(4, change: Self.often)
            try await has(records, [late])
            await late.stop()
            let last = try #require(try snapshots(cluster, 4).max())
            // More than the snapshot holds, and read before the next one comes.
            _ = try await leader.propose(["between"])
            records.append("between")
            let witness = Witness()
            let gate = DispatchSemaphore(value: 0)
            witness.loadGate = gate
            defer { for _ in 1...10 { gate.signal() } }
            late = try await cluster.start(4, witness: witness, change: Self.often)
            let known = try await eventually("it hears of more") {
                let end = try await late.node.onLoop { $0.highWatermark }
                return end > last.endOffset ? end : nil
            }
            await member.server?.stop(grace: .zero)
            try await eventually("the log's start passes what it has") {
                try await fill(cluster, leader, until: [member], records: &records)
                return try segments(cluster, 1).min() ?? 0 > known.rawValue + 100 ? true : nil
            }
            let server = try await cluster.serve(member.node, 1)
            try await eventually("the log is replaced") {
                try snapshots(cluster, 4).contains { $0.endOffset > known } ? true : nil
            }
            try await eventually("the log is replaced") {
                try segments(cluster, 4).min() ?? 0 > known.rawValue ? true : nil
            }
            for _ in 1...10 { gate.signal() }
            try await has(records, [late])
            #expect(late.failure.error.withLock { $0 } == nil)
            await late.stop()
            await member.node.stop()
            await server.stop(grace: .zero)
        }
    }

    @Test(arguments: ["log-start-offset-checkpoint", "recovery-point-offset-checkpoint"])
    func aSlowDiskHoldsUpNobodyWhileTheLogIsCut(file: String) async throws {
        try await withCluster(1) { cluster in
            let disk = FaultyFileSystem()
            disk.onlyPathsContaining = file
            let gate = DispatchSemaphore(value: 0)
            let member = try await cluster.start(1, fileSystem: disk, change: Self.often)
            let leader = try await cluster.leader(of: [member])
            disk.syncGate = gate
            let filler = String(repeating: "x", count: 4_000)
            var records: [String] = []
            try await eventually("the log's start is noted") {
                records.append("\(records.count) \(filler)")
                _ = try await leader.propose([records[records.count - 1]])
                return disk.syncsHeld.all > 0 ? true : nil
            }
            // That is still under way.
            _ = try await leader.propose(["meanwhile"])
            records.append("meanwhile")
            try await has(records, [member])
            #expect(disk.syncsHeld.tooLong == 0)
            if file.hasPrefix("log-start") { #expect(try segments(cluster, 1).min() == 0) }
            disk.syncGate = nil
            for _ in 1...100 { gate.signal() }
            try await fill(cluster, leader, until: [member], records: &records)
            await member.stop()
            let again = try await cluster.start(1, change: Self.often)
            try await has(records, [again])
            await again.stop()
        }
    }

    @Test func fullDiskDuringASnapshotLeavesTheLogAlone() async throws {
        try await withCluster(1) { cluster in
            let disk = FaultyFileSystem()
            disk.onlyPathsContaining = ".checkpoint.part"
            disk.fault = .full
            let member = try await cluster.start(1, fileSystem: disk, change: Self.often)
            let leader = try await cluster.leader(of: [member])
            var records: [String] = []
            for index in 0..<60 {
                records.append("\(index) " + String(repeating: "y", count: 4_000))
                _ = try await leader.propose([records[index]])
            }
            try await has(records, [member])
            try await eventually("a snapshot failed") { disk.failureCount > 0 ? true : nil }
            #expect(try snapshots(cluster, 1) == [])
            #expect(member.failure.error.withLock { $0 } == nil)
            #expect(member.witness.account.epochsLed.count == 1)
            disk.fault = nil
            // It is tried again by itself.
            try await eventually("a snapshot") {
                try snapshots(cluster, 1).isEmpty ? nil : true
            }
            #expect(try files(cluster, 1).allSatisfy { !$0.hasSuffix(".part") })
            await member.stop()
        }
    }

    @Test func fullDiskWhileTheLogsStartIsNotedIsNotForGood() async throws {
        try await withCluster(1) { cluster in
            let disk = FaultyFileSystem()
            disk.onlyPathsContaining = "log-start-offset-checkpoint.tmp"
            disk.fault = .fullAtSync
            let member = try await cluster.start(1, fileSystem: disk, change: Self.often)
            let leader = try await cluster.leader(of: [member])
            let filler = String(repeating: "x", count: 4_000)
            try await eventually("it can't be noted") {
                _ = try? await leader.propose([filler])
                return disk.failureCount > 0 ? true : nil
            }
            disk.fault = nil
            try await eventually("it leads again") {
                (try? await leader.propose(["after"])).map { _ in true }
            }
            try await eventually("it goes on") {
                member.witness.account.records.last == "after" ? true : nil
            }
            #expect(member.failure.error.withLock { $0 } == nil)
            // What is certainly lost is another matter.
            disk.onlyPathsContaining = ".log"
            disk.fault = .syncFails
            _ = try? await leader.propose(["lost"])
            try await eventually("it gives up") { member.failure.error.withLock { $0 } }
            #expect(!member.witness.account.epochFell)
            disk.fault = nil
            await member.stop()
        }
    }

    @Test func observerThatLosesItsLogWhileItRunsGoesOn() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1, change: Self.often)
            let leader = try await cluster.leader(of: [member])
            var records: [String] = []
            try await fill(cluster, leader, until: [member], records: &records)
            let disk = FaultyFileSystem()
            let broker = try await cluster.start(101, fileSystem: disk, change: Self.often)
            // Beyond the snapshots of the leader.
            for name in ["a", "b", "c"] {
                _ = try await leader.propose([name])
                records.append(name)
            }
            try await has(records, [broker])
            disk.onlyPathsContaining = ".log"
            disk.fault = .full
            for id in try snapshots(cluster, 101) {
                try FileManager.default.removeItem(
                    atPath: "\(cluster.logPath(101))/\(SnapshotFile.name(of: id))")
            }
            _ = try await leader.propose(["d"])
            records.append("d")
            try await eventually("it can't be written") { disk.failureCount > 0 ? true : nil }
            disk.fault = nil
            try await has(records, [broker])
            _ = try await leader.propose(["after"])
            try await has(records + ["after"], [broker])
            #expect(broker.failure.error.withLock { $0 } == nil)
            await broker.stop()
            await member.stop()
        }
    }
}
