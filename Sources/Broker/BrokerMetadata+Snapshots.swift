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
        // Nothing else is handed out until the snapshot is installed, so that `image` stays as it is.
        { [self, image] reader in
            var builder = MetadataImageBuilder()
            while let bytes = try reader.next() {
                try builder.add(try MetadataRecord(decoding: bytes))
            }
            let loaded = builder.finish(endOffset: id.endOffset, epoch: id.epoch)
            let timestamp = reader.lastContainedTimestamp
            let changes = MetadataDelta(from: image, to: loaded)
            return { [self] in
                install(loaded, timestamp: timestamp, changes: changes, since: image.nextOffset)
            }
        }
    }

    private func install(
        _ loaded: MetadataImage, timestamp: Int64, changes: MetadataDelta, since: Offset
    ) {
        guard failure == nil, loaded.nextOffset > image.nextOffset else { return }
        // What subscribers were told last is `current`, which may be behind `image`.
        delta = current.nextOffset == since ? changes : MetadataDelta(from: current, to: loaded)
        image = loaded
        lastTimestamp = timestamp
        publishIfCaughtUp()
    }
}
