internal import Essentials
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC
internal import Records
internal import Storage

/// `millrace.v1.Broker/Fetch`, `FetchStream` and `ListOffsets`: committed records out.
struct FetchService: Sendable {
    static let path = "/millrace.v1.Broker/Fetch"
    static let defaultMaxBytes = 1 << 20

    let local: NodeID
    let metadata: BrokerMetadata
    let replicas: ReplicaManager
    let peers: BrokerPeers
    /// `fetch.max.bytes` of this broker's file: the most that one answer holds, whatever is asked for.
    let maxBytes: Int

    func register(in router: inout Router) {
        router.register(Self.path) { call in
            do throws(RPCError) {
                try fetch(try call.decode(WireFetchRequest.self), for: call)
            } catch {
                call.fail(error)
            }
        }
        router.register("/millrace.v1.Broker/FetchStream", streaming: true) { call in
            do throws(RPCError) {
                let request = try call.decode(WireFetchRequest.self)
                let replica = try leader(of: request)
                FetchStream(request, from: replica, maxBytes: allowedBytes(request), call: call)
                    .start()
            } catch {
                call.fail(error)
            }
        }
        router.register(Self.listOffsetsPath) { call in
            do throws(RPCError) {
                try listOffsets(try call.decode(WireListOffsetsRequest.self), for: call)
            } catch {
                call.fail(error)
            }
        }
    }

    func route(
        _ topic: String, _ partition: Int32, image: MetadataImage
    ) throws(RPCError) -> PartitionRoute {
        try .find(
            topic: topic, partition: partition, image: image, local: local, replicas: replicas)
    }

    private func leader(of request: WireFetchRequest) throws(RPCError) -> Replica {
        let image = metadata.current
        switch try route(request.topic, request.partition, image: image) {
        case .here(let replica):
            return replica
        case .elsewhere(let leader):
            throw PartitionRoute.notLeader(
                topic: request.topic, partition: request.partition, leader: leader, image: image)
        }
    }

    private func fetch(_ request: WireFetchRequest, for call: ServerCall) throws(RPCError) {
        let image = metadata.current
        let readable = request.readable || call.encoding == .json
        let offset = Offset(request.offset)
        let bound = NIOLoopBound(call, eventLoop: call.eventLoop)
        let maxBytes = allowedBytes(request)
        switch try route(request.topic, request.partition, image: image) {
        case .here(let replica):
            let fetch = PendingFetch(
                request, from: replica, maxBytes: maxBytes, owner: call.connectionID
            ) { result in
                bound.eventLoop.runNow {
                    Self.answer(
                        bound.value, with: result, readableBytes: readable ? maxBytes : nil,
                        from: offset)
                }
            }
            call.onCancel = { replica.eventLoop.runNow { fetch.cancel() } }
            replica.eventLoop.runNow { fetch.start() }
        case .elsewhere(let leader):
            // Whoever reads JSON has no leader to look for: ask it, in the compact form.
            guard readable, call.header("millrace-forwarded") == nil,
                let peer = peers.client(for: leader, in: image)
            else {
                throw PartitionRoute.notLeader(
                    topic: request.topic, partition: request.partition, leader: leader,
                    image: image)
            }
            var passedOn = request
            passedOn.readable = false
            let wait = Duration.milliseconds(max(0, request.maxWaitMs))
            peer.unary(
                Self.path, [try PayloadEncoding.protobuf.encode(passedOn)],
                headers: [("millrace-forwarded", "1")],
                timeout: wait + .seconds(10)
            ) { answer in
                let result = Self.outcome(of: answer)
                bound.eventLoop.runNow {
                    Self.answer(
                        bound.value, with: result, readableBytes: maxBytes, from: offset)
                }
            }
        }
    }

    private static func outcome(
        of answer: Result<ByteBuffer, RPCError>
    ) -> Result<FetchOutcome, RPCError> {
        do throws(RPCError) {
            let response = try PayloadEncoding.protobuf.decode(
                WireFetchResponse.self, from: try answer.get())
            var outcome = FetchOutcome(
                batches: ByteBuffer(bytes: response.recordBatches),
                highWatermark: Offset(response.highWatermark),
                logStartOffset: Offset(response.logStartOffset),
                leaderEpoch: LeaderEpoch(response.leaderEpoch))
            if response.hasLastStableOffset {
                outcome.lastStableOffset = Offset(response.lastStableOffset)
            }
            outcome.aborted = response.abortedTransactions.map {
                AbortedTransaction(
                    producerID: $0.producerID, firstOffset: Offset($0.firstOffset),
                    lastOffset: Offset($0.lastOffset), lastStableOffset: 0)
            }
            return .success(outcome)
        } catch {
            return .failure(error)
        }
    }

    /// - Parameter readableBytes: how much to answer in the readable form; `nil` for the compact one.
    private static func answer(
        _ call: ServerCall, with result: Result<FetchOutcome, RPCError>, readableBytes: Int?,
        from offset: Offset
    ) {
        do throws(RPCError) {
            let outcome = try result.get()
            guard let readableBytes else {
                call.respond(pieces(of: outcome), holding: outcome.share)
                return
            }
            var response = WireFetchResponse()
            response.highWatermark = outcome.highWatermark.rawValue
            response.logStartOffset = outcome.logStartOffset.rawValue
            response.leaderEpoch = outcome.leaderEpoch.rawValue
            if let end = outcome.lastStableOffset { response.lastStableOffset = end.rawValue }
            let next: Offset?
            (response.records, next) = try ReadableRecords.page(
                in: outcome.batches, from: offset, maxBytes: readableBytes,
                leavingOut: outcome.abortedRecords)
            if let next { response.nextOffset = next.rawValue }
            call.respond(response)
        } catch {
            call.fail(error)
        }
    }

    /// A compact `FetchResponse`: a few bytes of head, then the batches as they are.
    static func pieces(of outcome: FetchOutcome) -> [ByteBuffer] {
        var head = ByteBuffer()
        head.reserveCapacity(48)
        head.writeProtobufField(1, varint: outcome.highWatermark.rawValue)
        head.writeProtobufField(2, varint: outcome.logStartOffset.rawValue)
        head.writeProtobufField(3, varint: Int64(outcome.leaderEpoch.rawValue))
        if let end = outcome.lastStableOffset { head.writeProtobufField(5, varint: end.rawValue) }
        for transaction in outcome.aborted {
            var message = ByteBuffer()
            message.writeProtobufField(1, varint: transaction.producerID)
            message.writeProtobufField(2, varint: transaction.firstOffset.rawValue)
            message.writeProtobufField(3, varint: transaction.lastOffset.rawValue)
            head.writeProtobufHead(6, length: message.readableBytes)
            head.writeBuffer(&message)
        }
        guard outcome.batches.readableBytes > 0 else { return [head] }
        head.writeProtobufHead(15, length: outcome.batches.readableBytes)
        return [head, outcome.batches]
    }

    /// How many bytes an answer may hold, from what the request asks for.
    func allowedBytes(_ request: WireFetchRequest) -> Int {
        let limit = metadata.current.fetchMaxBytes(broker: local, default: maxBytes)
        return min(request.maxBytes > 0 ? Int(request.maxBytes) : Self.defaultMaxBytes, limit)
    }
}

extension FetchOutcome {
    /// The records that are not shown.
    var abortedRecords: AbortedRecords {
        var records = AbortedRecords()
        for transaction in aborted {
            records.add(
                producerID: transaction.producerID, from: transaction.firstOffset,
                to: transaction.lastOffset)
        }
        return records
    }
}
