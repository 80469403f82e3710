import Essentials

/// The folder of one partition's log, named `topic-partition`.
package struct PartitionFolder: Hashable, Sendable {
    package var topic: String
    package var partition: Int32

    package init(topic: String, partition: Int32) {
        self.topic = topic
        self.partition = partition
    }

    /// The partition whose log is in a folder of this name; `nil` if no partition's is.
    package init?(_ name: String) {
        guard let dash = name.lastIndex(of: "-"), dash != name.startIndex else { return nil }
        let digits = name[name.index(after: dash)...]
        guard let partition = Int32(digits), partition >= 0, String(partition) == digits else {
            return nil
        }
        topic = String(name[..<dash])
        self.partition = partition
    }

    package var name: String { "\(topic)-\(partition)" }
}

extension PartitionFolder: Comparable, CustomStringConvertible {
    package static func < (left: PartitionFolder, right: PartitionFolder) -> Bool {
        (left.topic, left.partition) < (right.topic, right.partition)
    }

    package var description: String { name }
}

/// The file in a partition's folder that says which topic it belongs to, since names are used again.
struct PartitionMetadata: Equatable {
    static let fileName = "partition.metadata"

    var topicID: TopicID

    init(topicID: TopicID) {
        self.topicID = topicID
    }

    var encoded: [UInt8] { Array("version: 0\ntopic_id: \(topicID)\n".utf8) }

    init?(decoding bytes: [UInt8]) {
        let key = "topic_id: "
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        guard lines.first == "version: 0",
            let id = lines.dropFirst().first(where: { $0.hasPrefix(key) }),
            let topicID = TopicID(String(id.dropFirst(key.count)))
        else { return nil }
        self.topicID = topicID
    }
}
