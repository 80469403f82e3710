internal import Essentials
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import Protocol
internal import RPC
internal import SwiftProtobuf
internal import Synchronization
internal import Testing

@testable internal import Millrace

@Suite(.timeLimit(.minutes(1))) struct AdminTests {
    private let address = BrokerAddress(host: "c4", port: 9093)

    @Test func aVoterIsAddedWithItsAddressAndDirectory() async throws {
        try await FakeNode.with { node, admin in
            node.answer("Quorum/AddVoter") { (_: WireAddVoterRequest) in
                var answer = WireAddVoterResponse()
                answer.voters = [.voter(4)]
                return .success(answer)
            }
            let voters = try await admin.addVoter(4, at: address, directoryID: "d")
            #expect(voters.map(\.id) == [4])
            let request: WireAddVoterRequest = try node.request()
            #expect(request.id == 4 && request.host == "c4" && request.port == 9093)
            #expect(request.directoryID == "d")
        }
    }

    @Test func addingAVoterIsRepeatedUntilItIsKnownToBeOne() async throws {
        try await FakeNode.with { node, admin in
            let attempts = Atomic<Int>(0)
            node.answer("Quorum/AddVoter") { (_: WireAddVoterRequest) in
                let attempt = attempts.add(1, ordering: .relaxed).newValue
                let error =
                    attempt == 1
                    ? RPCError(status: .unavailable, "the answer is lost")
                    : RPCError(.duplicateVoter, "4 is a voter")
                return Result<WireAddVoterResponse, RPCError>.failure(error)
            }
            node.answer("Quorum/DescribeQuorum") { (_: WireDescribeQuorumRequest) in
                var answer = WireDescribeQuorumResponse()
                answer.voters = [.voter(4)]
                return .success(answer)
            }
            let voters = try await admin.addVoter(4, at: address)
            #expect(voters.map(\.id) == [4])
            #expect(attempts.load(ordering: .relaxed) == 2)
        }
    }

    @Test func addingAVoterThatIsOneAlreadyIsAnError() async throws {
        try await FakeNode.with { node, admin in
            node.answer("Quorum/AddVoter") { (_: WireAddVoterRequest) in
                Result<WireAddVoterResponse, RPCError>.failure(
                    RPCError(.duplicateVoter, "4 is a voter"))
            }
            await #expect(throws: MillraceError.self) {
                try await admin.addVoter(4, at: address)
            }
        }
    }

    @Test func removingAVoterWhoseAnswerWasLostIsDone() async throws {
        try await FakeNode.with { node, admin in
            let attempts = Atomic<Int>(0)
            node.answer("Quorum/RemoveVoter") { (_: WireRemoveVoterRequest) in
                let attempt = attempts.add(1, ordering: .relaxed).newValue
                let error =
                    attempt == 1
                    ? RPCError(status: .unavailable, "the answer is lost")
                    : RPCError(.voterNotFound, "no such voter")
                return Result<WireRemoveVoterResponse, RPCError>.failure(error)
            }
            node.answer("Quorum/DescribeQuorum") { (_: WireDescribeQuorumRequest) in
                var answer = WireDescribeQuorumResponse()
                answer.voters = [.voter(1)]
                return .success(answer)
            }
            let voters = try await admin.removeVoter(4)
            #expect(voters.map(\.id) == [1])
        }
    }

    @Test func aTransferWithoutATargetGoesToOneVoterHoweverOftenItIsRepeated() async throws {
        try await FakeNode.with { node, admin in
            let attempts = Atomic<Int>(0)
            node.answer("Quorum/DescribeQuorum") { (_: WireDescribeQuorumRequest) in
                var answer = WireDescribeQuorumResponse()
                answer.leaderID = 1
                let ends: [(Int32, Int64)] = [(1, 9), (2, 7), (3, 9), (4, 9)]
                answer.voters = ends.map { id, end in
                    var voter = WireQuorumReplica.voter(id)
                    voter.logEndOffset = end
                    if id != 4 { voter.lag = 9 - end }
                    return voter
                }
                return .success(answer)
            }
            node.answer("Quorum/TransferLeadership") {
                (request: WireTransferLeadershipRequest)
                    -> Result<WireTransferLeadershipResponse, RPCError> in
                guard attempts.add(1, ordering: .relaxed).newValue > 1 else {
                    return .failure(RPCError(status: .unavailable, "the answer is lost"))
                }
                var answer = WireTransferLeadershipResponse()
                answer.leaderID = request.to
                answer.leaderEpoch = 5
                return .success(answer)
            }
            let leader = try await admin.transferLeadership()
            #expect(leader == QuorumLeader(id: 3, epoch: 5))
            #expect(attempts.load(ordering: .relaxed) == 2)
        }
    }

    @Test func configChangesSayWhoseAndWhat() async throws {
        try await FakeNode.with { node, admin in
            node.answer("Admin/AlterConfigs") { (_: WireAlterConfigsRequest) in
                .success(WireAlterConfigsResponse())
            }
            try await admin.alterConfigs(
                of: .broker(3),
                [
                    ConfigAlteration("a", .set("1")), ConfigAlteration("b", .delete),
                    ConfigAlteration("c", .append("x")), ConfigAlteration("d", .subtract("y")),
                ], validateOnly: true)
            let request: WireAlterConfigsRequest = try node.request()
            #expect(request.resourceType == .broker && request.resourceName == "3")
            #expect(request.validateOnly)
            #expect(request.changes.map(\.name) == ["a", "b", "c", "d"])
            #expect(request.changes.map(\.operation) == [.set, .delete, .append, .subtract])
            #expect(request.changes.map(\.value) == ["1", "", "x", "y"])
        }
    }

    @Test func metadataIsAListOfNamesOrAValue() async throws {
        try await FakeNode.with { node, admin in
            node.answer("Quorum/ShowMetadata") { (request: WireShowMetadataRequest) in
                var answer = WireShowMetadataResponse()
                answer.path = request.path
                answer.offset = 7
                if request.path == "/" { answer.entries = ["brokers"] } else { answer.value = "1" }
                return .success(answer)
            }
            let root = try await admin.showMetadata()
            #expect(root == MetadataEntry(path: "/", content: .directory(["brokers"]), offset: 7))
            let value = try await admin.showMetadata(at: "/x")
            #expect(value.content == .value("1"))
        }
    }

    @Test func aFeatureThatNotEveryNodeWasHeardOfHasNoSupportedLevels() async throws {
        try await FakeNode.with { node, admin in
            node.answer("Admin/DescribeFeatures") { (_: WireDescribeFeaturesRequest) in
                var known = WireFeatureDescription()
                known.name = "b"
                known.finalizedLevel = 1
                known.minSupportedLevel = 1
                known.maxSupportedLevel = 2
                var unknown = WireFeatureDescription()
                unknown.name = "a"
                var nothingInCommon = known
                nothingInCommon.name = "c"
                nothingInCommon.minSupportedLevel = 3
                var answer = WireDescribeFeaturesResponse()
                answer.features = [known, unknown, nothingInCommon]
                return .success(answer)
            }
            let features = try await admin.describeFeatures()
            #expect(features.map(\.name) == ["a", "b", "c"])
            #expect(features.map(\.supportedLevels) == [nil, 1...2, nil])
            #expect(features.map(\.finalizedLevel) == [nil, 1, 1])
        }
    }

    @Test func theQuorumIsDescribedWithItsLogAndSnapshotIfTheyAreTold() async throws {
        try await FakeNode.with { node, admin in
            node.answer("Quorum/DescribeQuorum") { (_: WireDescribeQuorumRequest) in
                var answer = WireDescribeQuorumResponse()
                answer.leaderID = 4
                answer.logStartOffset = 10
                answer.logEndOffset = 20
                answer.snapshot.endOffset = 15
                answer.snapshot.epoch = 2
                return .success(answer)
            }
            let quorum = try await admin.describeQuorum()
            #expect(quorum.logStartOffset == 10 && quorum.logEndOffset == 20)
            #expect(
                quorum.snapshot == SnapshotDescription(endOffset: 15, epoch: 2, sizeBytes: nil))
        }
    }
}

