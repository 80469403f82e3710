import Essentials
import Raft

/// Messages and effects as scenario files show them.
enum Describe {
    static func packet(_ packet: Packet) -> String {
        let link = "\(packet.from)->\(packet.to)"
        switch packet.content {
        case .request(let request, _): return "\(link) \(Self.request(request))"
        case .response(let response, _, _): return "\(link) \(Self.response(response))"
        case .failure: return "\(link) failed"
        case .connectionLost: return "\(link) connection lost"
        }
    }

    private static func request(_ request: RaftRequest) -> String {
        switch request {
        case .vote(let vote):
            "\(vote.isPreVote ? "PreVote" : "Vote") epoch=\(vote.epoch) log=\(vote.endOffset)@\(vote.lastEpoch)"
        case .beginQuorumEpoch(let begin):
            "BeginQuorumEpoch epoch=\(begin.epoch)"
        case .endQuorumEpoch(let end):
            "EndQuorumEpoch epoch=\(end.epoch) successors=\(end.preferredSuccessors)"
        case .fetch(let fetch):
            "Fetch epoch=\(fetch.epoch) at=\(fetch.fetchOffset)@\(fetch.lastFetchedEpoch)"
                + " hw=\(offset(fetch.highWatermark))"
        case .fetchSnapshot(let fetch):
            "FetchSnapshot epoch=\(fetch.epoch) of=\(fetch.snapshot) at=\(fetch.position)"
        }
    }

    private static func response(_ response: RaftResponse) -> String {
        switch response {
        case .vote(let vote):
            (vote.isGranted ? "granted" : "refused") + known(vote.epoch, vote.leader)
        case .beginQuorumEpoch(let answer): "begin noted" + known(answer.epoch, answer.leader)
        case .endQuorumEpoch(let answer): "end noted" + known(answer.epoch, answer.leader)
        case .fetch(let fetch): outcome(fetch.outcome) + known(fetch.epoch, fetch.leader)
        case .fetchSnapshot(let fetch): outcome(fetch.outcome) + known(fetch.epoch, fetch.leader)
        }
    }

    private static func outcome(_ outcome: FetchResponse.Outcome) -> String {
        switch outcome {
        case .records(let batches, let highWatermark, _):
            if let first = batches.first, let last = batches.last {
                "records \(first.baseOffset)...\(last.lastOffset) hw=\(offset(highWatermark))"
            } else {
                "no records hw=\(offset(highWatermark))"
            }
        case .diverging(let end): "diverging, epoch \(end.epoch) ends at \(end.endOffset)"
        case .notLeader: "not leader"
        case .fencedEpoch: "fenced epoch"
        case .unknownEpoch: "unknown epoch"
        case .snapshot(let id): "fetch snapshot \(id)"
        case .offsetOutOfRange: "offset out of range"
        case .unavailable: "unavailable"
        }
    }

    private static func outcome(_ outcome: FetchSnapshotResponse.Outcome) -> String {
        switch outcome {
        case .chunk(let position, let count, let size):
            "bytes \(position)..<\(position + count) of \(size)"
        case .notFound: "no such snapshot"
        case .positionOutOfRange: "position out of range"
        case .notLeader: "not leader"
        case .fencedEpoch: "fenced epoch"
        case .unknownEpoch: "unknown epoch"
        case .unavailable: "unavailable"
        }
    }

    private static func known(_ epoch: LeaderEpoch, _ leader: NodeID?) -> String {
        " epoch=\(epoch)" + (leader.map { " leader=\($0)" } ?? "")
    }

    private static func offset(_ offset: Offset?) -> String {
        offset.map { "\($0)" } ?? "?"
    }

    /// What a step did besides sending; `nil` for what shows up as a message.
    static func effect(_ effect: RaftEffect) -> String? {
        switch effect {
        case .persistElectionState(let state, _):
            "writes epoch=\(state.epoch)" + (state.votedFor.map { " vote=\(replica($0))" } ?? "")
                + (state.leader.map { " leader=\($0)" } ?? "")
        case .send, .answer, .answerFetch, .answerSnapshot: nil
        case .refuse: "refuses a request"
        case .appendLeaderChange(let change):
            "appends \(change.offset): leader change, epoch \(change.epoch)"
        case .appendVoters(let voters, let offset, _): "appends \(offset): \(Self.voters(voters))"
        case .appendProposed(let span): "appends \(span.baseOffset)...\(span.lastOffset)"
        case .appendFetched(let spans):
            "appends \(spans.first?.baseOffset ?? -1)...\(spans.last?.lastOffset ?? -1)"
        case .truncateLog(let offset): "truncates to \(offset)"
        case .resetLog(let id): "restarts its log at \(id)"
        case .loadSnapshot(let id): "loads snapshot \(id)"
        case .advanceLogStart(let id): "removes what is before \(id)"
        case .appendSnapshotChunk(let id, let position, let isLast):
            "writes snapshot \(id) from \(position)" + (isLast ? ", the last piece" : "")
        case .discardSnapshotDownload: "discards a partial snapshot"
        case .votersChanged(let set): "goes by \(Self.voters(set))"
        case .readConfirmed: "confirms a read"
        case .readRefused: "refuses a read"
        case .transferred(_, let outcome): "transfer: \(transfer(outcome))"
        case .advanceHighWatermark(let offset): "commits up to \(offset)"
        case .leaderChanged(let leader, let epoch):
            leader.map { "follows \($0) in epoch \(epoch)" } ?? "knows no leader in epoch \(epoch)"
        case .startedLeading(let epoch): "started leading epoch \(epoch)"
        case .stoppedLeading(let epoch): "stopped leading epoch \(epoch)"
        case .halt(let reason): "halts: \(reason)"
        }
    }

    /// A voter's disk is shown by a letter after its id, unless it is the first: 3, 3b, 3c.
    static func voters(_ voters: VoterSet?) -> String {
        guard let voters else { return "no voters" }
        return "voters "
            + voters.voters.map { replica($0.key) + ($0.port == 1 ? "" : ":\($0.port)") }
            .joined(separator: ",")
    }

    /// The first disk of every replica of a scenario; the next one has the next number.
    static let firstDisk = DirectoryID(high: 7, low: 0)

    static func replica(_ key: ReplicaKey) -> String {
        let disk = key.directory.map { $0.high == firstDisk.high ? Int($0.low) : 0 } ?? 0
        let letters = ["", "b", "c", "d"]
        return "\(key.id)" + letters[min(disk, letters.count - 1)]
    }

    static func refusal(_ error: VoterChangeError) -> String {
        switch error {
        case .notLeader(let leader, _): "not leader" + (leader.map { ", that is \($0)" } ?? "")
        case .pending(let offset): "the change at \(offset) is not committed yet"
        case .notReady: "nothing of this epoch is committed yet"
        case .alreadyVoter(let voter): "\(replica(voter.key)) is a voter"
        case .notVoter: "not a voter"
        case .notObserving: "does not observe"
        case .notDurable: "not-durable"
        case .behind(let records): "\(records) records behind"
        case .lastVoter: "the last voter"
        }
    }

    private static func transfer(_ outcome: TransferOutcome) -> String {
        switch outcome {
        case .handedOver(let id): "handed over to \(id)"
        case .notLeader(let leader, _): "not leader" + (leader.map { ", that is \($0)" } ?? "")
        case .notVoter: "not a voter"
        case .noSuccessor: "no successor"
        case .busy: "busy"
        case .behind(let records): "\(records) records behind"
        }
    }
}
