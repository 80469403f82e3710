internal import Essentials
internal import Protocol
internal import SwiftProtobuf

#if canImport(FoundationEssentials)
    internal import FoundationEssentials
#else
    internal import Foundation
#endif

extension MetadataRecord {
    /// The record as one protobuf `MetadataRecord`.
    package func encoded() -> [UInt8] {
        do {
            return try wire.serializedBytes()
        } catch {
            // Encoding fails only for missing proto2 fields and for messages past 2 GiB.
            invariant(false, "cannot encode \(self): \(error)")
            return []
        }
    }

    /// Reads what `encoded()` gave, from a disk or a network.
    package init(decoding bytes: [UInt8]) throws(MetadataError) {
        let wire: WireMetadataRecord
        do {
            wire = try WireMetadataRecord(serializedBytes: bytes)
        } catch {
            throw .undecodable("\(error)")
        }
        guard let kind = wire.kind else { throw .unknownKind }
        self = try Self.record(of: kind)
    }

    private var wire: WireMetadataRecord {
        var wire = WireMetadataRecord()
        switch self {
        case .featureLevel(let name, let level):
            wire.featureLevel.name = name
            wire.featureLevel.level = level
        case .registerBroker(let broker):
            wire.registerBroker = broker.wire
        case .unregisterBroker(let id, let epoch):
            wire.unregisterBroker.brokerID = id.rawValue
            wire.unregisterBroker.brokerEpoch = epoch.rawValue
        case .brokerChange(let change):
            wire.brokerChange.brokerID = change.id.rawValue
            wire.brokerChange.brokerEpoch = change.epoch.rawValue
            if let fenced = change.fenced { wire.brokerChange.fenced = fenced }
            if let stopping = change.inControlledShutdown {
                wire.brokerChange.inControlledShutdown = stopping
            }
        case .topic(let id, let name, let request):
            wire.topic.topicID = Data(id.bytes)
            wire.topic.name = name
            if let request { wire.topic.requestID = Data(request.bytes) }
        case .removeTopic(let id):
            wire.removeTopic.topicID = Data(id.bytes)
        case .partition(let id, let state):
            wire.partition = state.wire(id)
        case .partitionChange(let change):
            wire.partitionChange = change.wire
        case .config(let change):
            wire.config = change.wire
        case .noOp:
            wire.noOp = WireMetadataRecord.NoOp()
        case .producerIDs(let broker, let epoch, let next):
            wire.producerIds.brokerID = broker.rawValue
            wire.producerIds.brokerEpoch = epoch.rawValue
            wire.producerIds.nextProducerID = next
        }
        return wire
    }

    private static func record(
        of kind: WireMetadataRecord.OneOf_Kind
    ) throws(MetadataError) -> MetadataRecord {
        switch kind {
        case .featureLevel(let wire):
            return .featureLevel(name: wire.name, level: wire.level)
        case .registerBroker(let wire):
            return .registerBroker(try BrokerRegistration(wire))
        case .unregisterBroker(let wire):
            return .unregisterBroker(
                NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch))
        case .brokerChange(let wire):
            return .brokerChange(
                BrokerChange(
                    id: NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch),
                    fenced: wire.hasFenced ? wire.fenced : nil,
                    inControlledShutdown: wire.hasInControlledShutdown
                        ? wire.inControlledShutdown : nil))
        case .topic(let wire):
            return .topic(
                id: try id(wire.topicID, in: "Topic"), name: wire.name,
                request: wire.requestID.isEmpty
                    ? nil : try id(wire.requestID, in: "Topic", field: "request_id"))
        case .removeTopic(let wire):
            return .removeTopic(try id(wire.topicID, in: "RemoveTopic"))
        case .partition(let wire):
            let topic = try id(wire.topicID, in: "Partition")
            return .partition(
                TopicPartition(topic: topic, partition: wire.partition), PartitionState(wire))
        case .partitionChange(let wire):
            return .partitionChange(try PartitionChange(wire))
        case .config(let wire):
            return .config(try ConfigChange(wire))
        case .noOp:
            return .noOp
        case .producerIds(let wire):
            return .producerIDs(
                broker: NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch),
                next: wire.nextProducerID)
        }
    }

    fileprivate static func id(
        _ data: Data, in record: String, field: String = "topic_id"
    ) throws(MetadataError) -> UniqueID {
        guard let id = UniqueID(bytes: data) else {
            throw .invalidField(record: record, field: field)
        }
        return id
    }
}

extension BrokerRegistration {
    fileprivate var wire: WireMetadataRecord.RegisterBroker {
        var wire = WireMetadataRecord.RegisterBroker()
        wire.brokerID = id.rawValue
        wire.incarnationID = Data(incarnation.bytes)
        wire.brokerEpoch = epoch.rawValue
        wire.host = host
        wire.port = Int32(clamping: port)
        wire.rack = rack ?? ""
        wire.logDirectoryIds = directories.map { Data($0.bytes) }
        wire.offlineLogDirectoryIds = offlineDirectories.map { Data($0.bytes) }
        wire.fenced = fenced
        wire.inControlledShutdown = inControlledShutdown
        if let featureLevels {
            wire.minFeatureLevel = featureLevels.lowerBound
            wire.maxFeatureLevel = featureLevels.upperBound
        }
        return wire
    }

