internal import Essentials
internal import Metadata
internal import NIOCore
internal import Quorum
internal import Raft

/// The committed image as a snapshot, and back; and what the quorum says of its voters.
extension ActiveController {
    func votersChanged(_ voters: [Voter]) {
        // No broker may take a controller's id.
        options.controllers = Set(voters.map(\.id))
        leadership?.state.options.controllers = options.controllers
    }

    func snapshot() -> QuorumSnapshotSource? {
        eventLoop.preconditionInEventLoop()
        guard !hasFailed, committed.nextOffset > 0 else { return nil }
        return QuorumSnapshotSource(
            endOffset: committed.nextOffset, epoch: committed.lastEpoch,
            appendTimestamp: committedTimestamp
        ) { [image = committed] write in
            for record in image.snapshotRecords() { try write(record.encoded()) }
        }
    }

    func load(_ id: SnapshotID) -> QuorumSnapshotLoader {
        { [self] reader in
            var builder = MetadataImageBuilder()
            while let bytes = try reader.next() {
                try builder.add(try MetadataRecord(decoding: bytes))
            }
            let image = builder.finish(endOffset: id.endOffset, epoch: id.epoch)
            let timestamp = reader.lastContainedTimestamp
            return { [self] in install(image, timestamp: timestamp) }
        }
    }

    /// Takes over a snapshot's image in place of all that was committed before.
    private func install(_ image: MetadataImage, timestamp: Int64) {
        eventLoop.preconditionInEventLoop()
        invariant(!isActive, "an active controller loads a snapshot of offset \(image.nextOffset)")
        guard !hasFailed, image.nextOffset > committed.nextOffset else { return }
        committed = image
        committedTimestamp = timestamp
    }

    /// The level that a new cluster's metadata starts at, as this controller was formatted.
    var initialMetadataLevel: Int32 {
        for bytes in bootstrapRecords() {
            guard case .featureLevel(let name, let level)? = try? MetadataRecord(decoding: bytes),
                name == MetadataFeatures.metadataVersion
            else { continue }
            return level
        }
        return MetadataFeatures.supported.lowerBound
    }
}

extension QuorumNode {
    /// Which levels of the metadata records those said they support that fetch from this leader.
    var heardLevels: HeardLevels {
        var heard = HeardLevels()
        let voters = voters
        for voter in voters { heard.voters[voter.id] = .some(metadataLevels(of: voter.key)) }
        let ids = Set(voters.map(\.id))
        for (replica, levels) in observerLevels where !ids.contains(replica.id) {
            // Of several disks under one id, the one that understands least.
            heard.observers[replica.id] =
                heard.observers[replica.id].map { known in
                    let lowest = max(known.lowerBound, levels.lowerBound)
                    return lowest...max(lowest, min(known.upperBound, levels.upperBound))
                } ?? levels
        }
        return heard
    }
}
