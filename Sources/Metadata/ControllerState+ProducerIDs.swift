package import Essentials
internal import HashTreeCollections

/// Producer ids that one broker, and nobody else ever, may give to producers.
package struct ProducerIDBlock: Equatable, Sendable {
    package var first: Int64
    package var count: Int32

    package static let size: Int32 = 1000

    package init(first: Int64, count: Int32) {
        self.first = first
        self.count = count
    }
}

extension ControllerState {
    /// Gives a broker the next block of producer ids (KIP-730).
    package func allocateProducerIDs(
        broker id: NodeID, epoch: BrokerEpoch
    ) throws(ControllerError) -> ControllerResult<ProducerIDBlock> {
        guard let broker = image.brokers[id], broker.epoch == epoch else {
            throw ControllerError(
                .staleBrokerEpoch, "broker \(id) is not registered with epoch \(epoch)")
        }
        guard image.featureLevel >= MetadataFeatures.producerIDs else {
            throw ControllerError(
                .unsupportedVersion,
                "producer ids need \(MetadataFeatures.metadataVersion) "
                    + "\(MetadataFeatures.producerIDs), and the cluster is at "
                    + "\(image.featureLevel); once every node is upgraded, update the feature")
        }
        let first = image.nextProducerID
        let (next, isOver) = first.addingReportingOverflow(Int64(ProducerIDBlock.size))
        guard !isOver else {
            throw ControllerError(.unknownServerError, "all producer ids have been given out")
        }
        var draft = MetadataDraft(image: image, options: options)
        draft.append(.producerIDs(broker: id, epoch: epoch, next: next))
        return draft.result(ProducerIDBlock(first: first, count: ProducerIDBlock.size))
    }
}
