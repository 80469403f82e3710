internal import Essentials
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC
internal import Records

/// `millrace.v1.Broker/Produce`: appends record batches, or readable records, to partitions.
///
/// Batches go to the partition's leader only, and their bytes are not touched on the way to it.
/// Readable records are made into batches here and passed on to wherever their partition is led.
struct ProduceService: Sendable {
    static let path = "/millrace.v1.Broker/Produce"
    static let defaultTimeout = Duration.seconds(30)

    let local: NodeID
    let metadata: BrokerMetadata
    let replicas: ReplicaManager
    let peers: BrokerPeers
    let partitioner: StickyPartitioner

    func register(in router: inout Router) {
        router.register(Self.path) { handle($0) }
    }

    private func handle(_ call: ServerCall) {
        do throws(RPCError) {
            if call.encoding == .protobuf, let view = ProduceRequestView(call.request) {
                try append(view, for: call)
                return
            }
            let request = try call.decode(WireProduceRequest.self)
            guard request.recordBatches.isEmpty else {
                guard request.records.isEmpty else {
                    throw RPCError(
                        .invalidRequest, "a request holds `records` or `record_batches`, not both")
                }
                try append(ProduceRequestView(request), for: call)
                return
            }
            try append(request, for: call)
        } catch {
            call.fail(error)
        }
    }

    /// The compact form: the caller has to know the leader, and hears of it when it does not.
    private func append(_ request: ProduceRequestView, for call: ServerCall) throws(RPCError) {
        guard let partition = request.partition else {
            throw RPCError(.invalidRequest, "`record_batches` need a `partition`")
        }
        let image = metadata.current
        let route = try PartitionRoute.find(
            topic: request.topic, partition: partition, image: image, local: local,
            replicas: replicas)
        guard case .here(let replica) = route else {
            guard case .elsewhere(let leader) = route else { return }
            throw PartitionRoute.notLeader(
                topic: request.topic, partition: partition, leader: leader, image: image)
        }
        let acks = request.acks
        let batches = request.recordBatches
        let timeout = Self.timeout(request.timeoutMilliseconds)
        let bound = NIOLoopBound(call, eventLoop: call.eventLoop)
        replica.eventLoop.runNow {
            replica.produce(batches, acks: acks, timeout: timeout) { result in
                bound.eventLoop.runNow {
                    let call = bound.value
                    switch result {
                    case .success(let outcome):
                        call.respond(
                            Self.response([Self.result(partition, outcome, acks: acks)]))
                    case .failure(let error):
                        call.fail(error)
                    }
                }
            }
        }
    }

    /// The readable form: one batch a partition, wherever that partition is led.
    private func append(_ request: WireProduceRequest, for call: ServerCall) throws(RPCError) {
        let image = metadata.current
        let groups = try ReadableRecords.batches(
            of: request, image: image, partitioner: partitioner)
        let gather = ProduceGather(count: groups.count, call: call)
        for group in groups {
            appendAnywhere(
                group, of: request, image: image,
                isForwarded: call.header("millrace-forwarded") != nil, eventLoop: call.eventLoop
            ) { gather.add($0, partition: group.partition, acks: request.acks) }
        }
    }

