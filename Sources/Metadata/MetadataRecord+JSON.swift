internal import Essentials

extension MetadataRecord {
    /// What kind of record it is: `partitionChange`.
    package var typeName: String {
        switch self {
        case .featureLevel: "featureLevel"
        case .registerBroker: "registerBroker"
        case .unregisterBroker: "unregisterBroker"
        case .brokerChange: "brokerChange"
        case .topic: "topic"
        case .removeTopic: "removeTopic"
        case .partition: "partition"
        case .partitionChange: "partitionChange"
        case .config: "config"
        case .noOp: "noOp"
        case .producerIDs: "producerIds"
        }
    }

    /// Its fields as JSON on one line; equal records give equal text.
    package var json: String {
        let json =
            switch self {
            case .featureLevel(let name, let level):
                JSONText(["name": JSONText(name), "level": JSONText(level)])
            case .registerBroker(let broker):
                broker.json
            case .unregisterBroker(let id, let epoch):
                JSONText([
                    "brokerId": JSONText(id.rawValue), "brokerEpoch": JSONText(epoch.rawValue),
                ])
            case .brokerChange(let change):
                JSONText([
                    "brokerId": JSONText(change.id.rawValue),
                    "brokerEpoch": JSONText(change.epoch.rawValue),
                    "fenced": change.fenced.map { JSONText($0) },
                    "inControlledShutdown": change.inControlledShutdown.map { JSONText($0) },
                ])
            case .topic(let id, let name, let request):
                JSONText([
                    "name": JSONText(name), "topicId": JSONText(id.description),
                    "requestId": request.map { JSONText($0.description) },
                ])
            case .removeTopic(let id):
                JSONText(["topicId": JSONText(id.description)])
            case .partition(let id, let state):
                state.json(id: id)
            case .partitionChange(let change):
                change.json
            case .config(let change):
                change.json
            case .noOp:
                JSONText([:])
            case .producerIDs(let broker, let epoch, let next):
                JSONText([
                    "brokerId": JSONText(broker.rawValue), "brokerEpoch": JSONText(epoch.rawValue),
                    "nextProducerId": JSONText(next),
                ])
            }
        return json.text
    }
}

extension BrokerRegistration {
    var json: JSONText {
        JSONText([
            "brokerId": JSONText(id.rawValue),
            "incarnationId": JSONText(incarnation.description),
            "brokerEpoch": JSONText(epoch.rawValue),
            "host": JSONText(host),
            "port": JSONText(port),
            "rack": rack.map { JSONText($0) },
            "logDirectoryIds": JSONText(directories.map { JSONText($0.description) }),
            "offlineLogDirectoryIds": offlineDirectories.isEmpty
                ? nil : JSONText(offlineDirectories.map { JSONText($0.description) }),
            "fenced": JSONText(fenced),
            "inControlledShutdown": JSONText(inControlledShutdown),
            "minFeatureLevel": featureLevels.map { JSONText($0.lowerBound) },
            "maxFeatureLevel": featureLevels.map { JSONText($0.upperBound) },
        ])
    }
}

extension PartitionState {
    /// - Parameter id: left out where it goes without saying.
    func json(id: TopicPartition?) -> JSONText {
        JSONText([
            "topicId": id.map { JSONText($0.topic.description) },
            "partition": id.map { JSONText($0.partition) },
            "replicas": JSONText(replicas),
            "isr": JSONText(isr),
            "eligibleLeaderReplicas": JSONText(eligibleLeaderReplicas),
            "offlineReplicas": offlineReplicas.isEmpty ? nil : JSONText(offlineReplicas),
            "leader": leader.map { JSONText($0.rawValue) } ?? .null,
            "leaderEpoch": JSONText(leaderEpoch.rawValue),
            "partitionEpoch": JSONText(partitionEpoch.rawValue),
        ])
    }
}

extension PartitionChange {
    fileprivate var json: JSONText {
        let newLeader: JSONText? =
            switch leader {
            case nil: nil
            case .some(.none): .null
            case .broker(let id): JSONText(id.rawValue)
            }
        return JSONText([
            "topicId": JSONText(id.topic.description),
            "partition": JSONText(id.partition),
            "replicas": replicas.map { JSONText($0) },
            "isr": isr.map { JSONText($0) },
            "eligibleLeaderReplicas": eligibleLeaderReplicas.map { JSONText($0) },
            "offlineReplicas": offlineReplicas.map { JSONText($0) },
            "leader": newLeader,
        ])
    }
}

extension ConfigChange {
    fileprivate var json: JSONText {
        let topic: JSONText? = if case .topic(let name) = resource { JSONText(name) } else { nil }
        let broker: JSONText? =
            if case .broker(let id) = resource { JSONText(id.rawValue) } else { nil }
        return JSONText([
            "topic": topic,
            "brokerId": broker,
            "cluster": resource == .clusterDefault ? JSONText(true) : nil,
            "name": JSONText(name),
            "value": value.map { JSONText($0) } ?? .null,
        ])
    }
}
