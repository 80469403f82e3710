internal import Essentials

extension MetadataRecord {
    /// At most this many bytes of a record batch, for a bound on its size that needs no encoding.
    var maxEncodedBytes: Int {
        // A record's own fields in a batch, and the message and its kind around what counts.
        let frame = 24
        switch self {
        case .featureLevel(let name, _):
            return frame + 20 + name.utf8.count
        case .registerBroker(let broker):
            return frame + 100 + broker.host.utf8.count + (broker.rack?.utf8.count ?? 0)
                + 18 * (broker.directories.count + broker.offlineDirectories.count)
        case .unregisterBroker, .brokerChange, .removeTopic, .noOp, .producerIDs:
            return frame + 40
        case .topic(_, let name, _):
            return frame + 42 + name.utf8.count
        case .partition(let id, let state):
            return frame + 18 + size(id.partition) + list(state.replicas) + list(state.isr)
                + list(state.eligibleLeaderReplicas) + list(state.offlineReplicas) + 11 + 12
        case .partitionChange(let change):
            return frame + 18 + size(change.id.partition) + list(change.replicas)
                + list(change.isr) + list(change.eligibleLeaderReplicas)
                + list(change.offlineReplicas)
                + (change.leader == nil ? 0 : 11)
        case .config(let change):
            let resource =
                switch change.resource {
                case .topic(let name): name.utf8.count
                case .broker, .clusterDefault: 11
                }
            return frame + 32 + resource + change.name.utf8.count + (change.value?.utf8.count ?? 0)
        }
    }

    /// A field with this number.
    private func size(_ number: Int32) -> Int {
        switch number {
        case 0..<1 << 7: 2
        case 0..<1 << 14: 3
        case 0..<1 << 21: 4
        case 0...: 6
        default: 11
        }
    }

    private func list(_ brokers: [NodeID]?) -> Int {
        guard let brokers else { return 0 }
        return brokers.reduce(8) { $0 + size($1.rawValue) - 1 }
    }
}