/// One node that answers as a test says, and keeps what it was asked last.
private final class FakeNode: Sendable {
    private typealias Handler = @Sendable (ServerCall) -> Void
    private let handlers = Mutex<[String: Handler]>([:])
    private let last = Mutex<(any Message & Sendable)?>(nil)

    static func with(_ body: (FakeNode, Admin) async throws -> Void) async throws {
        let node = FakeNode()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        var router = Router()
        for method in [
            "Quorum/AddVoter", "Quorum/RemoveVoter", "Quorum/TransferLeadership",
            "Quorum/DescribeQuorum", "Quorum/ShowMetadata", "Admin/AlterConfigs",
            "Admin/DescribeFeatures",
        ] {
            router.register("/millrace.v1." + method) { call in
                node.handlers.withLock { $0[method] }?(call)
            }
        }
        let server = try await RPCServer.start(
            host: "127.0.0.1", port: 0, router: router, group: group,
            logger: Logger(label: "fake") { _ in SwiftLogNoOpLogHandler() })
        let client = try MillraceClient(bootstrap: "127.0.0.1:\(server.port)")
        let result: Result<Void, any Error>
        do {
            result = .success(try await body(node, Admin(client: client)))
        } catch {
            result = .failure(error)
        }
        await client.close()
        await server.stop(grace: .zero)
        try await group.shutdownGracefully()
        try result.get()
    }

    func answer<Request: Message & Sendable, Answer: Message & Sendable>(
        _ method: String, _ body: @escaping @Sendable (Request) -> Result<Answer, RPCError>
    ) {
        handlers.withLock { handlers in
            handlers[method] = { call in
                guard let request = try? call.decode(Request.self) else { return }
                self.last.withLock { $0 = request }
                switch body(request) {
                case .success(let answer): call.respond(answer)
                case .failure(let error): call.fail(error)
                }
            }
        }
    }

    func request<Request: Message>() throws -> Request {
        try #require(last.withLock { $0 } as? Request)
    }
}

extension WireQuorumReplica {
    fileprivate static func voter(_ id: Int32) -> WireQuorumReplica {
        var voter = WireQuorumReplica()
        voter.id = id
        voter.host = "c4"
        voter.port = 9093
        return voter
    }
}
