internal import Essentials
internal import FoundationEssentials
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import Protocol
internal import RPC
internal import Records
internal import Synchronization

@testable internal import Millrace

/// Brokers in this process that share one log a partition, and fail when told to.
final class FakeCluster: Sendable {
    /// What happens to one produce or fetch instead of success.
    enum Fault: Sendable {
        case refuse(RPCError)
        /// The records are appended, and the caller is told of a failure.
        case appendThenRefuse(RPCError)
        /// No answer at all.
        case silence
    }

    struct Partition: Sendable {
        var leader: NodeID?
        var epoch: LeaderEpoch = 0
        /// Batches with their offsets stamped.
        var batches: [ByteBuffer] = []
        var end: Offset = 0
    }

    struct State: Sendable {
        var topic = "t"
        var partitions: [Partition] = []
        /// Taken one after another by the produce requests that come in, then none.
        var produceFaults: [Fault] = []
        var fetchFaults: [Fault] = []
        /// Runs after each produce request, so that a test can change the cluster at that point.
        var afterProduce: (@Sendable (inout State) -> Void)?
        /// Of each produce request: who got it, and how many bytes of batches.
        var produces: [(broker: NodeID, bytes: Int)] = []
        var largestBatch = Int.max
    }

    let state: Mutex<State>
    private let servers = Mutex<[NodeID: RPCServer]>([:])
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let ports = Mutex<[NodeID: Int]>([:])

    private init(partitions: Int) {
        var state = State()
        state.partitions = (0..<partitions).map { _ in Partition(leader: 1) }
        self.state = Mutex(state)
    }

    /// Runs `body` with a cluster of brokers 1 to `brokers`, all partitions led by broker 1.
    static func with(
        brokers: Int32 = 2, partitions: Int = 1,
        _ body: (FakeCluster, MillraceClient) async throws -> Void
    ) async throws {
        let cluster = FakeCluster(partitions: partitions)
        for id in 1...brokers { try await cluster.start(NodeID(id)) }
        let list = cluster.ports.withLock { ports in
            ports.values.sorted().map { BrokerAddress(host: "127.0.0.1", port: $0) }
        }
        let client = MillraceClient(configuration: .init(bootstrap: list))
        let result: Result<Void, any Error>
        do {
            result = .success(try await body(cluster, client))
        } catch {
            result = .failure(error)
        }
        await client.close()
        for server in cluster.servers.withLock({ Array($0.values) }) {
            await server.stop(grace: .zero)
        }
        try await cluster.group.shutdownGracefully()
        try result.get()
    }

    private func start(_ id: NodeID) async throws {
        var router = Router()
        router.register("/millrace.v1.Broker/Metadata") { self.metadata($0) }
        router.register("/millrace.v1.Broker/Produce") { self.produce($0, at: id) }
        router.register("/millrace.v1.Broker/Fetch") { self.fetch($0, at: id) }
        router.register("/millrace.v1.Broker/ListOffsets") { self.listOffsets($0, at: id) }
        let port = ports.withLock { $0[id] } ?? 0
        let server = try await RPCServer.start(
            host: "127.0.0.1", port: port, router: router, group: group,
            logger: Logger(label: "fake") { _ in SwiftLogNoOpLogHandler() })
        servers.withLock { $0[id] = server }
        ports.withLock { $0[id] = server.port }
    }

    /// Breaks the broker's connections and stops listening.
    func kill(_ id: NodeID) async {
        await servers.withLock { $0.removeValue(forKey: id) }?.stop(grace: .zero)
    }

    func moveLeader(of partition: Int = 0, to broker: NodeID?) {
        state.withLock { $0.partitions[partition].move(to: broker) }
    }

    /// Every record's value, by partition, in the order of the log.
    func values(of partition: Int = 0) throws -> [String] {
        let batches = state.withLock { $0.partitions[partition].batches }
        var values: [String] = []
        for batch in batches {
            var reader = RecordReader(batch)
            while let record = try reader.next() {
                values.append(record.value.map { String(buffer: $0) } ?? "")
            }
        }
        return values
    }

    // MARK: Services

    private func metadata(_ call: ServerCall) {
        let (request, ports) = (try? call.decode(WireMetadataRequest.self), ports.withLock { $0 })
        let answer = state.withLock { state in
            var answer = WireMetadataResponse()
            answer.clusterID = "fake"
            answer.brokers = ports.keys.sorted().map { id in
                var broker = WireBrokerNode()
                broker.id = id.rawValue
                broker.host = "127.0.0.1"
                broker.port = Int32(ports[id] ?? 0)
                return broker
            }
            for name in request?.topics ?? [] {
                var topic = WireMetadataResponse.describing(
                    name,
                    leaders: state.partitions.map { ($0.leader?.rawValue, $0.epoch.rawValue) }
                ).topics
                if name != state.topic {
                    topic[0].partitions = []
                    topic[0].error = "UNKNOWN_TOPIC_OR_PARTITION"
                }
                answer.topics += topic
            }
            return answer
        }
        call.respond(answer)
    }

