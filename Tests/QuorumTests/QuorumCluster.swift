import Configuration
import Essentials
import Foundation
import Logging
import NIOCore
import NIOPosix
import Quorum
import RPC
import Raft
import Storage
import Synchronization

/// What a listener was told, readable from anywhere; its state is the list of all records.
final class Witness: QuorumListener, Sendable {
    struct Account {
        var records: [String] = []
        var nextOffset: Offset = 0
        var epoch = LeaderEpoch.none
        var timestamp: Int64 = 0
        var isInOrder = true
        var leading: LeaderEpoch?
        var epochsLed: [LeaderEpoch] = []
        var leader: NodeID?
        var leaderEpoch = LeaderEpoch.none
        var epochFell = false
        var voters: [NodeID] = []
        var snapshotsLoaded: [SnapshotID] = []
    }

    private let state = Mutex(Account())
    private let gate = Mutex<DispatchSemaphore?>(nil)

    /// Until when what is read of a snapshot waits; `nil` for not at all.
    var loadGate: DispatchSemaphore? {
        get { gate.withLock { $0 } }
        set { gate.withLock { $0 = newValue } }
    }

    var account: Account { state.withLock { $0 } }

    func committed(_ batch: CommittedBatch) {
        state.withLock { account in
            if batch.baseOffset != account.nextOffset { account.isInOrder = false }
            account.nextOffset = batch.nextOffset
            account.epoch = batch.epoch
            account.timestamp = batch.appendTimestamp
            account.records += batch.records.map { String(decoding: $0, as: UTF8.self) }
        }
    }

    func leaderChanged(_ leader: NodeID?, epoch: LeaderEpoch) {
        state.withLock { account in
            account.leader = leader
            if epoch < account.leaderEpoch { account.epochFell = true }
            account.leaderEpoch = epoch
        }
    }

    func startedLeading(epoch: LeaderEpoch) {
        state.withLock { account in
            account.leading = epoch
            account.epochsLed.append(epoch)
        }
    }

    func stoppedLeading(epoch: LeaderEpoch) {
        state.withLock { $0.leading = nil }
    }

    func votersChanged(_ voters: [Voter]) {
        state.withLock { $0.voters = voters.map(\.id) }
    }

    func snapshot() -> QuorumSnapshotSource? {
        let account = account
        return QuorumSnapshotSource(
            endOffset: account.nextOffset, epoch: account.epoch,
            appendTimestamp: account.timestamp
        ) { write in
            for record in account.records { try write(Array(record.utf8)) }
        }
    }

    func load(_ id: SnapshotID) -> QuorumSnapshotLoader {
        { [self] reader in
            loadGate?.wait()
            var records: [String] = []
            while let record = try reader.next() {
                records.append(String(decoding: record, as: UTF8.self))
            }
            let loaded = records
            return { [self] in
                state.withLock { account in
                    account.records = loaded
                    account.nextOffset = id.endOffset
                    account.epoch = id.epoch
                    account.snapshotsLoaded.append(id)
                }
            }
        }
    }
}

/// One process's part of a quorum: the node, its listener, and its server if it is a controller.
final class Member: Sendable {
    let id: NodeID
    let node: QuorumNode
    let witness: Witness
    let server: RPCServer?
    let failure: Failure

    final class Failure: Sendable {
        let error = Mutex<(any Error)?>(nil)
    }

    init(id: NodeID, node: QuorumNode, witness: Witness, server: RPCServer?, failure: Failure) {
        self.id = id
        self.node = node
        self.witness = witness
        self.server = server
        self.failure = failure
    }

    /// Stops in order.
    func stop() async {
        await node.stop()
        await server?.stop(grace: .zero)
    }

    func propose(_ records: [String]) async throws -> Offset {
        try await node.onLoop { node in
            try node.propose(records.map { Array($0.utf8) }, epoch: node.epoch)
        }
    }

    private func answer<Value: Sendable>(
        _ body:
            @escaping @Sendable (
                QuorumNode, @escaping @Sendable (Result<Value, QuorumError>) -> Void
            ) -> Void
    ) async throws -> Value {
        try await withCheckedContinuation { continuation in
            node.eventLoop.execute { [node] in
                body(node) { continuation.resume(returning: $0) }
            }
        }.get()
    }

    func read() async throws -> Offset {
        try await answer { node, done in node.read(done) }
    }

    func add(
        _ id: NodeID, directory: DirectoryID? = nil, at endpoint: Endpoint,
        within time: TimeAmount = .seconds(30)
    ) async throws -> [NodeID] {
        try await answer { node, done in
            node.addVoter(
                id: id, directory: directory, host: endpoint.host, port: endpoint.port,
                deadline: .now() + time
            ) { done($0.map { $0.map(\.id) }) }
        }
    }

    func removeVoter(
        _ id: NodeID, directory: DirectoryID? = nil, within time: TimeAmount = .seconds(30)
    ) async throws -> [NodeID] {
        try await answer { node, done in
            node.removeVoter(id: id, directory: directory, deadline: .now() + time) {
                done($0.map { $0.map(\.id) })
            }
        }
    }

    func transfer(to id: NodeID?) async throws -> NodeID {
        try await answer { node, done in
            node.transferLeadership(to: id, deadline: .now() + .seconds(30)) {
                done($0.map(\.leader))
            }
        }
    }
}

extension QuorumNode {
    func onLoop<Result: Sendable>(
        _ body: @escaping @Sendable (QuorumNode) throws -> Result
    ) async throws -> Result {
        try await eventLoop.submit { try body(self) }.get()
    }
}

