internal import Essentials
internal import Protocol

/// The metadata quorum: its voters, its leader, and the log that it keeps.
extension Admin {
    private static let quorum = "/millrace.v1.Quorum/"

    /// - Parameter timeout: how long to look for a node that answers; `metadataTimeout` if `nil`.
    public func describeQuorum(
        timeout: Duration? = nil
    ) async throws(MillraceError) -> QuorumDescription {
        // Of a short time at most half is left to one node, so that another one has its turn.
        let attempt = min(.seconds(2), (timeout ?? .seconds(4)) / 2)
        let answer: WireDescribeQuorumResponse = try await core.callAny(
            Self.quorum + "DescribeQuorum", WireDescribeQuorumRequest(), timeout: timeout,
            attemptTimeout: attempt)
        return QuorumDescription(answer)
    }

    // MARK: Voters

    /// Makes a controller that observes the quorum a voter, once it has caught up with the leader.
    ///
    /// - Parameters:
    ///   - address: where the other controllers reach it.
    ///   - directoryID: the id of its metadata log directory, from `millrace storage info`; may be
    ///     left out while the leader knows only one with this node id.
    ///   - timeout: how long it may take to catch up.
    /// - Returns: the voters from then on.
    /// - Throws: `DUPLICATE_VOTER` if one with this id votes already, from another address or directory;
    ///   `VOTER_NOT_FOUND`, `REQUEST_TIMED_OUT` if it does not follow the leader, or not closely enough.
    public func addVoter(
        _ id: Int32, at address: BrokerAddress, directoryID: String? = nil,
        timeout: Duration = .seconds(30)
    ) async throws(MillraceError) -> [QuorumReplicaDescription] {
        var request = WireAddVoterRequest()
        request.id = id
        request.directoryID = directoryID ?? ""
        request.host = address.host
        request.port = Int32(clamping: address.port)
        let answer: WireAddVoterResponse = try await core.callAny(
            Self.quorum + "AddVoter", request, timeout: timeout, attemptTimeout: .seconds(10)
        ) { error in
            // The attempt whose answer was lost may be the one that added it.
            guard error.code == ErrorCode.duplicateVoter.name,
                let voters = try? await self.wireVoters(),
                voters.contains(where: {
                    $0.id == id && $0.host == address.host && Int($0.port) == address.port
                        && (directoryID == nil || $0.directoryID == directoryID)
                })
            else { return nil }
            var answer = WireAddVoterResponse()
            answer.voters = voters
            return answer
        }
        return answer.voters.map(QuorumReplicaDescription.init)
    }

    /// Makes a voter an observer; works for one that is gone for good, too.
    ///
    /// - Parameter directoryID: if given, only a voter with this metadata log directory is removed.
    /// - Returns: the voters from then on.
    /// - Throws: `VOTER_NOT_FOUND`; `INVALID_REQUEST` for the last voter.
    public func removeVoter(
        _ id: Int32, directoryID: String? = nil, timeout: Duration = .seconds(30)
    ) async throws(MillraceError) -> [QuorumReplicaDescription] {
        var request = WireRemoveVoterRequest()
        request.id = id
        request.directoryID = directoryID ?? ""
        let answer: WireRemoveVoterResponse = try await core.callAny(
            Self.quorum + "RemoveVoter", request, timeout: timeout, attemptTimeout: .seconds(10)
        ) { error in
            guard error.code == ErrorCode.voterNotFound.name,
                let voters = try? await self.wireVoters()
            else { return nil }
            var answer = WireRemoveVoterResponse()
            answer.voters = voters
            return answer
        }
        return answer.voters.map(QuorumReplicaDescription.init)
    }

    private func wireVoters() async throws(MillraceError) -> [WireQuorumReplica] {
        let answer: WireDescribeQuorumResponse = try await core.callAny(
            Self.quorum + "DescribeQuorum", WireDescribeQuorumRequest())
        return answer.voters
    }

    /// Hands the leadership to another voter, without waiting for anybody to miss the old leader.
    ///
    /// - Parameter target: the voter that should lead; the one with most of the log if `nil`.
    /// - Returns: who leads then.
    /// - Throws: `VOTER_NOT_FOUND`, `REQUEST_TIMED_OUT` if the target doesn't take over.
    public func transferLeadership(
        to target: Int32? = nil, timeout: Duration? = nil
    ) async throws(MillraceError) -> QuorumLeader {
        var request = WireTransferLeadershipRequest()
        // Chosen here, so that a second attempt can't move the leadership once more: the way to the old
        // leader may break off before its answer has come.
        var successor = target
        if successor == nil { successor = try await describeQuorum(timeout: timeout).successor }
        if let successor { request.to = successor }
        let answer: WireTransferLeadershipResponse = try await core.callAny(
            Self.quorum + "TransferLeadership", request, timeout: timeout,
            isRepeatable: successor != nil, attemptTimeout: .seconds(10))
        return QuorumLeader(id: answer.leaderID, epoch: answer.leaderEpoch)
    }

