import Essentials
import Foundation
import Metadata
import Testing

@Suite struct MetadataRecordJSONTests {
    private static let topic = TopicID(high: 1, low: 2)
    private static let partition = TopicPartition(topic: topic, partition: 3)

    @Test func idsArePrintedAsElsewhereAndFieldsKeepTheirOrder() {
        let record = MetadataRecord.partitionChange(
            PartitionChange(id: Self.partition, isr: [2], leader: .broker(2)))
        #expect(record.typeName == "partitionChange")
        #expect(
            record.json
                == "{\"topicId\": \"\(Self.topic)\", \"partition\": 3, \"isr\": [2], \"leader\": 2}"
        )
    }

    @Test func whatIsRemovedIsNullAndWhatStaysIsLeftOut() {
        let change = PartitionChange(id: Self.partition, leader: PartitionChange.NewLeader.none)
        #expect(
            MetadataRecord.partitionChange(change).json.hasSuffix(
                "\"partition\": 3, \"leader\": null}"))
        #expect(
            MetadataRecord.config(ConfigChange(resource: .broker(4), name: "a", value: nil)).json
                == "{\"brokerId\": 4, \"name\": \"a\", \"value\": null}")
        #expect(MetadataRecord.noOp.json == "{}")
    }

    @Test(arguments: MetadataRecordTests.samples)
    func everyRecordIsOneLineOfJSON(_ record: MetadataRecord) throws {
        #expect(!record.json.contains("\n") && !record.typeName.isEmpty)
        #expect(
            try JSONSerialization.jsonObject(with: Data(record.json.utf8)) is [String: Any])
    }

    @Test func textFromAnyoneIsEscaped() throws {
        let name = "a\"b\\c\n\u{1}\u{2028}é🙂\u{7f}"
        let json = MetadataRecord.topic(id: Self.topic, name: name).json
        let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: String]
        #expect(object?["name"] == name)
        #expect(json.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7f })
    }
}
