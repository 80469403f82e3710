import Essentials
import NIOCore
import Quorum
import Records
import Storage
import Synchronization
import Testing

/// What was noted as committed before a restart binds a node that has not heard of it since.
@Suite(.serialized) struct CommittedTruncationTests {
    /// One node has a record that the others have not, as if they had lost it.
    @Test(arguments: [true, false])
    func aNodeDoesNotGiveUpWhatItKnowsToBeCommitted(isNoted: Bool) async throws {
        let cluster = try await QuorumCluster(voterCount: 3)
        do {
            try await truncate(cluster, isNoted: isNoted)
        } catch {
            await cluster.remove()
            throw error
        }
        await cluster.remove()
    }

    @Test func aStopInOrderNotesWhatIsCommitted() async throws {
        let cluster = try await QuorumCluster(voterCount: 1)
        let member = try await cluster.start(1)
        _ = try await cluster.leader(of: [member]).propose(["one", "two"])
        try await has(["one", "two"], [member])
        await member.stop()
        let directory = try LogDirectory.open(cluster.path(1))
        let noted = directory.checkpoint(of: LogDirectory.metadataFolder)
        #expect(noted.highWatermark == member.witness.account.nextOffset)
        #expect(noted.recoveryPoint == noted.highWatermark)
        try directory.close(clean: true)
        await cluster.remove()
    }

    private func truncate(_ cluster: QuorumCluster, isNoted: Bool) async throws {
        var members = try await start([1, 2, 3], in: cluster)
        _ = try await cluster.leader(of: members).propose(["common"])
        try await has(["common"], members)
        for member in members { await member.stop() }
        let end = try appendAlone(at: cluster.path(3), isNoted: isNoted)
        members = try await start([1, 2], in: cluster)
        _ = try await cluster.leader(of: members).propose(["new"])
        let third = try await cluster.start(3)
        if isNoted {
            let error = try await eventually("it gives up") {
                third.failure.error.withLock { $0 }
            }
            guard case .diverged(let reason)? = error as? QuorumError else {
                Issue.record("\(error)")
                return
            }
            #expect(reason.contains("\(end)"), "\(reason)")
        } else {
            try await has(["common", "new"], members + [third])
        }
        for member in members + [third] { await member.stop() }
    }

    private func start(_ ids: [NodeID], in cluster: QuorumCluster) async throws -> [Member] {
        var members: [Member] = []
        for id in ids { members.append(try await cluster.start(id)) }
        return members
    }

    private func has(_ records: [String], _ members: [Member]) async throws {
        try await eventually("\(records) everywhere") {
            members.allSatisfy { $0.witness.account.records == records } ? true : nil
        }
    }

    /// Adds a record in the log's last epoch, noted as committed or not; returns the log's end.
    private func appendAlone(at path: String, isNoted: Bool) throws -> Offset {
        let directory = try LogDirectory.open(path)
        let (log, _) = try directory.openLog(LogDirectory.metadataFolder)
        var builder = RecordBatchBuilder()
        builder.append(key: nil, value: ByteBuffer(string: "known to one"), timestamp: 0)
        let batch = builder.finish()
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1_000)
        try log.appendAsLeader(batch, headers: headers, leaderEpoch: log.latestEpoch)
        try log.flush()
        if isNoted {
            let checkpoint = try #require(log.checkpoint(highWatermark: log.logEndOffset))
            try directory.checkpoint([LogDirectory.metadataFolder: checkpoint])
        }
        try directory.closeLog(log)
        try directory.close(clean: true)
        return log.logEndOffset
    }
}
