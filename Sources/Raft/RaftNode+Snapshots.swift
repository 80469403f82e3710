import Essentials

/// Snapshots: taken, fetched and served (KIP-630).
extension RaftNode {
    mutating func snapshotTaken(_ id: SnapshotID) {}

    mutating func snapshotInstalled(_ id: SnapshotID, _ voters: VoterSet?, _ now: MonotonicTime) {}

    mutating func snapshotFailed(_ id: SnapshotID, _ now: MonotonicTime) {}

    mutating func handleFetchSnapshot(
        _ request: FetchSnapshotRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        effects.append(.refuse(token))
    }

    mutating func handleFetchSnapshotResponse(
        _ response: FetchSnapshotResponse, to id: RequestID, _ now: MonotonicTime
    ) {}
}
