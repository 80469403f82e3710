internal import Essentials
internal import Foundation
internal import Protocol
internal import Raft

// The state machine's messages and those on the wire: Protocols/millrace/internal/v1/raft.proto.

extension NodeID {
    /// -1 on the wire means none.
    init?(wire value: Int32) {
        guard value >= 0 else { return nil }
        self.init(value)
    }
}

extension ReplicaKey {
    init(id: Int32, directory: Data) {
        self.init(id: NodeID(id), directory: DirectoryID(bytes: directory))
    }

    var wireDirectory: Data { directory.map { Data($0.bytes) } ?? Data() }
}

extension VoteRequest {
    init(_ wire: WireVoteRequest) {
        self.init(
            candidate: ReplicaKey(id: wire.candidateID, directory: wire.candidateDirectoryID),
            epoch: LeaderEpoch(wire.candidateEpoch), lastEpoch: LeaderEpoch(wire.lastEpoch),
            endOffset: Offset(wire.lastEpochEndOffset), isPreVote: wire.preVote,
            voter: ReplicaKey(id: wire.voterID, directory: wire.voterDirectoryID))
    }

    func wire(_ clusterID: String) -> WireVoteRequest {
        var wire = WireVoteRequest()
        wire.clusterID = clusterID
        wire.candidateEpoch = epoch.rawValue
        wire.candidateID = candidate.id.rawValue
        wire.candidateDirectoryID = candidate.wireDirectory
        wire.lastEpoch = lastEpoch.rawValue
        wire.lastEpochEndOffset = endOffset.rawValue
        wire.preVote = isPreVote
        wire.voterID = voter.id.rawValue
        wire.voterDirectoryID = voter.wireDirectory
        return wire
    }
}

extension VoteResponse {
    init(_ wire: WireVoteResponse) {
        self.init(
            epoch: LeaderEpoch(wire.epoch), leader: NodeID(wire: wire.leaderID),
            isGranted: wire.granted)
    }

    var wire: WireVoteResponse {
        var wire = WireVoteResponse()
        wire.epoch = epoch.rawValue
        wire.leaderID = leader?.rawValue ?? -1
        wire.granted = isGranted
        return wire
    }
}

extension BeginQuorumEpochRequest {
    init(_ wire: WireBeginQuorumEpochRequest) {
        self.init(
            leader: NodeID(wire.leaderID), epoch: LeaderEpoch(wire.leaderEpoch),
            voter: ReplicaKey(id: wire.voterID, directory: wire.voterDirectoryID))
    }

    func wire(_ clusterID: String) -> WireBeginQuorumEpochRequest {
        var wire = WireBeginQuorumEpochRequest()
        wire.clusterID = clusterID
        wire.leaderID = leader.rawValue
        wire.leaderEpoch = epoch.rawValue
        wire.voterID = voter.id.rawValue
        wire.voterDirectoryID = voter.wireDirectory
        return wire
    }
}

extension EndQuorumEpochRequest {
    init(_ wire: WireEndQuorumEpochRequest) {
        self.init(
            leader: NodeID(wire.leaderID), epoch: LeaderEpoch(wire.leaderEpoch),
            preferredSuccessors: wire.preferredSuccessors.map { NodeID($0) })
    }

    func wire(_ clusterID: String) -> WireEndQuorumEpochRequest {
        var wire = WireEndQuorumEpochRequest()
        wire.clusterID = clusterID
        wire.leaderID = leader.rawValue
        wire.leaderEpoch = epoch.rawValue
        wire.preferredSuccessors = preferredSuccessors.map(\.rawValue)
        return wire
    }
}

extension FetchRequest {
    init(_ wire: WireFetchLogRequest) {
        self.init(
            replica: ReplicaKey(id: wire.replicaID, directory: wire.replicaDirectoryID),
            epoch: LeaderEpoch(wire.currentLeaderEpoch), fetchOffset: Offset(wire.fetchOffset),
            lastFetchedEpoch: LeaderEpoch(wire.lastFetchedEpoch),
            highWatermark: wire.highWatermark < 0 ? nil : Offset(wire.highWatermark),
            maxWait: .milliseconds(max(0, wire.maxWaitMs)), isDurable: wire.durable)
    }

    func wire(_ clusterID: String, maxBytes: Int) -> WireFetchLogRequest {
        var wire = WireFetchLogRequest()
        wire.clusterID = clusterID
        wire.replicaID = replica.id.rawValue
        wire.replicaDirectoryID = replica.wireDirectory
        wire.currentLeaderEpoch = epoch.rawValue
        wire.fetchOffset = fetchOffset.rawValue
        wire.lastFetchedEpoch = lastFetchedEpoch.rawValue
        wire.maxBytes = Int32(clamping: maxBytes)
        wire.maxWaitMs = Int32(clamping: maxWait.milliseconds)
        wire.highWatermark = highWatermark?.rawValue ?? -1
        wire.durable = isDurable
        return wire
    }
}

