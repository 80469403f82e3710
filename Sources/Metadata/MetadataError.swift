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
    /// The cluster is at a level that only a newer release understands; 0 for a feature unknown here.
    case unsupportedFeature(String, level: Int32, supported: Int32)
    /// The image ends at `expected`; the record stands before it.
    case outOfOrder(Offset, expected: Offset)
    case unknownBroker(NodeID, epoch: BrokerEpoch)
    case unknownTopic(TopicID)
    case unknownPartition(TopicPartition)
    case topicExists(String)
    /// A partition's state breaks a rule that holds for all of them.
    case invalidPartition(TopicPartition, String)
}

extension MetadataError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .undecodable(let reason):
            "a metadata record can't be decoded: \(reason)"
        case .unknownKind:
            "a metadata record is of a kind that this release does not know; upgrade this node"
        case .invalidField(let record, let field):
            "a metadata record \(record) has an impossible \(field)"
        case .unsupportedFeature(let name, let level, let supported):
            "the cluster is at level \(level) of \(name), and this release understands "
                + "\(supported == 0 ? "nothing of it" : "\(supported) at most"); upgrade this node"
        case .outOfOrder(let offset, let expected):
            "a metadata record at offset \(offset) comes where \(expected) is due"
        case .unknownBroker(let id, let epoch):
            "a metadata record is about broker \(id) with epoch \(epoch), which is not registered"
        case .unknownTopic(let id):
            "a metadata record is about topic \(id), which does not exist"
        case .unknownPartition(let id):
            "a metadata record is about partition \(id), which does not exist or does not come next"
        case .topicExists(let name):
            "a metadata record creates topic '\(name)', which exists"
        case .invalidPartition(let id, let reason):
            "a metadata record leaves partition \(id) in an impossible state: \(reason)"
        }
    }
}
