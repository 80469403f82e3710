internal import Essentials
internal import Metadata
internal import Quorum
internal import Raft

/// The broker's copy as a snapshot, and back.
extension BrokerMetadata {
    func votersChanged(_ voters: [Voter]) {}

    func snapshot() -> QuorumSnapshotSource? {
        guard failure == nil, image.nextOffset > 0 else { return nil }
        return QuorumSnapshotSource(
            endOffset: image.nextOffset, epoch: image.lastEpoch, appendTimestamp: lastTimestamp
        ) { [image] write in
            for record in image.snapshotRecords() { try write(record.encoded()) }
        }
    }

    func load(_ id: SnapshotID) -> QuorumSnapshotLoader {
        { [self] reader in
            var builder = MetadataImageBuilder()
            while let bytes = try reader.next() {
                try builder.add(try MetadataRecord(decoding: bytes))
            }
            let loaded = builder.finish(endOffset: id.endOffset, epoch: id.epoch)
            let timestamp = reader.lastContainedTimestamp
            return { [self] in install(loaded, timestamp: timestamp) }
        }
    }

    private func install(_ loaded: MetadataImage, timestamp: Int64) {
        guard failure == nil, loaded.nextOffset > image.nextOffset else { return }
        // What subscribers were told is `current`, which may be behind `image`.
        delta = MetadataDelta(from: current, to: loaded)
        image = loaded
        lastTimestamp = timestamp
        publishIfCaughtUp()
    }
}
