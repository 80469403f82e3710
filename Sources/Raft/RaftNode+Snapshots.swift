import Essentials

/// Snapshots: taken, fetched and served (KIP-630).
extension RaftNode {
    /// Records from here on may not be part of a snapshot yet.
    private var snapshotLimit: Offset {
        breaks(.snapshotAboveHighWatermark) ? log.endOffset : highWatermark ?? 0
    }

    /// What a snapshot that is written now would be of: everything known to be committed.
    ///
    /// `nil` if the newest one is of as much.
    package var nextSnapshot: SnapshotID? {
        let end = snapshotLimit
        guard end > snapshot?.endOffset ?? 0 else { return nil }
        return SnapshotID(endOffset: end, epoch: log.epoch(before: end))
    }

    /// Takes the state of its disk for granted: the replica starts from this snapshot.
    mutating func resume(from id: SnapshotID) {
        invariant(id.endOffset >= log.startOffset, "snapshot \(id) below \(log.startOffset)")
        log.noteEpochBeforeStart(id)
        if !log.holds(id) {
            // It was installed, and the process ended before the log was replaced.
            voters.truncate(to: id.endOffset)
            resetLog(to: id)
        }
        effects.append(.loadSnapshot(id))
        advanceHighWatermark(to: id.endOffset)
    }

    mutating func snapshotTaken(_ id: SnapshotID) {
        // Meanwhile a newer one may have been installed, and the log replaced.
        guard id.endOffset > snapshot?.endOffset ?? 0, id.endOffset <= snapshotLimit,
            log.holds(id)
        else { return }
        olderSnapshot = snapshot
        snapshot = id
        // Up to here there are two; a replica that is a little behind still finds its records.
        guard let older = olderSnapshot, older.endOffset > log.startOffset,
            log.holds(older)
        else { return }
        log.advanceStart(to: older.endOffset)
        voters.trim(before: older.endOffset)
        effects.append(.advanceLogStart(to: older))
    }

    // MARK: - Installing

    /// The leader no longer has the records we need: its snapshot takes their place.
    mutating func beginDownload(
        of id: SnapshotID, _ follower: Follower, _ now: MonotonicTime
    ) {
        // A snapshot of no more than we know to be committed is no use to anyone.
        guard id.endOffset > highWatermark ?? 0, id.endOffset < .max, id.epoch >= 0,
            id.epoch <= election.epoch
        else { return }
        heardFromLeader(follower, now)
        if let download {
            if download.isComplete {
                awaitInstallation(now)
                return
            }
            guard download.snapshot != id else { return }
            discardDownload()
        }
        download = SnapshotDownload(
            snapshot: id, leader: follower.leader, epoch: election.epoch)
    }

    /// A snapshot is verified and written: the leader is asked now and then whether it still leads,
    /// which also tells it that we follow.
    private mutating func awaitInstallation(_ now: MonotonicTime) {
        guard case .follower(var follower) = role else { return }
        follower.fetch = .due(now + config.fetchTimeout / 4)
        role = .follower(follower)
    }

    /// Another leader's snapshot, or one of another epoch, can't be gone on with.
    ///
    /// One that is complete is as good as any: it stays until the driver has reported on it.
    mutating func dropForeignDownload(_ follower: Follower) {
        guard let download, !download.isComplete,
            download.leader != follower.leader || download.epoch != election.epoch
        else { return }
        discardDownload()
    }

    private mutating func discardDownload() {
        download = nil
        effects.append(.discardSnapshotDownload)
    }

    /// The request for the next piece; `nil` when none is needed.
    func downloadRequest() -> RaftRequest? {
        guard let download, !download.isComplete else { return nil }
        return .fetchSnapshot(
            FetchSnapshotRequest(
                replica: local, epoch: election.epoch, snapshot: download.snapshot,
                position: download.position))
    }

