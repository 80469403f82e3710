package import Essentials
internal import Foundation
internal import NIOCore
package import Protocol
internal import Raft
internal import Records
internal import Storage

/// What a node tells of itself and, as leader, of the others.
extension QuorumNode {
    /// The quorum as its leader sees it; on another node only who that leader is.
    package func describe() -> WireDescribeQuorumResponse {
        var response = WireDescribeQuorumResponse()
        response.clusterID = options.clusterID
        guard let raft else { return response }
        response.leaderEpoch = raft.election.epoch.rawValue
        if let leader = raft.leader { response.leaderID = leader.rawValue }
        guard case .leader(let leading) = raft.role else { return response }
        response.logStartOffset = raft.log.startOffset.rawValue
        response.logEndOffset = raft.log.endOffset.rawValue
        if let snapshot = snapshots.newest {
            response.snapshot.endOffset = snapshot.endOffset.rawValue
            response.snapshot.epoch = snapshot.epoch.rawValue
            if let bytes = newestSnapshotBytes() { response.snapshot.sizeBytes = Int64(bytes) }
        }
        response.highWatermark = (leading.highWatermark ?? raft.highWatermark ?? 0).rawValue
        let now = MonotonicTime.now
        let wallClock = Int64(Date().timeIntervalSince1970 * 1000)
        let end = raft.log.endOffset
        func describe(
            _ id: NodeID, directory: DirectoryID?, held: Offset?, lastFetch: MonotonicTime?,
            lastCaughtUp: MonotonicTime?
        ) -> WireQuorumReplica {
            var replica = WireQuorumReplica()
            replica.id = id.rawValue
            replica.directoryID = directory?.description ?? ""
            if let held {
                replica.logEndOffset = held.rawValue
                replica.lag = max(0, end - held)
            }
            if let time = lastFetch {
                replica.lastFetchTimestamp = wallClock - (now - time).milliseconds
            }
            if let time = lastCaughtUp {
                replica.lastCaughtUpTimestamp = wallClock - (now - time).milliseconds
            }
            if let voter = raft.voterSet?[id] {
                replica.host = voter.host
                replica.port = Int32(clamping: voter.port)
                if directory == nil { replica.directoryID = voter.directory?.description ?? "" }
            }
            return replica
        }
        func describe(_ id: NodeID, _ progress: ReplicaProgress) -> WireQuorumReplica {
            describe(
                id, directory: progress.directory, held: progress.endOffset,
                lastFetch: progress.lastFetch, lastCaughtUp: progress.lastCaughtUp)
        }
        response.voters = leading.voters.map { describe($0, $1) }
        if raft.isVoter {
            response.voters.append(
                describe(
                    options.local, directory: options.directory, held: raft.log.durableEnd,
                    lastFetch: now, lastCaughtUp: now))
        }
        response.voters.sort { $0.id < $1.id }
        response.observers = leading.observers.sorted { $0.key < $1.key }
            .map { describe($0.key.id, $0.value) }
        return response
    }

    private func newestSnapshotBytes() -> Int? {
        if let known = snapshots.newestBytes { return known }
        guard let id = snapshots.newest else { return nil }
        let size = try? fileSystem.size(of: "\(metadataFolder)/\(SnapshotFile.name(of: id))")
        snapshots.newestBytes = size ?? nil
        return snapshots.newestBytes
    }

    /// Committed records of the log, from `offset` or the log's start on; about `maxRecords`, or
    /// fewer where they are large.
    ///
    /// - Throws: `QuorumError.refused` when the offset is not, or no longer, in the log.
    package func readLog(
        from offset: Offset?, maxRecords: Int
    ) throws(QuorumError) -> QuorumLogPage {
        eventLoop.preconditionInEventLoop()
        guard phase == .running, let raft, let log else { throw .stopped }
        let end = max(raft.log.startOffset, highWatermark)
        var page = QuorumLogPage(
            entries: [], nextOffset: offset ?? raft.log.startOffset, highWatermark: end,
            logStartOffset: raft.log.startOffset)
        guard page.nextOffset >= page.logStartOffset, page.nextOffset <= end else {
            throw .refused(
                .offsetOutOfRange,
                "offset \(page.nextOffset) is out of range: the log holds committed records from "
                    + "\(page.logStartOffset) to \(end)")
        }
        let first = page.nextOffset
        while page.nextOffset < end, page.entries.count < maxRecords {
            let bytes: ByteBuffer
            do throws(LogError) {
                bytes = try log.read(from: page.nextOffset, below: end, maxBytes: Self.pageBytes)
            } catch {
                throw .storage(error)
            }
            do throws(QuorumRecordError) {
                for batch in try QuorumBatches.wholeBatches(in: bytes) {
                    // Whole batches, so that the next page begins between two.
                    page.entries += try MetadataLogEntry.all(in: batch.bytes, of: batch.header)
                        .filter { $0.offset >= first }
                    page.nextOffset = batch.header.nextOffset
                    if page.entries.count >= maxRecords { break }
                }
            } catch {
                throw damagedLog
            }
            if bytes.readableBytes == 0 || page.byteCount >= Self.pageBytes { break }
        }
        return page
    }

    /// About so many bytes are read at a time.
    private static let pageBytes = 1 << 20
}

/// Some committed records of the metadata log.
package struct QuorumLogPage: Sendable {
    package var entries: [MetadataLogEntry]
    /// Where to go on; equal to `highWatermark` at the end.
    package var nextOffset: Offset
    package var highWatermark: Offset
    package var logStartOffset: Offset

    var byteCount: Int {
        entries.reduce(0) { sum, entry in
            switch entry.content {
            case .record(let bytes): sum + bytes.count
            case .control(_, let json): sum + json.utf8.count
            }
        }
    }
}
