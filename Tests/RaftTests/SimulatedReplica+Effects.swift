import Essentials
import Raft

/// What a driver does with the effects of a step.
extension SimulatedReplica {
    func perform(_ effect: RaftEffect, _ payload: Packet.Payload) {
        switch effect {
        case .persistElectionState(let state, let write):
            persist(state, write: write)
        case .send(let request, let peer, let id):
            post(.request(request, id), to: peer, run: run)
        case .answer(let token, let response):
            answer(token, response, .none)
        case .answerFetch(let token, let fetch):
            answerFetch(token, fetch)
        case .answerSnapshot(let token, let id, let position, let maxBytes):
            answerSnapshot(token, id, position, maxBytes)
        case .refuse(let token):
            refuse(token)
        case .appendLeaderChange, .appendVoters, .appendProposed, .appendFetched, .truncateLog,
            .resetLog, .loadSnapshot, .advanceLogStart, .advanceHighWatermark:
            changeLog(effect, payload)
        case .appendSnapshotChunk(let id, let position, let isLast):
            appendPiece(of: id, at: position, isLast: isLast, payload)
        case .discardSnapshotDownload:
            download = nil
        case .startedLeading(let epoch):
            note(.startedLeading(epoch))
        case .stoppedLeading(let epoch):
            note(.stoppedLeading(epoch))
        case .readConfirmed(let token):
            note(.confirmedRead(token, answer: leading?.highWatermark ?? 0))
            note(.answeredClient(token))
        case .readRefused(let token), .transferred(let token, _):
            note(.answeredClient(token))
        case .votersChanged(let voters):
            if voters != node?.voters.current { note(.broke("R15: told of other voters")) }
        case .leaderChanged, .halt:
            break
        }
    }

    private func changeLog(_ effect: RaftEffect, _ payload: Packet.Payload) {
        switch effect {
        case .appendLeaderChange(let change):
            append(
                Entry(epoch: change.epoch, payload: nextNumber(), batchBase: change.offset),
                at: change.offset)
        case .appendVoters(let voters, let offset, let epoch):
            note(.proposedVoters(voters, offset: offset, voterContext(at: offset, epoch)))
            append(
                Entry(epoch: epoch, payload: nextNumber(), batchBase: offset, voters: voters),
                at: offset)
        case .appendProposed(let span):
            for offset in span.baseOffset.rawValue...span.lastOffset.rawValue {
                append(
                    Entry(epoch: span.epoch, payload: nextNumber(), batchBase: span.baseOffset),
                    at: Offset(offset))
            }
        case .appendFetched:
            guard case .entries(let entries) = payload else { return }
            for entry in entries { append(entry, at: Offset(Int64(disk.endOffset))) }
        case .truncateLog(let offset):
            note(.truncated(wasLeading: leading != nil))
            disk.truncate(to: Int(offset.rawValue))
        case .resetLog(let id):
            note(.truncated(wasLeading: leading != nil))
            note(.movedStart(id))
            disk.reset(to: id)
            (logStart, knowsEpochBeforeStart) = (disk.startOffset, true)
        case .advanceLogStart(let id):
            note(.movedStart(id))
            disk.removePrefix(to: id)
            (logStart, knowsEpochBeforeStart) = (Int(id.endOffset.rawValue), true)
        case .loadSnapshot(let id):
            load(id)
        case .advanceHighWatermark(let offset):
            apply(to: offset)
        default:
            break
        }
    }

    private func voterContext(at offset: Offset, _ epoch: LeaderEpoch) -> VoterContext {
        let inLog = disk.voterRecords.last
        let snapshot = disk.snapshots.last { $0.voters != nil }
        let leader = leading ?? leadingBefore
        return VoterContext(
            epoch: epoch, previous: disk.votersInForce,
            previousOffset: inLog.map { Offset(Int64($0.offset)) } ?? snapshot?.id.endOffset,
            highWatermark: leader?.highWatermark, epochStart: leader?.epochStart ?? offset)
    }

    // MARK: - Answers from the disk

    /// Whole batches from the disk, as a driver would read them.
    private func answerFetch(_ token: RequestToken, _ answer: FetchAnswer) {
        var spans: [BatchSpan] = []
        var entries: [Entry] = []
        var offset = Int(answer.from.rawValue)
        guard !readFails() else {
            self.answer(
                token,
                .fetch(
                    FetchResponse(
                        epoch: answer.epoch, leader: answer.leader, outcome: .unavailable)), .none)
            return
        }
        guard offset >= logStart else {
            note(.broke("R21: is to answer from \(offset), which is below the log's start"))
            return
        }
        while offset < Int(answer.below.rawValue), let entry = disk.entry(at: offset) {
            if let last = spans.last, last.epoch == entry.epoch,
                last.baseOffset == entry.batchBase
            {
                spans[spans.count - 1].lastOffset = Offset(Int64(offset))
            } else {
                guard spans.count < maxBatchesPerFetch else { break }
                spans.append(
                    BatchSpan(
                        baseOffset: Offset(Int64(offset)), lastOffset: Offset(Int64(offset)),
                        epoch: entry.epoch, voters: entry.voters))
            }
            entries.append(entry)
            offset += 1
        }
        let outcome = FetchResponse.Outcome.records(
            spans, highWatermark: answer.highWatermark, logStartOffset: answer.logStartOffset)
        self.answer(
            token,
            .fetch(FetchResponse(epoch: answer.epoch, leader: answer.leader, outcome: outcome)),
            .entries(entries))
    }

    private func answerSnapshot(
        _ token: RequestToken, _ id: SnapshotID, _ position: Int64, _ maxBytes: Int32
    ) {
        guard let node else { return }
        let outcome: FetchSnapshotResponse.Outcome
        var payload = Packet.Payload.none
        if readFails() {
            outcome = .unavailable
        } else if let snapshot = disk.snapshot(id) {
            if position >= snapshot.size {
                outcome = .positionOutOfRange
            } else {
                let count = min(snapshot.size - position, maxPiece, Int64(maxBytes))
                outcome = .chunk(position: position, count: count, size: snapshot.size)
                payload = .piece(snapshot, count: count)
            }
        } else {
            outcome = .notFound
        }
        answer(
            token,
            .fetchSnapshot(
                FetchSnapshotResponse(
                    epoch: node.election.epoch, leader: node.leader, outcome: outcome)),
            payload)
    }

    private func appendPiece(
        of id: SnapshotID, at position: Int64, isLast: Bool, _ payload: Packet.Payload
    ) {
        guard case .piece(let snapshot, let count) = payload, snapshot.id == id else {
            note(.broke("R21: appends a piece of \(id) that it did not get"))
            return
        }
        var current =
            download ?? Download(id: id, end: 0, snapshot: snapshot, isTorn: false)
        if current.id != id || position != current.end {
            // Pieces of two snapshots, or with a gap: the checksums will tell.
            current.isTorn = true
        } else if current.snapshot.file != snapshot.file {
            // Two replicas' files of one snapshot: no checksum would tell.
            note(.broke("R21: mixes the pieces of two files of \(id)"))
        }
        current.end = position + count
        download = current
        guard isLast else { return }
        download = nil
        if current.end != snapshot.size { current.isTorn = true }
        snapshotWrites.append(
            SnapshotWrite(snapshot: snapshot, isDownload: true, isTorn: current.isTorn))
    }
}