    private func produce(_ call: ServerCall, at broker: NodeID) {
        guard let request = try? call.decode(WireProduceRequest.self) else { return }
        let batches = ByteBuffer(bytes: request.recordBatches)
        let outcome = state.withLock { state -> Result<WireProduceResponse, RPCError>? in
            defer { state.afterProduce?(&state) }
            state.produces.append((broker, batches.readableBytes))
            let index = Int(request.partition)
            guard state.partitions[index].leader == broker else {
                return .failure(RPCError(.notLeaderOrFollower, "ask another"))
            }
            let fault = state.produceFaults.isEmpty ? nil : state.produceFaults.removeFirst()
            if case .refuse(let error) = fault { return .failure(error) }
            guard let headers = try? RecordBatches.headers(of: batches) else {
                return .failure(RPCError(.corruptMessage, "not batches"))
            }
            if headers.contains(where: { $0.totalSize > state.largestBatch }) {
                return .failure(RPCError(.messageTooLarge, "a batch is too large"))
            }
            if case .silence = fault { return nil }
            let base = state.partitions[index].append(batches, headers)
            if case .appendThenRefuse(let error) = fault { return .failure(error) }
            var result = WireProduceResult()
            result.partition = request.partition
            result.baseOffset = base.rawValue
            var answer = WireProduceResponse()
            answer.results = [result]
            return .success(answer)
        }
        switch outcome {
        case .success(let answer): call.respond(answer)
        case .failure(let error): call.fail(error)
        case nil: break
        }
    }

    private func fetch(_ call: ServerCall, at broker: NodeID) {
        guard let request = try? call.decode(WireFetchRequest.self) else { return }
        let outcome = state.withLock { state -> Result<WireFetchResponse, RPCError>? in
            let partition = state.partitions[Int(request.partition)]
            guard partition.leader == broker else {
                return .failure(RPCError(.notLeaderOrFollower, "ask another"))
            }
            if !state.fetchFaults.isEmpty {
                switch state.fetchFaults.removeFirst() {
                case .refuse(let error), .appendThenRefuse(let error): return .failure(error)
                case .silence: return nil
                }
            }
            return partition.read(from: Offset(request.offset), maxBytes: Int(request.maxBytes))
        }
        switch outcome {
        case .success(let answer) where answer.recordBatches.isEmpty:
            // As a broker does, wait a little before saying that there is nothing.
            call.eventLoop.scheduleTask(in: .milliseconds(2)) { call.respond(answer) }
        case .success(let answer): call.respond(answer)
        case .failure(let error): call.fail(error)
        case nil: break
        }
    }

    private func listOffsets(_ call: ServerCall, at broker: NodeID) {
        guard let request = try? call.decode(WireListOffsetsRequest.self) else { return }
        let partition = state.withLock { $0.partitions[Int(request.partition)] }
        guard partition.leader == broker else {
            return call.fail(RPCError(.notLeaderOrFollower, "ask another"))
        }
        var answer = WireListOffsetsResponse()
        answer.offset = request.earliest ? 0 : partition.end.rawValue
        call.respond(answer)
    }
}

extension FakeCluster.Partition {
    mutating func move(to broker: NodeID?) {
        leader = broker
        epoch = epoch.next
    }

    mutating func append(_ buffer: ByteBuffer, _ headers: [RecordBatchHeader]) -> Offset {
        var rest = buffer
        let base = end
        for header in headers {
            guard var batch = rest.readSlice(length: header.totalSize) else { break }
            RecordBatchHeader.stamp(
                &batch, at: batch.readerIndex, baseOffset: end, leaderEpoch: epoch)
            batches.append(batch)
            end += Int64(header.recordCount)
        }
        return base
    }

    func read(from offset: Offset, maxBytes: Int) -> Result<WireFetchResponse, RPCError> {
        guard offset >= 0, offset <= end else {
            return .failure(RPCError(.offsetOutOfRange, "\(offset) is not in 0 ... \(end)"))
        }
        var answer = WireFetchResponse()
        answer.highWatermark = end.rawValue
        answer.leaderEpoch = epoch.rawValue
        var bytes: [UInt8] = []
        for batch in batches where bytes.count < maxBytes {
            guard let header = try? RecordBatchHeader(batch, at: batch.readerIndex),
                header.nextOffset > offset
            else { continue }
            bytes += Array(batch.readableBytesView)
        }
        answer.recordBatches = .init(bytes)
        return .success(answer)
    }
}