    private func appendAnywhere(
        _ group: ReadableRecords.Group, of request: WireProduceRequest, image: MetadataImage,
        isForwarded: Bool, eventLoop: any EventLoop,
        completion: @escaping (Result<ProduceOutcome, RPCError>) -> Void
    ) {
        let bound = NIOLoopBound(completion, eventLoop: eventLoop)
        let acks = request.acks
        let timeout = Self.timeout(request.timeoutMs)
        let route: PartitionRoute
        do throws(RPCError) {
            route = try PartitionRoute.find(
                topic: request.topic, partition: group.partition, image: image, local: local,
                replicas: replicas)
        } catch {
            completion(.failure(error))
            return
        }
        switch route {
        case .here(let replica):
            let batch = group.batch
            replica.eventLoop.runNow {
                replica.produce(batch, acks: acks, timeout: timeout) { result in
                    bound.eventLoop.runNow { bound.value(result) }
                }
            }
        case .elsewhere(let leader):
            guard !isForwarded, let peer = peers.client(for: leader, in: image) else {
                completion(
                    .failure(
                        PartitionRoute.notLeader(
                            topic: request.topic, partition: group.partition, leader: leader,
                            image: image)))
                return
            }
            let count = group.count
            peer.unary(
                Self.path, Self.compactRequest(group, of: request),
                headers: [("millrace-forwarded", "1")], timeout: timeout + .seconds(1)
            ) { result in
                let outcome = Self.outcome(of: result, count: count)
                bound.eventLoop.runNow { bound.value(outcome) }
            }
        }
    }

    private static func compactRequest(
        _ group: ReadableRecords.Group, of request: WireProduceRequest
    ) -> [ByteBuffer] {
        var head = ByteBuffer()
        head.writeProtobufHead(1, length: request.topic.utf8.count)
        head.writeString(request.topic)
        head.writeProtobufField(2, varint: Int64(group.partition))
        head.writeProtobufField(3, varint: Int64(request.acks.rawValue))
        head.writeProtobufField(4, varint: Int64(request.timeoutMs))
        head.writeProtobufHead(15, length: group.batch.readableBytes)
        return [head, group.batch]
    }

    private static func outcome(
        of answer: Result<ByteBuffer, RPCError>, count: Int
    ) -> Result<ProduceOutcome, RPCError> {
        do throws(RPCError) {
            let response = try PayloadEncoding.protobuf.decode(
                WireProduceResponse.self, from: try answer.get())
            guard let result = response.results.first else {
                throw RPCError(.unknownServerError, "the leader's answer is empty")
            }
            return .success(
                ProduceOutcome(
                    baseOffset: result.hasBaseOffset ? Offset(result.baseOffset) : Offset(-1),
                    count: count, appendTime: result.hasTimestamp ? result.timestamp : nil))
        } catch {
            return .failure(error)
        }
    }

    private static func timeout(_ milliseconds: Int32) -> Duration {
        milliseconds > 0 ? .milliseconds(milliseconds) : defaultTimeout
    }

    static func result(
        _ partition: Int32, _ outcome: ProduceOutcome, acks: WireAcks
    ) -> WireProduceResult {
        var result = WireProduceResult()
        result.partition = partition
        if acks != .none { result.baseOffset = outcome.baseOffset.rawValue }
        if let time = outcome.appendTime { result.timestamp = time }
        result.count = Int32(outcome.count)
        return result
    }

    static func response(_ results: [WireProduceResult]) -> WireProduceResponse {
        var response = WireProduceResponse()
        response.results = results
        return response
    }
}

/// Collects the answers of one readable produce request that went to several partitions.
///
/// Lives on the call's event loop.
private final class ProduceGather {
    private let call: ServerCall
    private var missing: Int
    private var results: [WireProduceResult] = []
    private var errors: [RPCError] = []

    init(count: Int, call: ServerCall) {
        self.call = call
        missing = count
    }

    func add(
        _ result: Result<ProduceOutcome, RPCError>, partition: Int32, acks: WireAcks
    ) {
        switch result {
        case .success(let outcome):
            results.append(ProduceService.result(partition, outcome, acks: acks))
        case .failure(let error):
            var failed = WireProduceResult()
            failed.partition = partition
            failed.error = (error.code ?? .unknownServerError).name
            failed.message = error.message
            results.append(failed)
            errors.append(error)
        }
        missing -= 1
        guard missing == 0 else { return }
        if let error = errors.first, errors.count == results.count {
            // Nothing was written: the call as a whole has failed.
            call.fail(error)
        } else {
            call.respond(ProduceService.response(results.sorted { $0.partition < $1.partition }))
        }
    }
}
