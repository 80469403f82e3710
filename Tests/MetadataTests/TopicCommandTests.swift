import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct TopicCommandTests {
    @Test func defaultsAreThreeReplicasWithMinIsrTwo() throws {
        var cluster = try TestCluster(brokers: 5)
        try cluster.create("t")
        let state = try cluster.partition("t")
        #expect(state.replicas.count == 3)
        #expect(state.isr == state.replicas && state.leader == state.replicas.first)
        #expect(cluster.image.minInSyncReplicas(topic: "t", replicas: 3) == 2)
    }

    @Test func aRepeatedCommandIsAnsweredLikeTheFirst() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.raiseLevel(to: 2)
        let topic = NewTopic(name: "t", request: UniqueID(high: 1, low: 2), partitions: 2)
        let first = cluster.commit(try cluster.state.createTopic(topic))
        let image = cluster.image
        #expect(cluster.commit(try cluster.state.createTopic(topic)) == first)
        #expect(cluster.image == image)
        // Another request, or one without an id, is no repetition.
        for request in [UniqueID(high: 3, low: 4), nil] {
            #expect(
                refusal {
                    _ = try cluster.state.createTopic(NewTopic(name: "t", request: request))
                } == .topicAlreadyExists)
        }
        // A new controller knows it from the log.
        try cluster.failOver()
        #expect(cluster.commit(try cluster.state.createTopic(topic)) == first)
    }

    @Test("C12: a repetition that comes after the deletion makes another topic")
    func aLateRepetitionNeverGivesAnIdAgain() throws {
        var cluster = try TestCluster(brokers: 3)
        try cluster.raiseLevel(to: 2)
        let topic = NewTopic(name: "t", request: UniqueID(high: 1, low: 2))
        let first = cluster.commit(try cluster.state.createTopic(topic))
        cluster.commit(try cluster.state.deleteTopic(named: "t", id: first.id))
        let second = cluster.commit(try cluster.state.createTopic(topic))
        #expect(second.id != first.id)
    }

    @Test func aRequestIsNotWrittenDownAtTheFirstLevel() throws {
        var cluster = try TestCluster(brokers: 1)
        let topic = NewTopic(name: "t", request: UniqueID(high: 1, low: 2))
        cluster.commit(try cluster.state.createTopic(topic))
        #expect(cluster.image.topic(named: "t")?.request == nil)
    }

    @Test func deletingByIdNeverDeletesALaterTopicOfThatName() throws {
        var cluster = try TestCluster(brokers: 1)
        func delete(_ id: TopicID) throws -> TopicID {
            cluster.commit(try cluster.state.deleteTopic(named: "t", id: id))
        }
        try cluster.create("t")
        let old = try #require(cluster.image.topic(named: "t")?.id)
        #expect(try delete(old) == old)
        // Gone already: as if deleted now.
        #expect(try delete(old) == old)
        try cluster.create("t")
        let new = try #require(cluster.image.topic(named: "t")?.id)
        #expect(try delete(old) == old)
        #expect(cluster.image.topic(named: "t")?.id == new)
        try cluster.create("u")
        let other = try #require(cluster.image.topic(named: "u")?.id)
        #expect(refusal { _ = try delete(other) } == .inconsistentTopicID)
    }

    @Test func fewerBrokersGiveFewerReplicas() throws {
        var cluster = try TestCluster(brokers: 2)
        try cluster.create("t")
        #expect(try cluster.partition("t").replicas.count == 2)
    }

    @Test func configuredDefaultsAreWrittenDown() throws {
        var cluster = try TestCluster(brokers: 3) { options in
            options.partitions = 4
            options.replicationFactor = 2
            options.minInSyncReplicas = 2
        }
        try cluster.create("t")
        #expect(cluster.image.topic(named: "t")?.partitions.count == 4)
        #expect(try cluster.partition("t").replicas.count == 2)
        #expect(cluster.image.topicConfig("t", key: "min.insync.replicas") == "2")
        try cluster.create("own", configs: ["min.insync.replicas": "1"])
        #expect(cluster.image.topicConfig("own", key: "min.insync.replicas") == "1")
    }

    @Test(arguments: [
        "", ".", "..", "a b", "a/b", "ä", "a\u{0}", "..a\n", String(repeating: "x", count: 250),
        "__cluster_metadata",
    ])
    func illegalNamesAreRefused(_ name: String) throws {
        var cluster = try TestCluster(brokers: 1)
        #expect(refusal { try cluster.create(name) } == .invalidTopicException)
    }

    @Test(arguments: [
        "a", "...", "A.b_c-9", "__cluster_metadata-0", String(repeating: "x", count: 249),
    ])
    func legalNamesAreTaken(_ name: String) throws {
        var cluster = try TestCluster(brokers: 1)
        try cluster.create(name)
    }

    @Test func refusalsNameWhatIsWrong() throws {
        var cluster = try TestCluster(brokers: 2)
        try cluster.create("t")
        #expect(refusal { try cluster.create("t") } == .topicAlreadyExists)
        #expect(refusal { try cluster.create("u", partitions: -1) } == .invalidPartitions)
        #expect(refusal { try cluster.create("u", partitions: 10_001) } == .invalidPartitions)
        #expect(refusal { try cluster.create("u", replicas: 3) } == .invalidReplicationFactor)
        #expect(refusal { try cluster.create("u", replicas: -1) } == .invalidReplicationFactor)
        #expect(refusal { try cluster.create("u", configs: ["x": "y"]) } == .invalidConfig)
        #expect(cluster.image.topic(named: "u") == nil)
        var empty = TestCluster()
        #expect(refusal { try empty.create("t") } == .invalidReplicationFactor)
    }

    @Test func wrongAssignmentsAreRefused() throws {
        var cluster = try TestCluster(brokers: 3)
        cluster.kill(3)
        let wrong: [[[NodeID]]] = [[[]], [[1, 1]], [[9]], [[1], [1, 2]], [[3]]]
        for assignments in wrong {
            #expect(
                refusal { try cluster.create("t", assignments: assignments) } == .invalidRequest)
        }
        #expect(
            refusal { try cluster.create("t", partitions: 2, assignments: [[1]]) }
                == .invalidPartitions)
    }

    @Test func fencedReplicaOfAnAssignmentStartsOutOfSync() throws {
        var cluster = try TestCluster(brokers: 3)
        cluster.kill(1)
        try cluster.create("t", assignments: [[1, 2, 3]])
        let state = try cluster.partition("t")
        #expect(state.replicas == [1, 2, 3] && state.isr == [2, 3] && state.leader == 2)
    }

    @Test("C12") func topicCreatedAgainInheritsNothing() throws {
        var cluster = try TestCluster(brokers: 3)
        let first = try cluster.create("t", configs: ["retention.ms": "1"])
        cluster.kill(1)
        #expect(cluster.commit(try cluster.state.deleteTopic(named: "t")) == first)
        #expect(cluster.image.topic(named: "t") == nil)
        let second = try cluster.create("t")
        #expect(first != second)
        #expect(cluster.image.topicConfig("t", key: "retention.ms") == nil)
        #expect(try cluster.partition("t").leaderEpoch == 0)
        #expect(try cluster.partition("t").partitionEpoch == 0)
    }

    @Test func deletingAnUnknownTopicIsRefused() throws {
        let cluster = try TestCluster(brokers: 1)
        #expect(
            refusal { _ = try cluster.state.deleteTopic(named: "t") } == .unknownTopicOrPartition)
    }

    @Test func commandAloneChangesNothing() throws {
        var cluster = try TestCluster(brokers: 3)
        let before = cluster.image
        let result = try cluster.state.createTopic(NewTopic(name: "t", partitions: 3))
        #expect(result.records.count == 4)
        #expect(cluster.image == before)
        // The next command would not see it either, so a result is adopted before the next one.
        cluster.commit(result)
        #expect(cluster.image.topic(named: "t")?.partitions.count == 3)
    }
}
