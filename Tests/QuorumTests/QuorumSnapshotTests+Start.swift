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

/// What a node makes of the snapshots and the log that it finds when it starts.
extension QuorumSnapshotTests {
    @Test func controllerWhoseLogIsGoneIsRefused() async throws {
        try await withCluster(1) { cluster in
            _ = try await cutLog(cluster)
            let path = cluster.path(1)
            for name in try FileManager.default.contentsOfDirectory(atPath: path)
            where name != "quorum-state" {
                try FileManager.default.removeItem(atPath: "\(path)/\(name)")
            }
            await #expect(
                throws: QuorumError.missingSnapshot(
                    folder: cluster.logPath(1), logStart: 0)
            ) { _ = try await cluster.start(1) }
            // Nor does that leave anything which the next start takes for a new directory.
            await #expect(throws: QuorumError.self) { _ = try await cluster.start(1) }
        }
    }

    /// A directory with snapshots and a log that was cut, and the records they hold.
    private func cutLog(_ cluster: QuorumCluster) async throws -> [String] {
        let member = try await cluster.start(1, change: Self.often)
        var records: [String] = []
        try await fill(
            cluster, try await cluster.leader(of: [member]), until: [member], records: &records)
        await member.stop()
        return records
    }

    private func isRefused(
        _ cluster: QuorumCluster, _ isExpected: (QuorumError) -> Bool
    ) async throws {
        let before = try files(cluster, 1)
        do {
            let member = try await cluster.start(1, change: Self.often)
            // What is behind a snapshot's first batches shows only when it is loaded.
            let error = try await eventually("the refusal") {
                member.failure.error.withLock { $0 }
            }
            #expect((error as? QuorumError).map(isExpected) == true, "\(error)")
            #expect(member.witness.account.records == [])
            await member.stop()
        } catch let error as QuorumError {
            #expect(isExpected(error), "\(error)")
        }
        #expect(
            try files(cluster, 1).filter { $0.hasSuffix("checkpoint") }
                == before.filter { $0.hasSuffix("checkpoint") })
    }

    @Test func damagedSnapshotIsRefusedAndKept() async throws {
        try await withCluster(1) { cluster in
            _ = try await cutLog(cluster)
            let newest = try #require(try snapshots(cluster, 1).max())
            let path = "\(cluster.logPath(1))/\(SnapshotFile.name(of: newest))"
            let whole = try Data(contentsOf: URL(filePath: path))
            func isDamaged(_ error: QuorumError) -> Bool {
                if case .damagedSnapshot = error { true } else { false }
            }
            for damage in ["header", "middle", "footer", "empty"] {
                var data = whole
                switch damage {
                case "header": data[80] ^= 1
                case "middle": data[whole.count / 2] ^= 1
                case "footer": data.removeLast(10)
                default: data = Data()
                }
                try data.write(to: URL(filePath: path))
                try await isRefused(cluster, isDamaged)
                #expect(try Data(contentsOf: URL(filePath: path)) == data)
            }
            try whole.write(to: URL(filePath: path))
            let member = try await cluster.start(1, change: Self.often)
            _ = try await cluster.leader(of: [member])
            await member.stop()
        }
    }

    @Test func logWithoutTheSnapshotBelowItIsRefused() async throws {
        try await withCluster(1) { cluster in
            _ = try await cutLog(cluster)
            for id in try snapshots(cluster, 1) {
                try FileManager.default.removeItem(
                    atPath: "\(cluster.logPath(1))/\(SnapshotFile.name(of: id))")
            }
            try await isRefused(cluster) { error in
                if case .missingSnapshot = error { true } else { false }
            }
        }
    }

    @Test func snapshotNewerThanTheLogFinishesTheJob() async throws {
        try await withCluster(1) { cluster in
            var member = try await cluster.start(1, change: Self.often)
            _ = try await cluster.leader(of: [member])
            _ = try await member.propose(["old"])
            try await has(["old"], [member])
            await member.stop()
            // Fetched, and then the process ended. Beside it lies one that was not whole.
            let id = SnapshotID(endOffset: 5_000, epoch: 1)
            let voters = VoterSet([
                Voter(
                    id: 1, directory: cluster.directory(of: 1), host: cluster.endpoint(1).host,
                    port: cluster.endpoint(1).port)
            ])
            var writer = try SnapshotWriter(
                id, in: cluster.logPath(1), voters: voters, timestamp: 1)
            try writer.append(Array("new".utf8))
            try writer.finish()
            let part = "\(cluster.logPath(1))/00000000000000009000-0000000001.checkpoint.part"
            try Data([1, 2, 3]).write(to: URL(filePath: part))
            member = try await cluster.start(1, change: Self.often)
            _ = try await cluster.leader(of: [member])
            _ = try await member.propose(["after"])
            try await has(["new", "after"], [member])
            #expect(try segments(cluster, 1) == [5_000])
            #expect(!FileManager.default.fileExists(atPath: part))
            await member.stop()
            member = try await cluster.start(1, change: Self.often)
            try await has(["new", "after"], [member])
            await member.stop()
        }
    }

    @Test func observerReplacesADamagedCopy() async throws {
        try await withCluster { cluster in
            var members = try await startAll(cluster, [1, 2, 3, 101])
            var records: [String] = []
            try await fill(
                cluster, try await cluster.leader(of: members), until: members, records: &records)
            try await has(records, members)
            let broker = members.removeLast()
            await broker.stop()
            let newest = try #require(try snapshots(cluster, 101).max())
            let path = "\(cluster.logPath(101))/\(SnapshotFile.name(of: newest))"
            var data = try Data(contentsOf: URL(filePath: path))
            data[data.count / 2] ^= 1
            try data.write(to: URL(filePath: path))
            members.append(try await cluster.start(101, change: Self.often))
            try await has(records, members)
            for member in members { await member.stop() }
        }
    }
}