/// Several quorum nodes in this process, over loopback, each in a directory of its own.
///
/// Controllers are 1 to 6; the first `voterCount` are formatted as the initial voters. Brokers are
/// above 100.
final class QuorumCluster: Sendable {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
    let clusterID = "test-cluster-0000000000"
    let root: String
    let endpoints: [NodeID: Endpoint]
    let voters: [NodeID]
    private let directories = Mutex<[NodeID: DirectoryID]>([:])

    init(voterCount: Int, bootstrapRecords: [String] = []) async throws {
        root =
            FileManager.default.temporaryDirectory
            .appending(path: "millrace-quorum-\(UUID().uuidString)").path
        var endpoints: [NodeID: Endpoint] = [:]
        // Held together, so that no port is given twice; free again before anyone serves.
        var channels: [any Channel] = []
        for id in 1...6 {
            let channel = try await ServerBootstrap(group: group)
                .bind(host: "127.0.0.1", port: 0).get()
            channels.append(channel)
            endpoints[NodeID(Int32(id))] = Endpoint(
                host: "127.0.0.1", port: channel.localAddress?.port ?? 0)
        }
        for channel in channels { try await channel.close() }
        self.endpoints = endpoints
        voters = (1...voterCount).map { NodeID(Int32($0)) }
        let set = VoterSet(
            voters.map { id in
                Voter(
                    id: id, directory: directory(of: id), host: endpoint(id).host,
                    port: endpoint(id).port)
            })
        for id in voters {
            try BootstrapSnapshot.write(
                to: path(id), voters: set, records: bootstrapRecords.map { Array($0.utf8) })
        }
    }

    func remove() async {
        try? FileManager.default.removeItem(atPath: root)
        try? await group.shutdownGracefully()
    }

    func path(_ id: NodeID) -> String { "\(root)/\(id)" }
    func logPath(_ id: NodeID) -> String { "\(path(id))/__cluster_metadata-0" }

    func endpoint(_ id: NodeID) -> Endpoint {
        endpoints[id] ?? Endpoint(host: "127.0.0.1", port: 1)
    }

    func directory(of id: NodeID) -> DirectoryID {
        directories.withLock { directories in
            let known = directories[id] ?? DirectoryID.random()
            directories[id] = known
            return known
        }
    }

    /// A new, empty disk takes the place of the old one.
    func wipe(_ id: NodeID) throws {
        try FileManager.default.removeItem(atPath: path(id))
        directories.withLock { $0[id] = nil }
    }

    func start(
        _ id: NodeID, clusterID: String? = nil, fileSystem: any FileSystem = .local,
        listener: Endpoint? = nil, witness: Witness = Witness(),
        change: (inout QuorumOptions) -> Void = { _ in }
    ) async throws -> Member {
        let isController = endpoints[id] != nil
        let listener = listener ?? endpoint(id)
        var options = QuorumOptions(
            clusterID: clusterID ?? self.clusterID, local: id, directory: directory(of: id),
            isController: isController,
            bootstrapServers: ([1, 2, 3] as [NodeID]).map { endpoint($0) },
            listener: isController ? listener : nil, directoryPath: path(id))
        options.electionTimeout = .milliseconds(300)
        options.fetchTimeout = .milliseconds(800)
        change(&options)
        var logger = Logger(label: "quorum \(id)") { _ in SwiftLogNoOpLogHandler() }
        if ProcessInfo.processInfo.environment["QUORUM_LOG"] != nil {
            logger = Logger(label: "quorum \(id)")
            logger.logLevel = .debug
        }
        let node = QuorumNode(
            options: options, listener: witness, eventLoop: group.next(), fileSystem: fileSystem,
            logger: logger)
        let failure = Member.Failure()
        try await node.onLoop { node in
            node.onFailure = { error in failure.error.withLock { $0 = error } }
            try node.start()
        }
        let server = isController ? try await serve(node, id, at: listener) : nil
        return Member(id: id, node: node, witness: witness, server: server, failure: failure)
    }

    /// Has a controller's node answer others.
    func serve(
        _ node: QuorumNode, _ id: NodeID, at listener: Endpoint? = nil
    ) async throws -> RPCServer {
        let listener = listener ?? endpoint(id)
        var router = Router()
        node.register(in: &router)
        return try await RPCServer.start(
            host: listener.host, port: listener.port, router: router, group: group,
            logger: Logger(label: "server \(id)") { _ in SwiftLogNoOpLogHandler() })
    }

    /// The member that leads, once there is one that all of these follow.
    func leader(of members: [Member]) async throws -> Member {
        try await eventually("a leader of \(members.map(\.id))") {
            let accounts = members.map(\.witness.account)
            guard let leader = accounts.first?.leader, accounts.allSatisfy({ $0.leader == leader })
            else { return nil }
            return members.first { $0.id == leader && $0.witness.account.leading != nil }
        }
    }
}

struct Unmet: Error, CustomStringConvertible {
    var description: String
}

/// Waits until `condition` gives something; only a hang makes it fail.
@discardableResult
func eventually<Result>(
    _ what: String, _ condition: () async throws -> Result?
) async throws -> Result {
    let clock = ContinuousClock()
    let deadline = clock.now + .seconds(60)
    while clock.now < deadline {
        if let result = try await condition() { return result }
        try await Task.sleep(for: .milliseconds(5))
    }
    throw Unmet(description: "waited in vain for \(what)")
}
