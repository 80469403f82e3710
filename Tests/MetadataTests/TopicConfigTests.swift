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
        ("flush.messages", "0"),
        ("flush.policy", "sometimes"), ("cleanup.policy", ""),
        ("cleanup.policy", "delete,burn"), ("unclean.leader.election.enable", "yes"),
        ("compression.type", "rar"), ("max.message.bytes", "99999999999999999999"),
    ])
    func badValuesAreRefusedByName(_ name: String, _ value: String) throws {
        #expect(try #require(message([name: value])).hasPrefix(name))
    }

    @Test func goodValuesPass() {
        #expect(
            message([
                "min.insync.replicas": "2", "retention.ms": "-1", "retention.bytes": "1000",
                "segment.bytes": "1048576", "flush.policy": "os", "max.message.bytes": "1000",
                "cleanup.policy": "compact, delete", "unclean.leader.election.enable": "true",
                "compression.type": "zstd",
            ]) == nil)
    }
}
