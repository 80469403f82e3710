import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct AlterConfigsTests {
    private var cluster: TestCluster

    init() throws {
        cluster = try TestCluster(brokers: 3) { options in
            options.nodeConfigs = ["log.dirs": "/data", "log.segment.bytes": "1048576"]
        }
        try cluster.create("t", assignments: [[1, 2, 3]])
    }

    private mutating func alter(
        _ resource: ConfigResource, _ name: String, _ operation: ConfigAlteration.Operation
    ) throws {
        let result = try cluster.state.alterConfigs(
            of: resource, [ConfigAlteration(name: name, operation: operation)])
        cluster.commit(result)
    }

    /// The message with which it is refused as INVALID_CONFIG.
    private func refused(
        _ resource: ConfigResource, _ name: String, _ operation: ConfigAlteration.Operation
    ) -> String {
        do throws(ControllerError) {
            _ = try cluster.state.alterConfigs(
                of: resource, [ConfigAlteration(name: name, operation: operation)])
            return "not refused"
        } catch {
            #expect(error.code == .invalidConfig)
            return error.message
        }
    }

    private func entry(_ resource: ConfigResource, _ name: String) throws -> ConfigEntry {
        let entries = try cluster.image.describeConfigs(
            of: resource, names: [name], options: cluster.state.options)
        return try #require(entries.first)
    }

    @Test mutating func valuesAreSetAndGoBackToTheirDefault() throws {
        try alter(.topic("t"), "retention.ms", .set("5"))
        #expect(cluster.image.retention(topic: "t") == .milliseconds(5))
        try alter(.topic("t"), "retention.ms", .delete)
        #expect(cluster.image.retention(topic: "t") == .seconds(7 * 24 * 3600))
        #expect(cluster.image.configs.isEmpty)
    }

    @Test mutating func whatChangesNothingIsNotWritten() throws {
        try alter(.topic("t"), "retention.ms", .set("5"))
        let records = cluster.log.count
        try alter(.topic("t"), "retention.ms", .set("5"))
        try alter(.topic("t"), "segment.ms", .delete)
        try alter(.topic("t"), "cleanup.policy", .set("delete"))
        #expect(cluster.log.count == records + 1)
    }

    @Test mutating func listsGrowAndShrinkItemByItem() throws {
        try alter(.topic("t"), "cleanup.policy", .append("compact"))
        #expect(try entry(.topic("t"), "cleanup.policy").value == "delete,compact")
        try alter(.topic("t"), "cleanup.policy", .append("compact"))
        try alter(.topic("t"), "cleanup.policy", .subtract("delete"))
        #expect(try entry(.topic("t"), "cleanup.policy").value == "compact")
        #expect(
            refused(.topic("t"), "cleanup.policy", .subtract("compact"))
                .contains("nothing would be left"))
        #expect(refused(.topic("t"), "cleanup.policy", .append("burn")).contains("not 'burn'"))
        #expect(refused(.topic("t"), "retention.ms", .append("5")).contains("is no list"))
    }

    @Test mutating func oneBadChangeSpoilsAll() throws {
        let image = cluster.image
        #expect(
            refusal {
                _ = try cluster.state.alterConfigs(
                    of: .topic("t"),
                    [
                        ConfigAlteration(name: "retention.ms", operation: .set("5")),
                        ConfigAlteration(name: "segment.bytes", operation: .set("5")),
                    ])
            } == .invalidConfig)
        #expect(
            refusal {
                _ = try cluster.state.alterConfigs(
                    of: .topic("t"),
                    [
                        ConfigAlteration(name: "retention.ms", operation: .set("5")),
                        ConfigAlteration(name: "retention.ms", operation: .delete),
                    ])
            } == .invalidRequest)
        #expect(cluster.image == image)
    }

    @Test func refusalsSayWhatToDo() {
        #expect(refused(.topic("t"), "retention.m", .set("5")).contains("'retention.ms'"))
        #expect(
            refused(.broker(1), "replica.lag.time", .delete).contains("'replica.lag.time.max.ms'"))
        #expect(refused(.topic("t"), "replica.lag.time.max.ms", .set("5")).contains("for a broker"))
        #expect(refused(.broker(1), "retention.ms", .set("5")).contains("for a topic"))
        #expect(refused(.broker(1), "num.partitions", .set("5")).contains("for the cluster"))
        #expect(refused(.broker(1), "log.dirs", .set("/x")).contains("restart the node"))
        #expect(refused(.clusterDefault, "log.dirs", .delete).contains("restart the node"))
        #expect(refused(.topic("t"), "min.insync.replicas", .set("0")).contains("not '0'"))
        #expect(
            refused(.topic("t"), "retention.ms", .set(String(repeating: "1", count: 5000)))
                .contains("1000 characters"))
    }

    @Test func unknownTopicsAndBrokersAreNamed() {
        #expect(
            refusal { _ = try cluster.state.alterConfigs(of: .topic("u"), []) }
                == .unknownTopicOrPartition)
        #expect(
            refusal { _ = try cluster.state.alterConfigs(of: .broker(9), []) }
                == .brokerIDNotRegistered)
    }

    @Test mutating func minimumAboveTheReplicationFactorIsAContradiction() throws {
        try alter(.clusterDefault, "default.replication.factor", .set("2"))
        #expect(
            refused(.clusterDefault, "min.insync.replicas", .set("3"))
                .contains("more than default.replication.factor 2"))
        try alter(.clusterDefault, "min.insync.replicas", .set("2"))
        #expect(
            refused(.clusterDefault, "default.replication.factor", .set("1"))
                .contains("lower the first"))
    }

    @Test mutating func clusterDefaultsDecideWhatNewTopicsGet() throws {
        try alter(.clusterDefault, "num.partitions", .set("5"))
        try alter(.clusterDefault, "default.replication.factor", .set("2"))
        try cluster.create("u")
        #expect(cluster.image.topic(named: "u")?.partitions.count == 5)
        #expect(try cluster.partition("u").replicas.count == 2)
    }

    @Test mutating func brokerConfigOverridesTheClusters() throws {
        try alter(.clusterDefault, "replica.lag.time.max.ms", .set("2000"))
        try alter(.broker(1), "replica.lag.time.max.ms", .set("1000"))
        let lag = { [cluster] in
            cluster.image.replicaLagTimeMax(broker: $0, default: .seconds(30)).milliseconds
        }
        #expect(lag(1) == 1000 && lag(2) == 2000)
        try alter(.clusterDefault, "replica.lag.time.max.ms", .delete)
        #expect(cluster.image.replicaLagTimeMax(broker: 2, default: .seconds(30)) == .seconds(30))
    }

    @Test mutating func configsOfAnUnregisteredBrokerGoWithIt() throws {
        try cluster.start(4)
        try alter(.broker(4), "replica.lag.time.max.ms", .set("1000"))
        cluster.kill(4)
        cluster.commit(try cluster.state.unregisterBroker(4, now: cluster.now))
        #expect(cluster.image.configs.isEmpty)
    }

    // MARK: Descriptions

    @Test mutating func descriptionTellsValueSourceAndDefault() throws {
        let name = "segment.bytes"
        func expect(_ value: String, _ source: ConfigEntry.Source, _ fallback: String) throws {
            let entry = try entry(.topic("t"), name)
            #expect(entry.value == value && entry.source == source)
            #expect(entry.defaultValue == fallback && !entry.documentation.isEmpty)
        }
        try expect("1048576", .default, "1048576")
        try alter(.clusterDefault, name, .set("2048"))
        try expect("2048", .cluster, "2048")
        try alter(.topic("t"), name, .set("4096"))
        try expect("4096", .topic, "2048")
        #expect(try entry(.clusterDefault, name).source == .cluster)
        #expect(try entry(.clusterDefault, name).defaultValue == "1048576")
        #expect(try entry(.topic("t"), "min.insync.replicas").value == "2")
    }

    @Test func descriptionOfAllIsSortedAndHoldsWhatAppliesOnly() throws {
        func names(_ resource: ConfigResource) throws -> [String] {
            try cluster.image.describeConfigs(of: resource, options: cluster.state.options).map(
                \.name)
        }
        let topic = try names(.topic("t"))
        #expect(topic == TopicConfigKey.allCases.map(\.rawValue).sorted())
        let broker = try names(.broker(1))
        #expect(broker == BrokerConfigKey.allCases.map(\.rawValue).sorted())
        #expect(try names(.clusterDefault).count > topic.count + broker.count)
        #expect(throws: ControllerError.self) {
            try cluster.image.describeConfigs(
                of: .topic("t"), names: ["nonsense"], options: cluster.state.options)
        }
    }

    @Test func everyDefaultIsAValue() {
        // Those that depend on other things say how.
        let derived = ["min.insync.replicas", "default.replication.factor"]
        for definition in ConfigDefinition.all where !derived.contains(definition.name) {
            #expect(definition.problem(with: definition.defaultValue) == nil, "\(definition.name)")
        }
    }

    // MARK: Consequences

    @Test("L19") mutating func lowerMinimumEndsTheEligibilityOfReplicasOutsideTheIsr() throws {
        cluster.kill(2)
        cluster.kill(3)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [3])
        let result = try cluster.state.alterConfigs(
            of: .topic("t"),
            [ConfigAlteration(name: "min.insync.replicas", operation: .set("1"))])
        #expect(result.batches.count == 1 && result.records.count == 2)
        cluster.commit(result)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [])
        try alter(.topic("t"), "min.insync.replicas", .delete)
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [])
    }

    @Test mutating func lowerMinimumOfTheClusterSparesTopicsWithTheirOwn() throws {
        try cluster.create(
            "own", configs: ["min.insync.replicas": "2"], assignments: [[1, 2, 3]])
        cluster.kill(2)
        cluster.kill(3)
        try alter(.clusterDefault, "min.insync.replicas", .set("1"))
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [])
        #expect(try cluster.partition("own").eligibleLeaderReplicas == [3])
    }

    @Test mutating func higherMinimumMakesNobodyEligible() throws {
        try alter(.topic("t"), "min.insync.replicas", .set("1"))
        cluster.kill(2)
        cluster.kill(3)
        try alter(.topic("t"), "min.insync.replicas", .set("3"))
        let state = try cluster.partition("t")
        #expect(state.isr == [1] && state.eligibleLeaderReplicas == [])
    }

    @Test("C10", arguments: [ConfigResource.topic("t"), .clusterDefault])
    mutating func partitionsWithoutALeaderGetOneOnceUncleanElectionsAreAllowed(
        _ resource: ConfigResource
    ) throws {
        try cluster.create("clean", assignments: [[1, 2, 3]])
        try alter(.topic("clean"), "unclean.leader.election.enable", .set("false"))
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        try cluster.heartbeat(1)
        #expect(try cluster.partition("t").leader == nil)
        let result = try cluster.state.alterConfigs(
            of: resource,
            [ConfigAlteration(name: "unclean.leader.election.enable", operation: .set("true"))])
        #expect(result.elections.map(\.kind) == [.unclean])
        #expect(result.batches.count == 1)
        cluster.commit(result)
        #expect(try cluster.partition("t").leader == 1)
        #expect(try cluster.partition("clean").leader == nil)
    }

    @Test mutating func bigChangeKeepsItsOrder() throws {
        let all = Array(repeating: [1, 2, 3] as [NodeID], count: 20)
        try cluster.create("big", assignments: all)
        cluster.kill(2)
        cluster.kill(3)
        cluster.limitBatches(to: 300)
        let result = try cluster.state.alterConfigs(
            of: .clusterDefault,
            [ConfigAlteration(name: "min.insync.replicas", operation: .set("1"))])
        #expect(result.batches.count > 3)
        if case .config = result.records.last {} else { Issue.record("the config is not last") }
        cluster.commit(result)
        #expect(try cluster.partition("big", 19).eligibleLeaderReplicas == [])
    }
}
