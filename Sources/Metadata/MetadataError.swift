package import Essentials

/// Why metadata could not be read or applied.
///
/// From a committed log each of these is damage, or a record of a newer release: the node must stop
/// rather than go on with a wrong image.
package enum MetadataError: Error, Equatable, Sendable {
    /// The bytes are no record.
    case undecodable(String)
    /// A record of a kind this release does not know.
    case unknownKind
    /// A record of a known kind with a value that can't be.
    case invalidField(record: String, field: String)
    /// The image ends at `expected`; the record stands before it.
    case outOfOrder(Offset, expected: Offset)
    case unknownBroker(NodeID, epoch: BrokerEpoch)
    case unknownTopic(TopicID)
    case unknownPartition(TopicPartition)
    case topicExists(String)
    /// A partition's state breaks a rule that holds for all of them.
    case invalidPartition(TopicPartition, String)
}
