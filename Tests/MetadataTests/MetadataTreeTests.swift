import Essentials
import Foundation
import Metadata
import Testing

@Suite struct MetadataTreeTests {
    private let image: MetadataImage

    init() throws {
        var cluster = TestCluster()
        cluster.commit(cluster.state.takeOver())
        try cluster.raiseLevel(to: 2)
        for id in [1, 2, 10] as [NodeID] { try cluster.start(id, rack: "r\(id)") }
        try cluster.create("t", configs: ["retention.ms": "5"], assignments: [[2, 1], [10, 1]])
        try cluster.create("a")
        cluster.commit(
            try cluster.state.alterConfigs(
                of: .broker(2),
                [ConfigAlteration(name: "fetch.max.bytes", operation: .set("2048"))]))
        cluster.commit(
            try cluster.state.alterConfigs(
                of: .clusterDefault, [ConfigAlteration(name: "flush.policy", operation: .set("os"))]
            ))
        cluster.commit(
            try cluster.state.allocateProducerIDs(broker: 1, epoch: cluster.epoch(1)))
        image = cluster.image
    }

    private func entries(_ path: String) throws -> [String]? {
        if case .directory(let entries) = try MetadataTree(image).node(at: path) { return entries }
        return nil
    }

    private func value(_ path: String) throws -> String? {
        if case .value(let value) = try MetadataTree(image).node(at: path) { return value }
        return nil
    }

    @Test func directoriesListWhatIsBelowThem() throws {
        let root = ["brokers", "configs", "features", "producerIds", "topicIds", "topics"]
        #expect(try entries("/") == root)
        #expect(try entries("") == root)
        #expect(try entries("/brokers") == ["1", "2", "10"])
        #expect(try entries("/topics/") == ["a", "t"])
        #expect(try entries("/topics/t") == ["id", "partitions"])
        #expect(try entries("/topics/t/partitions") == ["0", "1"])
        #expect(try entries("/topicIds")?.count == 2)
        #expect(try entries("/configs") == ["brokers", "cluster", "topics"])
        #expect(try entries("/configs/brokers") == ["2"])
        #expect(try entries("/configs/topics") == ["t"])
        #expect(try entries("/configs/topics/t") == ["retention.ms"])
        #expect(try entries("/configs/cluster") == ["flush.policy"])
        #expect(try entries("/features") == ["metadata.version"])
        #expect(try entries("/producerIds") == ["next"])
    }

    @Test func valuesAreJSON() throws {
        let id = try #require(image.topic(named: "t")?.id)
        #expect(try value("/topics/t/id") == "\"\(id)\"")
        #expect(try value("/topicIds/\(id)") == "\"t\"")
        #expect(try value("/configs/topics/t/retention.ms") == "\"5\"")
        #expect(try value("/configs/brokers/2/fetch.max.bytes") == "\"2048\"")
        #expect(try value("/configs/cluster/flush.policy") == "\"os\"")
        #expect(try value("/features/metadata.version") == "2")
        #expect(try value("/producerIds/next") == "1000")
        #expect(
            try value("/topics/t/partitions/1")
                == """
                {"replicas": [10, 1], "isr": [10, 1], "eligibleLeaderReplicas": [], "leader": 10, \
                "leaderEpoch": 0, "partitionEpoch": 0}
                """)
        let broker = try #require(try value("/brokers/10"))
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(broker.utf8)) as? [String: Any])
        #expect(object["rack"] as? String == "r10")
        #expect(object["fenced"] as? Bool == false)
        #expect(object["maxFeatureLevel"] as? Int == Int(MetadataFeatures.supported.upperBound))
    }

    @Test func wrongPathNamesTheNearestThatExistsAndWhatIsThere() throws {
        func message(_ path: String) -> String {
            do throws(MetadataPathError) {
                _ = try MetadataTree(image).node(at: path)
                return ""
            } catch {
                return error.message
            }
        }
        #expect(
            message("/topics/x/partitions")
                == "there is nothing at /topics/x/partitions; /topics has a, t")
        #expect(
            message("/nonsense").hasPrefix("there is nothing at /nonsense; / has brokers, configs"))
        #expect(message("/brokers/7").hasSuffix("/brokers has 1, 2, 10"))
        #expect(message("/brokers/one").hasSuffix("/brokers has 1, 2, 10"))
        #expect(message("/topics/t/partitions/2").hasSuffix("/topics/t/partitions has 0, 1"))
        #expect(message("/topics/t/partitions/-1").hasSuffix("/topics/t/partitions has 0, 1"))
        #expect(message("/brokers/1/x").hasSuffix("/brokers/1 is a value, with nothing below it"))
        #expect(message("/configs/topics/a").hasSuffix("/configs/topics has t"))
        let empty = #expect(throws: MetadataPathError.self) {
            try MetadataTree(MetadataImage()).node(at: "/brokers/1")
        }
        #expect(empty?.message == "there is nothing at /brokers/1; /brokers is empty")
    }
}
