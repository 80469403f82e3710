import Configuration
import Essentials
import Foundation
import Protocol
import RPC
import SwiftProtobuf
import Testing

/// `millrace.v1.Quorum`, over the wire.
@Suite(.serialized) struct QuorumServiceTests {
    private func code(_ body: () async throws -> some Any) async -> ErrorCode? {
        do {
            _ = try await body()
            return nil
        } catch {
            return (error as? RPCError)?.code
        }
    }

    private func describe(
        _ cluster: TestControllers, at id: NodeID
    ) async throws -> WireDescribeQuorumResponse {
        try await cluster.admin("Quorum/DescribeQuorum", WireDescribeQuorumRequest(), at: id)
    }

    private func add(
        _ cluster: TestControllers, _ id: NodeID, directory: String = "", port: Int? = nil,
        at node: NodeID = 101, timeout: Duration = .seconds(30)
    ) async throws -> [Int32] {
        var request = WireAddVoterRequest()
        request.id = id.rawValue
        request.directoryID = directory
        request.host = "127.0.0.1"
        let known = cluster.joining.first { $0.id == id }?.endpoint.port
        request.port = Int32(port ?? known ?? 1)
        let answer: WireAddVoterResponse = try await cluster.admin(
            "Quorum/AddVoter", request, at: node, timeout: timeout)
        return answer.voters.map(\.id)
    }

    private func remove(
        _ cluster: TestControllers, _ id: NodeID, directory: String = ""
    ) async throws -> [Int32] {
        var request = WireRemoveVoterRequest()
        request.id = id.rawValue
        request.directoryID = directory
        let answer: WireRemoveVoterResponse = try await cluster.admin(
            "Quorum/RemoveVoter", request, at: 101)
        return answer.voters.map(\.id)
    }

    @Test("R15: a controller that joined is made a voter, and an observer again")
    func votersComeAndGo() async throws {
        try await TestControllers.run(1, joining: 1) { cluster in
            try await cluster.start(102)
            #expect(try await add(cluster, 102) == [101, 102])
            let described = try await describe(cluster, at: 102)
            #expect(described.voters.map(\.id) == [101, 102])
            #expect(
                described.voters.last?.directoryID == cluster.directoryIDs[102]?.description)
            // A call whose answer was lost may be made again.
            #expect(try await add(cluster, 102) == [101, 102])
            #expect(await code { try await add(cluster, 102, port: 1) } == .duplicateVoter)
            // The node that is a voter now answers for the quorum, too.
            #expect(try await cluster.active(asking: 102) == 101)

            let other = DirectoryID.random().description
            #expect(
                await code { try await remove(cluster, 102, directory: other) } == .voterNotFound)
            #expect(try await remove(cluster, 102) == [101])
            #expect(try await describe(cluster, at: 101).voters.map(\.id) == [101])
            #expect(await code { try await remove(cluster, 102) } == .voterNotFound)
            #expect(await code { try await remove(cluster, 101) } == .invalidRequest)
        }
    }

    @Test func controllersThatCannotVoteAreRefused() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            #expect(await code { try await add(cluster, 1) } == .invalidRequest)
            #expect(
                await code { try await add(cluster, 102, timeout: .seconds(1)) } == .voterNotFound)
            #expect(await code { try await add(cluster, 102, port: 0) } == .invalidRequest)
            #expect(
                await code { try await add(cluster, 102, directory: "nonsense") }
                    == .invalidRequest)
            #expect(
                await code {
                    let _: WireAddVoterResponse = try await cluster.admin(
                        "Quorum/AddVoter", WireAddVoterRequest(), at: 101)
                } == .invalidRequest)
            #expect(
                await code {
                    let _: WireRemoveVoterResponse = try await cluster.admin(
                        "Quorum/RemoveVoter", WireRemoveVoterRequest(), at: 101)
                } == .invalidRequest)
            await broker.die()
        }
    }

    private func transfer(
        _ cluster: TestControllers, to id: Int32?, at node: NodeID
    ) async throws -> NodeID {
        let answer: WireTransferLeadershipResponse = try await cluster.admin(
            "Quorum/TransferLeadership",
            WireTransferLeadershipRequest.with { if let id { $0.to = id } }, at: node)
        return NodeID(answer.leaderID)
    }

    @Test func leadershipIsHandedOver() async throws {
        try await TestControllers.run(3) { cluster in
            let first = try await cluster.active(asking: 101)
            let next = try #require(cluster.voters.first { $0.id != first }).id
            #expect(try await transfer(cluster, to: next.rawValue, at: first) == next)
            for voter in cluster.voters {
                #expect(try await cluster.active(asking: voter.id) == next)
            }
            // Done already, asked of a standby.
            #expect(try await transfer(cluster, to: next.rawValue, at: first) == next)
            #expect(try await transfer(cluster, to: nil, at: next) != next)
            #expect(
                await code { try await transfer(cluster, to: 999, at: first) } == .voterNotFound)
        }
    }

    @Test func metadataIsShownAsATree() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            var create = WireCreateTopicRequest()
            create.name = "t"
            let _: WireCreateTopicResponse = try await cluster.admin(
                "Admin/CreateTopic", create, at: 101)
            func show(_ path: String) async throws -> WireShowMetadataResponse {
                try await cluster.admin(
                    "Quorum/ShowMetadata", WireShowMetadataRequest.with { $0.path = path },
                    at: 101)
            }
            let root = try await show("")
            #expect(root.path == "/" && root.entries.contains("topics") && !root.hasValue)
            #expect(try await show("/topics").entries == ["t"])
            let partition = try await show("/topics/t/partitions/0")
            #expect(partition.entries.isEmpty && partition.value.contains("\"leader\""))
            #expect(partition.offset >= root.offset)
            #expect(await code { try await show("/topics/u") } == .resourceNotFound)
            #expect(await code { try await show("topics") } == .invalidRequest)
            await broker.die()
        }
    }

    @Test func committedRecordsAreDumpedPageByPage() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            func dump(_ offset: Int64?, max: Int32 = 2) async throws -> WireDumpMetadataResponse {
                var request = WireDumpMetadataRequest()
                if let offset { request.fromOffset = offset }
                request.maxRecords = max
                return try await cluster.admin("Quorum/DumpMetadata", request, at: 101)
            }
            var records: [WireDumpedRecord] = []
            var next: Int64?
            repeat {
                let page = try await dump(next)
                #expect(page.logStartOffset == 0 && page.nextOffset <= page.highWatermark)
                records += page.records
                next = page.nextOffset == page.highWatermark ? nil : page.nextOffset
            } while next != nil
            #expect(records.map(\.offset) == (0..<Int64(records.count)).map { $0 })
            #expect(records.allSatisfy { $0.hasEpoch && $0.timestamp > 0 && $0.value.first == "{" })
            let types = Set(records.map(\.type))
            #expect(
                types.isSuperset(of: [
                    "leaderChange", "featureLevel", "registerBroker", "brokerChange",
                ]))
            #expect(await code { try await dump(1 << 40) } == .offsetOutOfRange)
            #expect(await code { try await dump(-1) } == .offsetOutOfRange)
            await broker.die()
        }
    }
}
