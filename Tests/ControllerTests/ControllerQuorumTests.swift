import Configuration
import Essentials
import Protocol
import RPC
import Testing

@Suite(.serialized) struct ControllerQuorumTests {
    private func create(
        _ name: String, in cluster: TestControllers, at id: NodeID
    ) async throws -> String {
        var request = WireCreateTopicRequest()
        request.name = name
        let answer: WireCreateTopicResponse = try await cluster.admin(
            "Admin/CreateTopic", request, at: id)
        return answer.topicID
    }

    @Test func standbyPassesAdminCallsOn() async throws {
        try await TestControllers.run(3) { cluster in
            let active = try await cluster.active(asking: 101)
            for voter in cluster.voters {
                #expect(try await cluster.active(asking: voter.id) == active)
            }
            let broker = try await TestBroker(1, in: cluster)
            let standby = try #require(cluster.voters.first { $0.id != active })
            #expect(try await create("t", in: cluster, at: standby.id) != "")
            await broker.die()
        }
    }

    @Test func standbyRefusesBrokersAndNamesTheActiveController() async throws {
        try await TestControllers.run(3) { cluster in
            let active = try await cluster.active(asking: 101)
            let standby = try #require(cluster.voters.first { $0.id != active })
            await #expect {
                let _: WireHeartbeatResponse = try await cluster.client(standby.id).call(
                    "/millrace.internal.v1.Controller/Heartbeat", WireHeartbeatRequest(),
                    timeout: .seconds(10))
            } throws: { error in
                guard let error = error as? RPCError else { return false }
                return error.code == .notController
                    && error.message.contains("controller \(active) at 127.0.0.1:")
            }
        }
    }

    @Test("Q1") func nextActiveControllerKnowsWhatTheLastOneCommitted() async throws {
        try await TestControllers.run(3) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            let first = try await cluster.active(asking: 101)
            let topic = try await create("t", in: cluster, at: first)
            await cluster.stop(first)
            let next = try await cluster.active()
            #expect(next != first)
            await #expect {
                _ = try await create("t", in: cluster, at: next)
            } throws: { ($0 as? RPCError)?.code == .topicAlreadyExists }
            var delete = WireDeleteTopicRequest()
            delete.name = "t"
            let deleted: WireDeleteTopicResponse = try await cluster.admin(
                "Admin/DeleteTopic", delete, at: next)
            #expect(deleted.topicID == topic)

            // The first one comes back, and knows it too.
            try await cluster.start(first)
            #expect(try await create("t", in: cluster, at: first) != topic)
            await broker.die()
        }
    }

    @Test("Q10") func everythingIsThereAfterAllControllersWereStopped() async throws {
        try await TestControllers.run(3) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            _ = try await create("t", in: cluster, at: 101)
            for voter in cluster.voters { await cluster.stop(voter.id) }
            for voter in cluster.voters { try await cluster.start(voter.id) }
            await #expect {
                _ = try await create("t", in: cluster, at: 102)
            } throws: { ($0 as? RPCError)?.code == .topicAlreadyExists }
            await broker.die()
        }
    }
}
