package import Essentials

/// One record of the metadata log: the only way the cluster's state changes.
package enum MetadataRecord: Equatable, Sendable {
    case featureLevel(name: String, level: Int32)
    case registerBroker(BrokerRegistration)
    case unregisterBroker(NodeID, epoch: BrokerEpoch)
    case brokerChange(BrokerChange)
    /// `request` is the id of the request that created it, if it had one and the level knows it.
    case topic(id: TopicID, name: String, request: UniqueID? = nil)
    /// Takes the topic's partitions and configs with it.
    case removeTopic(TopicID)
    case partition(TopicPartition, PartitionState)
    case partitionChange(PartitionChange)
    case config(ConfigChange)
    case noOp
    /// A broker got the block of producer ids that ends at `next`.
    case producerIDs(broker: NodeID, epoch: BrokerEpoch, next: Int64)
}

/// A change to a registered broker; `nil` leaves a field as it is.
package struct BrokerChange: Equatable, Sendable {
    package var id: NodeID
    package var epoch: BrokerEpoch
    package var fenced: Bool?
    package var inControlledShutdown: Bool?

    package init(
        id: NodeID, epoch: BrokerEpoch, fenced: Bool? = nil, inControlledShutdown: Bool? = nil
    ) {
        self.id = id
        self.epoch = epoch
        self.fenced = fenced
        self.inControlledShutdown = inControlledShutdown
    }
}

/// A change to one partition; `nil` leaves a field as it is.
///
/// The partition epoch rises by one.
package struct PartitionChange: Equatable, Sendable {
    /// A leader that is named starts a new leader epoch, even if it led before.
    package enum NewLeader: Equatable, Sendable {
        case none
        case broker(NodeID)
    }

    package var id: TopicPartition
    package var replicas: [NodeID]?
    package var isr: [NodeID]?
    package var eligibleLeaderReplicas: [NodeID]?
    package var leader: NewLeader?
    package var offlineReplicas: [NodeID]?

    package init(
        id: TopicPartition, replicas: [NodeID]? = nil, isr: [NodeID]? = nil,
        eligibleLeaderReplicas: [NodeID]? = nil, leader: NewLeader? = nil,
        offlineReplicas: [NodeID]? = nil
    ) {
        self.id = id
        self.replicas = replicas
        self.isr = isr
        self.eligibleLeaderReplicas = eligibleLeaderReplicas
        self.leader = leader
        self.offlineReplicas = offlineReplicas
    }
}

/// What a config belongs to.
package enum ConfigResource: Hashable, Sendable {
    case topic(String)
    case broker(NodeID)
    /// The default of all brokers, and of all topics that say nothing themselves.
    case clusterDefault
}

/// Sets one config, or removes it where `value` is `nil`.
package struct ConfigChange: Equatable, Sendable {
    package var resource: ConfigResource
    package var name: String
    package var value: String?

    package init(resource: ConfigResource, name: String, value: String?) {
        self.resource = resource
        self.name = name
        self.value = value
    }
}