    mutating func handleFetchSnapshotResponse(
        _ response: FetchSnapshotResponse, to id: RequestID, _ now: MonotonicTime
    ) {
        observe(epoch: response.epoch, leader: response.leader, now)
        // Any other response is late: it belongs to another leader or an earlier piece.
        guard case .follower(var follower) = role, follower.fetch.outstanding == id else { return }
        guard response.epoch == election.epoch else {
            requestFailed(id, now)
            return
        }
        follower.fetch = .due(now + randomBackoff())
        role = .follower(follower)
        guard let download, !download.isComplete else { return }
        switch response.outcome {
        case .chunk(let position, let count, let size):
            guard response.leader == follower.leader else { return }
            receive(count, at: position, of: size, download, follower, now)
        case .notFound, .positionOutOfRange:
            // The log tells which one there is.
            discardDownload()
        case .notLeader:
            noteNotLeader(response.leader, now)
        case .fencedEpoch, .unknownEpoch, .unavailable:
            // Asked again after the backoff; if that does not help, the fetch timeout does.
            break
        }
    }

    private mutating func receive(
        _ count: Int64, at position: Int64, of size: Int64, _ download: SnapshotDownload,
        _ follower: Follower, _ now: MonotonicTime
    ) {
        guard position == download.position, position <= size, count >= 0,
            count <= size - position, download.size ?? size == size
        else {
            // These are not the bytes of the snapshot that we have begun with.
            discardDownload()
            return
        }
        guard count > 0 else { return }
        var download = download
        download.position += count
        download.size = size
        self.download = download
        heardFromLeader(follower, now)
        effects.append(
            .appendSnapshotChunk(
                download.snapshot, position: position, isLast: download.isComplete))
        if download.isComplete { awaitInstallation(now) }
    }

    mutating func snapshotFailed(_ id: SnapshotID, _ now: MonotonicTime) {
        guard download?.snapshot == id else { return }
        discardDownload()
        guard case .follower(var follower) = role else { return }
        follower.fetch = .due(now + randomBackoff())
        role = .follower(follower)
    }

    mutating func snapshotInstalled(
        _ id: SnapshotID, _ voterSet: VoterSet?, _ now: MonotonicTime
    ) {
        if download?.snapshot == id { download = nil }
        // Meanwhile another leader may have had the records for us, or even elected us.
        guard id.endOffset > highWatermark ?? 0, id.epoch <= election.epoch else { return }
        if case .leader = role { return }
        if log.holds(id) {
            snapshot = id
            olderSnapshot = nil
            advanceHighWatermark(to: id.endOffset)
            return
        }
        let oldVoters = self.voterSet
        voters.reset(to: voterSet, at: id)
        resetLog(to: id)
        effects.append(.loadSnapshot(id))
        advanceHighWatermark(to: id.endOffset)
        if self.voterSet != oldVoters { adoptVoters(now) }
        guard case .follower(var follower) = role else { return }
        // Whatever was asked before was asked of another log.
        follower.fetch = .due(now)
        role = .follower(follower)
    }

    private mutating func resetLog(to id: SnapshotID) {
        snapshot = id
        olderSnapshot = nil
        log.reset(
            to: id.endOffset, epochBefore: breaks(.snapshotWithoutEpoch) ? .none : id.epoch)
        effects.append(.resetLog(to: id))
    }

    // MARK: - Serving

    mutating func handleFetchSnapshot(
        _ request: FetchSnapshotRequest, _ token: RequestToken, _ now: MonotonicTime
    ) {
        guard request.position >= 0, request.replica.id >= 0, request.replica.id != local.id
        else {
            effects.append(.refuse(token))
            return
        }
        guard case .leader(var leader) = role else {
            answerSnapshot(token, .notLeader)
            return
        }
        guard request.epoch == leader.epoch else {
            answerSnapshot(token, request.epoch < leader.epoch ? .fencedEpoch : .unknownEpoch)
            return
        }
        // It follows us, though it can't fetch records meanwhile.
        recordContact(of: request.replica, in: &leader, now)
        role = .leader(leader)
        guard request.snapshot == snapshot || request.snapshot == olderSnapshot else {
            answerSnapshot(token, .notFound)
            return
        }
        effects.append(
            .answerSnapshot(
                token, request.snapshot, position: request.position,
                maxBytes: config.maxSnapshotChunkBytes))
    }

    private mutating func answerSnapshot(
        _ token: RequestToken, _ outcome: FetchSnapshotResponse.Outcome
    ) {
        answer(
            token,
            .fetchSnapshot(
                FetchSnapshotResponse(epoch: election.epoch, leader: leader, outcome: outcome)))
    }
}
