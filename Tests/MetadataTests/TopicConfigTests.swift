import Essentials
import Metadata
import Testing

@Suite struct TopicConfigTests {
    private func message(_ configs: [String: String]) -> String? {
        do throws(ControllerError) {
            try TopicConfigKey.validate(configs)
            return nil
        } catch {
            #expect(error.code == .invalidConfig)
            return error.message
        }
    }

    @Test func unknownConfigNamesTheNearestKnownOne() throws {
        #expect(try #require(message(["retention.mss": "1"])).contains("'retention.ms'"))
        #expect(try #require(message(["min.isr.replicas": "1"])).contains("'min.insync.replicas'"))
    }

    @Test func veryLongUnknownNamesAreAnsweredToo() {
        #expect(message([String(repeating: "x", count: 100_000): "1"]) != nil)
    }

    @Test(arguments: [
        ("min.insync.replicas", "0"), ("min.insync.replicas", "two"), ("retention.ms", "-2"),
        ("segment.bytes", "1"), ("min.cleanable.dirty.ratio", "2"), ("flush.ms", "0"),
        ("flush.messages", "0"), ("message.timestamp.type", "createtime"),
        ("message.timestamp.after.max.ms", "-1"), ("index.interval.bytes", "0"),
        ("segment.index.bytes", "4"), ("file.delete.delay.ms", "-1"),
        ("flush.policy", "sometimes"), ("cleanup.policy", ""),
        ("cleanup.policy", "delete,burn"), ("unclean.leader.election.enable", "yes"),
        ("compression.type", "rar"), ("max.message.bytes", "99999999999999999999"),
    ])
    func badValuesAreRefusedByName(_ name: String, _ value: String) throws {
        #expect(try #require(message([name: value])).hasPrefix(name))
    }

    /// What a topic's config is without being set comes from the node's own file.
    @Test(arguments: [
        ("cleanup.policy", "log.cleanup.policy"), ("retention.ms", "log.retention.ms"),
        ("retention.bytes", "log.retention.bytes"), ("segment.ms", "log.roll.ms"),
        ("segment.bytes", "log.segment.bytes"), ("segment.index.bytes", "log.index.size.max.bytes"),
        ("index.interval.bytes", "log.index.interval.bytes"),
        ("file.delete.delay.ms", "log.segment.delete.delay.ms"),
        ("message.timestamp.type", "log.message.timestamp.type"),
        ("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"),
        ("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"),
    ])
    func nodesFileGivesTheDefault(_ name: String, _ nodeKey: String) throws {
        var options = ControllerOptions(clusterID: "c")
        let own = try MetadataImage().describeConfigs(
            of: .clusterDefault, names: [name], options: options)
        #expect(own.first?.value == TopicConfigKey(rawValue: name)?.definition.defaultValue)
        options.nodeConfigs[nodeKey] = "from the file"
        let entries = try MetadataImage().describeConfigs(
            of: .clusterDefault, names: [name], options: options)
        #expect(entries.first?.value == "from the file" && entries.first?.source == .default)
    }

    @Test func goodValuesPass() {
        #expect(
            message([
                "min.insync.replicas": "2", "retention.ms": "-1", "retention.bytes": "1000",
                "segment.bytes": "1048576", "flush.policy": "os", "max.message.bytes": "1000",
                "cleanup.policy": "compact, delete", "unclean.leader.election.enable": "true",
                "compression.type": "zstd", "message.timestamp.type": "LogAppendTime",
                "message.timestamp.before.max.ms": "9223372036854775807",
                "segment.index.bytes": "1024", "file.delete.delay.ms": "0",
            ]) == nil)
    }
}