extension FetchResponse {
    init(_ wire: WireFetchLogResponse, spans: [BatchSpan]) {
        let outcome: Outcome =
            switch wire.status {
            case .ok where wire.hasSnapshot: .snapshot(SnapshotID(wire.snapshot))
            case .ok:
                wire.hasDiverging
                    ? .diverging(
                        EpochEnd(
                            epoch: LeaderEpoch(wire.diverging.epoch),
                            endOffset: Offset(wire.diverging.endOffset)))
                    : .records(
                        spans,
                        highWatermark: wire.highWatermark < 0 ? nil : Offset(wire.highWatermark),
                        logStartOffset: Offset(wire.logStartOffset))
            case .notLeader: .notLeader
            case .fencedEpoch: .fencedEpoch
            case .unknownEpoch: .unknownEpoch
            case .offsetOutOfRange: .offsetOutOfRange
            case .unavailable, .inconsistentCluster, .UNRECOGNIZED: .unavailable
            }
        self.init(
            epoch: LeaderEpoch(wire.leaderEpoch), leader: NodeID(wire: wire.leaderID),
            outcome: outcome)
    }

    /// Everything but the record batches.
    var wire: WireFetchLogResponse {
        var wire = WireFetchLogResponse()
        wire.leaderEpoch = epoch.rawValue
        wire.leaderID = leader?.rawValue ?? -1
        wire.highWatermark = -1
        switch outcome {
        case .records(_, let highWatermark, let logStartOffset):
            wire.highWatermark = highWatermark?.rawValue ?? -1
            wire.logStartOffset = logStartOffset.rawValue
        case .diverging(let end):
            wire.diverging.epoch = end.epoch.rawValue
            wire.diverging.endOffset = end.endOffset.rawValue
        case .snapshot(let id): wire.snapshot = id.wire
        case .notLeader: wire.status = .notLeader
        case .fencedEpoch: wire.status = .fencedEpoch
        case .unknownEpoch: wire.status = .unknownEpoch
        case .offsetOutOfRange: wire.status = .offsetOutOfRange
        case .unavailable: wire.status = .unavailable
        }
        return wire
    }
}

extension SnapshotID {
    init(_ wire: WireSnapshotID) {
        self.init(endOffset: Offset(wire.endOffset), epoch: LeaderEpoch(wire.epoch))
    }

    var wire: WireSnapshotID {
        var wire = WireSnapshotID()
        wire.endOffset = endOffset.rawValue
        wire.epoch = epoch.rawValue
        return wire
    }
}

extension FetchSnapshotRequest {
    init(_ wire: WireFetchSnapshotRequest) {
        self.init(
            replica: ReplicaKey(id: wire.replicaID, directory: wire.replicaDirectoryID),
            epoch: LeaderEpoch(wire.currentLeaderEpoch), snapshot: SnapshotID(wire.snapshot),
            position: wire.position)
    }

    func wire(_ clusterID: String, maxBytes: Int32) -> WireFetchSnapshotRequest {
        var wire = WireFetchSnapshotRequest()
        wire.clusterID = clusterID
        wire.replicaID = replica.id.rawValue
        wire.replicaDirectoryID = replica.wireDirectory
        wire.currentLeaderEpoch = epoch.rawValue
        wire.snapshot = snapshot.wire
        wire.position = position
        wire.maxBytes = maxBytes
        return wire
    }
}

extension FetchSnapshotResponse {
    init(_ wire: WireFetchSnapshotResponse) {
        let outcome: Outcome =
            switch wire.status {
            case .ok:
                .chunk(
                    position: wire.position, count: Int64(wire.data.count), size: wire.size)
            case .notLeader: .notLeader
            case .fencedEpoch: .fencedEpoch
            case .unknownEpoch: .unknownEpoch
            case .snapshotNotFound: .notFound
            case .positionOutOfRange: .positionOutOfRange
            case .unavailable, .UNRECOGNIZED: .unavailable
            }
        self.init(
            epoch: LeaderEpoch(wire.leaderEpoch), leader: NodeID(wire: wire.leaderID),
            outcome: outcome)
    }

    /// Everything but the bytes.
    var wire: WireFetchSnapshotResponse {
        var wire = WireFetchSnapshotResponse()
        wire.leaderEpoch = epoch.rawValue
        wire.leaderID = leader?.rawValue ?? -1
        switch outcome {
        case .chunk(let position, _, let size):
            wire.position = position
            wire.size = size
        case .notFound: wire.status = .snapshotNotFound
        case .positionOutOfRange: wire.status = .positionOutOfRange
        case .notLeader: wire.status = .notLeader
        case .fencedEpoch: wire.status = .fencedEpoch
        case .unknownEpoch: wire.status = .unknownEpoch
        case .unavailable: wire.status = .unavailable
        }
        return wire
    }
}

extension NodeID {
    /// On the wire, -1 means none.
    static func wire(_ id: NodeID?) -> Int32 { id?.rawValue ?? -1 }
}