    // MARK: The metadata

    /// What lies at a path of the cluster's metadata, as the active controller has it now.
    ///
    /// - Parameter path: such as `/topics/NAME/partitions/0`; the root is `/`.
    /// - Throws: `RESOURCE_NOT_FOUND`.
    public func showMetadata(
        at path: String = "/"
    ) async throws(MillraceError) -> MetadataEntry {
        var request = WireShowMetadataRequest()
        request.path = path
        let answer: WireShowMetadataResponse = try await core.callAny(
            Self.quorum + "ShowMetadata", request)
        return MetadataEntry(
            path: answer.path.isEmpty ? path : answer.path,
            content: answer.hasValue ? .value(answer.value) : .directory(answer.entries),
            offset: answer.offset)
    }

    /// Committed records of the metadata log, decoded.
    ///
    /// - Parameters:
    ///   - offset: where to begin; at the log's start if `nil`.
    ///   - maxRecords: the most to return; there may be fewer.
    /// - Throws: `OFFSET_OUT_OF_RANGE` for an offset that a snapshot has replaced, or that is not
    ///   committed yet.
    public func dumpMetadata(
        from offset: Int64? = nil, maxRecords: Int = 1_000
    ) async throws(MillraceError) -> MetadataDump {
        var request = WireDumpMetadataRequest()
        if let offset { request.fromOffset = offset }
        request.maxRecords = Int32(clamping: maxRecords)
        let answer: WireDumpMetadataResponse = try await core.callAny(
            Self.quorum + "DumpMetadata", request)
        return MetadataDump(
            records: answer.records.map { record in
                MetadataDump.Record(
                    offset: record.offset, epoch: record.epoch, timestamp: record.timestamp,
                    type: record.type, value: record.value)
            }, nextOffset: answer.nextOffset, highWatermark: answer.highWatermark,
            logStartOffset: answer.logStartOffset)
    }
}

// MARK: From the wire

extension QuorumDescription {
    /// The voter beside the leader that has most of the log; `nil` if none was heard from.
    fileprivate var successor: Int32? {
        voters.filter { $0.id != leaderID && $0.lag != nil }
            .max { ($0.logEndOffset ?? -1, $1.id) < ($1.logEndOffset ?? -1, $0.id) }?.id
    }

    init(_ answer: WireDescribeQuorumResponse) {
        self.init(
            clusterID: answer.clusterID, leaderID: answer.hasLeaderID ? answer.leaderID : nil,
            leaderEpoch: answer.leaderEpoch, highWatermark: answer.highWatermark,
            logStartOffset: answer.hasLogStartOffset ? answer.logStartOffset : nil,
            logEndOffset: answer.hasLogEndOffset ? answer.logEndOffset : nil,
            snapshot: answer.hasSnapshot ? SnapshotDescription(answer.snapshot) : nil,
            voters: answer.voters.map(QuorumReplicaDescription.init),
            observers: answer.observers.map(QuorumReplicaDescription.init))
    }
}

extension SnapshotDescription {
    init(_ snapshot: WireSnapshotDescription) {
        self.init(
            endOffset: snapshot.endOffset, epoch: snapshot.epoch,
            sizeBytes: snapshot.hasSizeBytes ? snapshot.sizeBytes : nil)
    }
}

extension QuorumReplicaDescription {
    init(_ replica: WireQuorumReplica) {
        self.init(
            id: replica.id, directoryID: replica.directoryID.isEmpty ? nil : replica.directoryID,
            logEndOffset: replica.hasLogEndOffset ? replica.logEndOffset : nil,
            lag: replica.hasLag ? replica.lag : nil,
            lastFetchTimestamp: replica.hasLastFetchTimestamp ? replica.lastFetchTimestamp : nil,
            lastCaughtUpTimestamp: replica.hasLastCaughtUpTimestamp
                ? replica.lastCaughtUpTimestamp : nil,
            host: replica.host, port: Int(replica.port))
    }
}