    fileprivate init(_ wire: WireMetadataRecord.RegisterBroker) throws(MetadataError) {
        let record = "RegisterBroker"
        func ids(_ list: [Data], _ field: String) throws(MetadataError) -> [DirectoryID] {
            var ids: [DirectoryID] = []
            for data in list { ids.append(try MetadataRecord.id(data, in: record, field: field)) }
            return ids
        }
        guard wire.minFeatureLevel <= wire.maxFeatureLevel else {
            throw .invalidField(record: record, field: "min_feature_level")
        }
        self.init(
            id: NodeID(wire.brokerID),
            incarnation: try MetadataRecord.id(
                wire.incarnationID, in: record, field: "incarnation_id"),
            epoch: BrokerEpoch(wire.brokerEpoch), host: wire.host, port: Int(wire.port),
            rack: wire.rack.isEmpty ? nil : wire.rack,
            directories: try ids(wire.logDirectoryIds, "log_directory_ids"),
            offlineDirectories: try ids(
                wire.offlineLogDirectoryIds, "offline_log_directory_ids"),
            fenced: wire.fenced, inControlledShutdown: wire.inControlledShutdown,
            // No release supports level 0 only: it is what an absent field reads as.
            featureLevels: wire.maxFeatureLevel == 0
                ? nil : wire.minFeatureLevel...wire.maxFeatureLevel)
    }
}

extension PartitionState {
    fileprivate func wire(_ id: TopicPartition) -> WireMetadataRecord.Partition {
        var wire = WireMetadataRecord.Partition()
        wire.topicID = Data(id.topic.bytes)
        wire.partition = id.partition
        wire.replicas = replicas.map(\.rawValue)
        wire.isr = isr.map(\.rawValue)
        wire.eligibleLeaderReplicas = eligibleLeaderReplicas.map(\.rawValue)
        wire.offlineReplicas = offlineReplicas.map(\.rawValue)
        wire.leader = leader?.rawValue ?? -1
        wire.leaderEpoch = leaderEpoch.rawValue
        wire.partitionEpoch = partitionEpoch.rawValue
        return wire
    }

    fileprivate init(_ wire: WireMetadataRecord.Partition) {
        self.init(
            replicas: wire.replicas.map { NodeID($0) }, isr: wire.isr.map { NodeID($0) },
            eligibleLeaderReplicas: wire.eligibleLeaderReplicas.map { NodeID($0) },
            offlineReplicas: wire.offlineReplicas.map { NodeID($0) },
            leader: wire.leader < 0 ? nil : NodeID(wire.leader),
            leaderEpoch: LeaderEpoch(wire.leaderEpoch),
            partitionEpoch: PartitionEpoch(wire.partitionEpoch))
    }
}

extension PartitionChange {
    fileprivate var wire: WireMetadataRecord.PartitionChange {
        var wire = WireMetadataRecord.PartitionChange()
        wire.topicID = Data(id.topic.bytes)
        wire.partition = id.partition
        if let replicas { wire.replicas.brokers = replicas.map(\.rawValue) }
        // The list is set explicitly: an empty one says "nobody", an absent one "as before".
        if let isr {
            wire.isr = WireMetadataRecord.BrokerList()
            wire.isr.brokers = isr.map(\.rawValue)
        }
        if let eligibleLeaderReplicas {
            wire.eligibleLeaderReplicas = WireMetadataRecord.BrokerList()
            wire.eligibleLeaderReplicas.brokers = eligibleLeaderReplicas.map(\.rawValue)
        }
        if let offlineReplicas {
            wire.offlineReplicas = WireMetadataRecord.BrokerList()
            wire.offlineReplicas.brokers = offlineReplicas.map(\.rawValue)
        }
        switch leader {
        case nil: break
        case .some(.none): wire.leader = -1
        case .broker(let id): wire.leader = id.rawValue
        }
        return wire
    }

    fileprivate init(_ wire: WireMetadataRecord.PartitionChange) throws(MetadataError) {
        let topic = try MetadataRecord.id(wire.topicID, in: "PartitionChange")
        self.init(
            id: TopicPartition(topic: topic, partition: wire.partition),
            replicas: wire.hasReplicas ? wire.replicas.brokers.map { NodeID($0) } : nil,
            isr: wire.hasIsr ? wire.isr.brokers.map { NodeID($0) } : nil,
            eligibleLeaderReplicas: wire.hasEligibleLeaderReplicas
                ? wire.eligibleLeaderReplicas.brokers.map { NodeID($0) } : nil,
            leader: wire.hasLeader
                ? (wire.leader < 0 ? NewLeader.none : .broker(NodeID(wire.leader))) : nil,
            offlineReplicas: wire.hasOfflineReplicas
                ? wire.offlineReplicas.brokers.map { NodeID($0) } : nil)
    }
}

extension ConfigChange {
    fileprivate var wire: WireMetadataRecord.Config {
        var wire = WireMetadataRecord.Config()
        switch resource {
        case .topic(let topic):
            wire.resourceKind = .topic
            wire.resourceName = topic
        case .broker(let id):
            wire.resourceKind = .broker
            wire.resourceName = id.description
        case .clusterDefault:
            wire.resourceKind = .broker
        }
        wire.name = name
        if let value { wire.value = value }
        return wire
    }

    fileprivate init(_ wire: WireMetadataRecord.Config) throws(MetadataError) {
        let resource: ConfigResource
        switch wire.resourceKind {
        case .topic:
            resource = .topic(wire.resourceName)
        case .broker where wire.resourceName.isEmpty:
            resource = .clusterDefault
        case .broker:
            guard let id = Int32(wire.resourceName) else {
                throw .invalidField(record: "Config", field: "resource_name")
            }
            resource = .broker(NodeID(id))
        case .unspecified, .UNRECOGNIZED:
            throw .invalidField(record: "Config", field: "resource_kind")
        }
        self.init(
            resource: resource, name: wire.name, value: wire.hasValue ? wire.value : nil)
    }
}
