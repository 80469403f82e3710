internal import Essentials
internal import HashTreeCollections
internal import Logging
internal import Metadata

/// The log for people.
extension ActiveController {
    func report(_ records: [MetadataRecord], before: MetadataImage) {
        for record in records {
            switch record {
            case .registerBroker(let broker):
                logger.info(
                    "broker registered",
                    metadata: [
                        "broker": "\(broker.id)", "epoch": "\(broker.epoch)",
                        "address": "\(broker.host):\(broker.port)",
                    ])
            case .unregisterBroker(let id, _):
                logger.info("broker unregistered", metadata: ["broker": "\(id)"])
            case .brokerChange(let change):
                if let fenced = change.fenced {
                    logger.info(
                        fenced ? "broker fenced" : "broker unfenced",
                        metadata: ["broker": "\(change.id)"])
                } else if change.inControlledShutdown == true {
                    logger.info("broker shuts down", metadata: ["broker": "\(change.id)"])
                }
            case .topic(let id, let name, _):
                let partitions = committed.topics[id]?.partitions.count ?? 0
                logger.info(
                    "topic created", metadata: ["topic": "\(name)", "partitions": "\(partitions)"])
            case .removeTopic(let id):
                let name = before.topics[id]?.name ?? "\(id)"
                logger.info("topic deleted", metadata: ["topic": "\(name)"])
            case .featureLevel, .partition, .partitionChange, .config, .noOp, .producerIDs:
                break
            }
        }
    }

    /// One line for each of a few elections, and one for all the rest.
    func report(_ elections: [Election]) {
        for election in elections where election.kind == .unclean {
            logger.warning(
                "unclean election: committed records may be lost",
                metadata: election.metadata)
        }
        let others = elections.filter { $0.kind != .unclean }
        for election in others.prefix(10) {
            logger.info("leader elected", metadata: election.metadata)
        }
        if others.count > 10 {
            logger.info("more leaders elected", metadata: ["count": "\(others.count - 10)"])
        }
    }
}

extension Election {
    fileprivate var metadata: Logger.Metadata {
        [
            "partition": "\(topic)-\(partition)",
            "leader": "\(leader.map(String.init) ?? "none")", "epoch": "\(leaderEpoch)",
            "from": "\(kind)",
        ]
    }
}
