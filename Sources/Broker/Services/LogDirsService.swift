internal import Essentials
internal import NIOCore
internal import Protocol
internal import RPC
internal import Storage

/// `millrace.v1.Admin/DescribeLogDirs`: what the logs of this broker take on its disks; and
/// `AlterReplicaLogDirs`, which moves them.
struct LogDirsService: Sendable {
    static let path = "/millrace.v1.Admin/DescribeLogDirs"
    static let alterPath = "/millrace.v1.Admin/AlterReplicaLogDirs"

    let local: NodeID
    let replicas: ReplicaManager

    func register(in router: inout Router) {
        router.register(Self.path) { call in
            do throws(RPCError) {
                describe(try call.decode(WireDescribeLogDirsRequest.self), for: call)
            } catch {
                call.fail(error)
            }
        }
        router.register(Self.alterPath) { call in
            do throws(RPCError) {
                call.respond(try alter(try call.decode(WireAlterReplicaLogDirsRequest.self)))
            } catch {
                call.fail(error)
            }
        }
    }

    private func alter(
        _ request: WireAlterReplicaLogDirsRequest
    ) throws(RPCError) -> WireAlterReplicaLogDirsResponse {
        guard request.bytesPerSecond >= 0 else {
            throw RPCError(.invalidRequest, "bytes_per_second must not be negative")
        }
        var response = WireAlterReplicaLogDirsResponse()
        for move in request.moves {
            var result = WireAlterReplicaLogDirsResponse.Result()
            result.topic = move.topic
            result.partition = move.partition
            do throws(RPCError) {
                try begin(move, rate: Int(clamping: request.bytesPerSecond))
            } catch {
                result.error = (error.code ?? .unknownServerError).name
                result.errorMessage = error.message
            }
            response.results.append(result)
        }
        return response
    }

    private func begin(
        _ move: WireAlterReplicaLogDirsRequest.Move, rate: Int
    ) throws(RPCError) {
        guard let replica = replicas.replica(topic: move.topic, partition: move.partition) else {
            throw RPCError(
                .unknownTopicOrPartition,
                "broker \(local) has no replica of \(move.topic)-\(move.partition)")
        }
        let disks = replicas.disks.disks
        guard let disk = disks.first(where: { $0.directory.path == move.logDir }) else {
            throw RPCError(
                .logDirNotFound,
                "\(move.logDir) is not a log directory of broker \(local) that it can use; it has "
                    + disks.map(\.directory.path).joined(separator: ", "))
        }
        guard !disk.hasFailed else {
            throw RPCError(.kafkaStorageError, "\(move.logDir) has failed on broker \(local)")
        }
        replicas.move(replica, to: disk, rate: rate)
    }

    private func describe(_ request: WireDescribeLogDirsRequest, for call: ServerCall) {
        let topics = Set(request.topics)
        let status = replicas.cleaner.status
        let wanted = replicas.allReplicas.filter { topics.isEmpty || topics.contains($0.topic) }
        let logs = replicas.shards.map { shard in
            let own = wanted.filter { $0.shard === shard }
            return shard.eventLoop.submit {
                own.compactMap { replica in
                    replica.diskUse(status).map { ($0.path, $0.description) }
                }
            }
        }
        let bound = NIOLoopBound(call, eventLoop: call.eventLoop)
        EventLoopFuture.whenAllSucceed(logs, on: call.eventLoop).whenComplete { result in
            switch result {
            case .success(let shares):
                bound.value.respond(
                    response(shares.flatMap { $0 } + futures(of: topics), status))
            case .failure(let error):
                bound.value.fail(RPCError(.unknownServerError, "\(error)"))
            }
        }
    }

    /// The copies that are being made.
    private func futures(
        of topics: Set<String>
    ) -> [(path: String, description: WireReplicaLogDescription)] {
        replicas.moves.all.compactMap { move in
            guard topics.isEmpty || topics.contains(move.replica.topic) else { return nil }
            var description = WireReplicaLogDescription()
            description.topic = move.replica.topic
            description.partition = move.replica.id.partition
            description.isFuture = true
            description.size = Int64(move.progress.copied)
            description.logSize = Int64(move.progress.total)
            description.error = move.failure ?? ""
            return (move.target.directory.path, description)
        }
    }

    private func response(
        _ logs: [(path: String, description: WireReplicaLogDescription)], _ status: CleanerStatus
    ) -> WireDescribeLogDirsResponse {
        var response = WireDescribeLogDirsResponse()
        response.brokerID = local.rawValue
        response.cleaner = WireCleanerDescription(
            status, isEnabled: replicas.options.cleaner.isEnabled,
            topic: { replicas.replica($0)?.topic ?? "" })
        for disk in replicas.disks.disks {
            var directory = WireLogDirDescription()
            directory.path = disk.directory.path
            directory.error = disk.directory.health.failure.map { "\($0)" } ?? ""
            directory.replicas = logs.filter { $0.path == directory.path }.map(\.description)
                .sorted { ($0.topic, $0.partition) < ($1.topic, $1.partition) }
            response.logDirs.append(directory)
        }
        for unusable in replicas.disks.unusable {
            var directory = WireLogDirDescription()
            directory.path = unusable.path
            directory.error = unusable.reason
            response.logDirs.append(directory)
        }
        return response
    }
}

extension Replica {
    /// The log directory, and what the log takes there; `nil` while the log is not open.
    fileprivate func diskUse(
        _ status: CleanerStatus
    ) -> (path: String, description: WireReplicaLogDescription)? {
        guard let opened else { return nil }
        let log = opened.log
        var description = WireReplicaLogDescription()
        description.topic = topic
        description.partition = id.partition
        description.size = Int64(log.byteCount)
        description.logStartOffset = log.logStartOffset.rawValue
        description.logEndOffset = log.logEndOffset.rawValue
        description.segments = Int32(clamping: log.segmentCount)
        if settings.compaction != nil {
            var compaction = WireCompactionDescription()
            compaction.firstDirtyOffset = log.firstDirtyOffset.rawValue
            if let need = status.needs[id] {
                compaction.cleanBytes = Int64(need.cleanBytes)
                compaction.dirtyBytes = Int64(need.dirtyBytes)
                compaction.dirtyRatio = need.dirtyRatio
            }
            if let progress = status.running[id] { compaction.progress = progress }
            description.compaction = compaction
        }
        return (opened.disk.directory.path, description)
    }
}

extension WireCleanerDescription {
    fileprivate init(
        _ status: CleanerStatus, isEnabled: Bool, topic: (TopicPartition) -> String
    ) {
        self.init()
        enabled = isEnabled
        runs = Int64(status.runs)
        failedRuns = Int64(status.failedRuns)
        bytesBefore = status.bytesBefore
        bytesAfter = status.bytesAfter
        tombstonesRemoved = status.removedTombstones
        if let last = status.last {
            lastRun.topic = topic(last.partition)
            lastRun.partition = last.partition.partition
            lastRun.bytesBefore = Int64(last.summary.bytesBefore)
            lastRun.bytesAfter = Int64(last.summary.bytesAfter)
            lastRun.seconds = Double(last.took.nanoseconds) / 1e9
            lastRun.recordsKept = Int64(last.summary.keptRecords)
            lastRun.recordsRemoved = Int64(last.summary.removedRecords)
            lastRun.tombstonesRemoved = Int64(last.summary.removedTombstones)
        }
        running = status.running.sorted { $0.key < $1.key }.map { id, fraction in
            var progress = WireCleanerProgress()
            progress.topic = topic(id)
            progress.partition = id.partition
            progress.progress = fraction
            return progress
        }
    }
}
