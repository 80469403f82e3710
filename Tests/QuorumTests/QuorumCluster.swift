import Essentials
import Foundation
import Logging
import NIOCore
import NIOPosix
import Quorum
import RPC
import Storage
import Synchronization

/// What a listener was told, readable from anywhere.
final class Witness: QuorumListener, Sendable {
    struct Account {
        var records: [String] = []
        var nextOffset: Offset = 0
        var isInOrder = true
        var leading: LeaderEpoch?
        var epochsLed: [LeaderEpoch] = []
        var leader: NodeID?
    }

    private let state = Mutex(Account())

    var account: Account { state.withLock { $0 } }

    func committed(_ batch: CommittedBatch) {
        state.withLock { account in
            if batch.baseOffset != account.nextOffset { account.isInOrder = false }
            account.nextOffset = batch.nextOffset
            account.records += batch.records.map { String(decoding: $0, as: UTF8.self) }
        }
    }

    func leaderChanged(_ leader: NodeID?, epoch: LeaderEpoch) {
        state.withLock { $0.leader = leader }
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
}

/// One process's part of a quorum: the node, its listener, and its server if it is a voter.
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
}

extension QuorumNode {
    func onLoop<Result: Sendable>(
        _ body: @escaping @Sendable (QuorumNode) throws -> Result
    ) async throws -> Result {
        try await eventLoop.submit { try body(self) }.get()
    }
}

/// Several quorum nodes in this process, over loopback, each in a directory of its own.
final class QuorumCluster: Sendable {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
    let clusterID = "test-cluster-0000000000"
    let root: String
    let voters: [QuorumVoter]
    private let directories = Mutex<[NodeID: DirectoryID]>([:])

    init(voterCount: Int) async throws {
        root =
            FileManager.default.temporaryDirectory
            .appending(path: "millrace-quorum-\(UUID().uuidString)").path
        var voters: [QuorumVoter] = []
        // Held together, so that no port is given twice; free again before anyone serves.
        var channels: [any Channel] = []
        for id in 1...voterCount {
            let channel = try await ServerBootstrap(group: group)
                .bind(host: "127.0.0.1", port: 0).get()
            channels.append(channel)
            voters.append(
                QuorumVoter(
                    id: NodeID(Int32(id)), host: "127.0.0.1",
                    port: channel.localAddress?.port ?? 0))
        }
        for channel in channels { try await channel.close() }
        self.voters = voters
    }

    func remove() async {
        try? FileManager.default.removeItem(atPath: root)
        try? await group.shutdownGracefully()
    }

    func path(_ id: NodeID) -> String { "\(root)/\(id)" }

    func start(
        _ id: NodeID, clusterID: String? = nil, fileSystem: any FileSystem = .local
    ) async throws -> Member {
        let directory = directories.withLock { directories in
            let known = directories[id] ?? DirectoryID.random()
            directories[id] = known
            return known
        }
        var options = QuorumOptions(
            clusterID: clusterID ?? self.clusterID, local: id, directory: directory,
            voters: voters, directoryPath: path(id))
        options.electionTimeout = .milliseconds(300)
        options.fetchTimeout = .milliseconds(800)
        var logger = Logger(label: "quorum \(id)") { _ in SwiftLogNoOpLogHandler() }
        if ProcessInfo.processInfo.environment["QUORUM_LOG"] != nil {
            logger = Logger(label: "quorum \(id)")
            logger.logLevel = .debug
        }
        let witness = Witness()
        let node = QuorumNode(
            options: options, listener: witness, eventLoop: group.next(), fileSystem: fileSystem,
            logger: logger)
        let failure = Member.Failure()
        try await node.onLoop { node in
            node.onFailure = { error in failure.error.withLock { $0 = error } }
            try node.start()
        }
        var server: RPCServer?
        if let voter = voters.first(where: { $0.id == id }) {
            var router = Router()
            node.register(in: &router)
            server = try await RPCServer.start(
                host: voter.host, port: voter.port, router: router, group: group, logger: logger)
        }
        return Member(id: id, node: node, witness: witness, server: server, failure: failure)
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
