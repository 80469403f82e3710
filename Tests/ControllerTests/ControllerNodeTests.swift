import Essentials
import Foundation
import NIOCore
import Protocol
import RPC
import SwiftProtobuf
import Testing

@Suite(.serialized) struct ControllerNodeTests {
    private func create(
        _ name: String, partitions: Int32 = 3, in cluster: TestControllers, at id: NodeID
    ) async throws -> WireCreateTopicResponse {
        var request = WireCreateTopicRequest()
        request.name = name
        request.partitions = partitions
        return try await cluster.admin("Admin/CreateTopic", request, at: id)
    }

    private func describe(
        _ cluster: TestControllers, at id: NodeID
    ) async throws -> [WireClusterNode] {
        let answer: WireDescribeClusterResponse = try await cluster.admin(
            "Admin/DescribeCluster", WireDescribeClusterRequest(), at: id)
        return answer.nodes
    }

    @Test func brokersRegisterAndTopicsAreCreatedAndDeleted() async throws {
        try await TestControllers.run(1, sessionTimeout: .seconds(60)) { cluster in
            let brokers = [
                try await TestBroker(1, in: cluster), try await TestBroker(2, in: cluster),
                try await TestBroker(3, in: cluster),
            ]
            let created = try await create("t", in: cluster, at: 101)
            #expect(created.partitions == 3 && created.replicationFactor == 3)
            let nodes = try await describe(cluster, at: 101)
            #expect(nodes.map(\.role) == ["controller", "broker", "broker", "broker"])
            #expect(nodes.dropFirst().allSatisfy { !$0.fenced && $0.leaders == 1 })
            await #expect {
                try await create("t", in: cluster, at: 101)
            } throws: { ($0 as? RPCError)?.code == .topicAlreadyExists }
            var delete = WireDeleteTopicRequest()
            delete.name = "t"
            let deleted: WireDeleteTopicResponse = try await cluster.admin(
                "Admin/DeleteTopic", delete, at: 101)
            #expect(deleted.topicID == created.topicID)
            for broker in brokers { await broker.die() }
        }
    }

    @Test func validateOnlyCreatesNothing() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            var request = WireCreateTopicRequest()
            request.name = "t"
            request.validateOnly = true
            let answer: WireCreateTopicResponse = try await cluster.admin(
                "Admin/CreateTopic", request, at: 101)
            #expect(answer.partitions == 1)
            #expect(try await create("t", in: cluster, at: 101).topicID != "")
            await broker.die()
        }
    }

    @Test func jsonIsAsGoodAsProtobuf() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            let body = ByteBuffer(string: #"{"name": "j", "partitions": 2}"#)
            let answer = try await withCheckedThrowingContinuation { continuation in
                do {
                    try cluster.client(101).unary(
                        "/millrace.v1.Admin/CreateTopic", [body], encoding: .json,
                        timeout: .seconds(10)
                    ) { continuation.resume(with: $0) }
                } catch {
                    continuation.resume(throwing: error)
                }
            }
            #expect(String(buffer: answer).contains(#""partitions":2"#))
            await broker.die()
        }
    }

    @Test(.timeLimit(.minutes(1)))
    func brokerWhoseProcessIsGoneIsFencedLongBeforeItsSessionEnds() async throws {
        try await TestControllers.run(1, sessionTimeout: .seconds(600)) { cluster in
            let alive = try await TestBroker(1, in: cluster)
            let dead = try await TestBroker(2, in: cluster)
            let epoch = dead.epoch
            await dead.die()
            // While its session lasted, another incarnation would be refused.
            let again = try await TestBroker(2, in: cluster)
            #expect(again.epoch > epoch)
            await alive.die()
            await again.die()
        }
    }

    @Test(.timeLimit(.minutes(1)))
    func processThatDiesBeforeItServedKeepsItsSuccessorOutNoLongerThanOneThatServed() async throws {
        try await TestControllers.run(1, sessionTimeout: .seconds(600)) { cluster in
            let dead = try await TestBroker(1, in: cluster, serves: false)
            let epoch = dead.epoch
            await dead.die()
            let again = try await TestBroker(1, in: cluster)
            #expect(again.epoch > epoch)
            await again.die()
        }
    }

    @Test(
        "C2: a second process with a live broker's id is refused, and told where the first one is")
    func duplicateNodeID() async throws {
        try await TestControllers.run(1, sessionTimeout: .seconds(600)) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            var request = WireRegisterBrokerRequest()
            request.clusterID = TestControllers.clusterID
            request.brokerID = 1
            request.incarnationID = Data(UniqueID.random().bytes)
            request.host = "127.0.0.1"
            request.port = 1
            request.previousBrokerEpoch = -1
            request.maxFeatureLevel = 3
            await #expect {
                let _: WireRegisterBrokerResponse = try await cluster.client(101).call(
                    "/millrace.internal.v1.Controller/RegisterBroker", request,
                    timeout: .seconds(10))
            } throws: { error in
                guard let error = error as? RPCError else { return false }
                return error.code == .duplicateBrokerRegistration
                    && error.message.contains("alive at 127.0.0.1:")
            }
            #expect(try await broker.heartbeat().isFenced == false)
            await broker.die()
        }
    }

    @Test("B8") func brokerThatOnlyLostItsConnectionIsNotFenced() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            broker.disconnect()
            try await Task.sleep(for: .milliseconds(300))
            let node = try #require(try await describe(cluster, at: 101).last)
            #expect(node.id == 1 && !node.fenced)
            await broker.die()
        }
    }

    @Test func silentBrokerIsFencedWhenItsSessionEnds() async throws {
        try await TestControllers.run(1) { cluster in
            let broker = try await TestBroker(1, in: cluster)
            while try await describe(cluster, at: 101).last?.fenced == false {
                try await Task.sleep(for: .milliseconds(20))
            }
            #expect(try await broker.heartbeat().isFenced == false)
            await broker.die()
        }
    }

    @Test func leaderAltersItsPartitionAndHearsWhatIsSoNow() async throws {
        try await TestControllers.run(1) { cluster in
            let leader = try await TestBroker(1, in: cluster)
            let follower = try await TestBroker(2, in: cluster)
            var create = WireCreateTopicRequest()
            create.name = "t"
            create.assignments = [.with { $0.replicas = [1, 2] }]
            let created: WireCreateTopicResponse = try await cluster.admin(
                "Admin/CreateTopic", create, at: 101)

            var request = WireAlterPartitionRequest()
            request.brokerID = 1
            request.brokerEpoch = leader.epoch.rawValue
            var change = WireAlterPartitionRequest.PartitionChange()
            change.topicID = Data(try #require(TopicID(created.topicID)).bytes)
            var member = WireAlterPartitionRequest.IsrMember()
            member.brokerID = 1
            member.brokerEpoch = leader.epoch.rawValue
            change.isr = [member]
            request.partitions = [change]
            let accepted: WireAlterPartitionResponse = try await cluster.client(101).call(
                "/millrace.internal.v1.Controller/AlterPartition", request, timeout: .seconds(10))
            let result = try #require(accepted.partitions.first)
            #expect(result.error == "" && result.isr == [1] && result.partitionEpoch == 1)
            #expect(result.leaderID == 1 && result.leaderEpoch == 0)
            #expect(result.topicID == change.topicID)

            let refused: WireAlterPartitionResponse = try await cluster.client(101).call(
                "/millrace.internal.v1.Controller/AlterPartition", request, timeout: .seconds(10))
            #expect(refused.partitions.first?.error == "INVALID_UPDATE_VERSION")
            await leader.die()
            await follower.die()
        }
    }

    @Test("D7: a broker reports what it can't use; others lead, and everybody can see why")
    func replicaReports() async throws {
        try await TestControllers.run(1) { cluster in
            let broken = try await TestBroker(1, in: cluster)
            let other = try await TestBroker(2, in: cluster)
            var topic = WireCreateTopicRequest()
            topic.name = "t"
            topic.assignments = [.with { $0.replicas = [1, 2] }]
            let created: WireCreateTopicResponse = try await cluster.admin(
                "Admin/CreateTopic", topic, at: 101)
            let id = try #require(TopicID(created.topicID))

            let answer = try await broken.report([(id, 0, .offline), (id, 1, .damaged)])
            #expect(answer.replicas.map(\.error) == ["", "UNKNOWN_TOPIC_OR_PARTITION"])
            #expect(answer.replicas.map(\.partition) == [0, 1])
            let node = try #require(try await describe(cluster, at: 101).first { $0.id == 1 })
            #expect(!node.fenced && node.leaders == 0 && node.replicas == 1)
            #expect(node.offlineReplicas == 1)
            let taker = try #require(try await describe(cluster, at: 101).last)
            #expect(taker.leaders == 1 && taker.offlineReplicas == 0)

            let unknown = try await broken.report([(id, 0, .UNRECOGNIZED(9))])
            #expect(unknown.replicas.map(\.error) == ["INVALID_REQUEST"])
            _ = try await broken.report([(id, 0, .online)])
            let mended = try #require(try await describe(cluster, at: 101).first { $0.id == 1 })
            #expect(mended.offlineReplicas == 0)
            await broken.die()
            await other.die()
        }
    }
}
