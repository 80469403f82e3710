package import Essentials

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
    /// The registration of the broker under which the log was made; `none` where that is not known.
    var brokerEpoch = BrokerEpoch.none
    /// How often it was moved from one directory to another since.
    var moves: Int64 = 0

    init(topicID: TopicID, brokerEpoch: BrokerEpoch = .none, moves: Int64 = 0) {
        self.topicID = topicID
        self.brokerEpoch = brokerEpoch
        self.moves = moves
    }

    var encoded: [UInt8] {
        var text = "version: 0\ntopic_id: \(topicID)\n"
        if brokerEpoch != .none { text += "broker_epoch: \(brokerEpoch)\n" }
        if moves > 0 { text += "moves: \(moves)\n" }
        return Array(text.utf8)
    }

    init?(decoding bytes: [UInt8]) {
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        func value(_ key: String) -> Substring? {
            lines.dropFirst().first { $0.hasPrefix(key) }?.dropFirst(key.count)
        }
        guard lines.first == "version: 0",
            let topicID = value("topic_id: ").flatMap({ TopicID(String($0)) })
        else { return nil }
        self.topicID = topicID
        brokerEpoch = value("broker_epoch: ").flatMap { Int64($0) }.map { BrokerEpoch($0) } ?? .none
        moves = max(0, value("moves: ").flatMap { Int64($0) } ?? 0)
    }
}

/// The order of a log's copies; see `LogDirectory.copyOrder`.
package struct LogCopyOrder: Comparable, Sendable {
    package var brokerEpoch: BrokerEpoch
    package var moves: Int64

    package static func < (left: LogCopyOrder, right: LogCopyOrder) -> Bool {
        (left.brokerEpoch, left.moves) < (right.brokerEpoch, right.moves)
    }
}
