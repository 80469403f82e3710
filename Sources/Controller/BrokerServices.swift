internal import Essentials
internal import Logging
internal import Metadata
internal import NIOCore
internal import Protocol
internal import RPC
internal import SwiftProtobuf

#if canImport(FoundationEssentials)
    internal import FoundationEssentials
#else
    internal import Foundation
#endif

/// `millrace.internal.v1.Controller`: what brokers ask of the active controller.
///
/// `@unchecked Sendable`: used on the control loop only, where the server's connections live too.
final class BrokerServices: @unchecked Sendable {
    private let controller: ActiveController
    private let watch: BrokerWatch
    private let logger: Logger

    init(controller: ActiveController, watch: BrokerWatch, logger: Logger) {
        self.controller = controller
        self.watch = watch
        self.logger = logger
    }

    func register(in router: inout Router) {
        let service = "/millrace.internal.v1.Controller/"
        router.register(service + "RegisterBroker") { self.registerBroker($0) }
        router.register(service + "Heartbeat") { self.heartbeat($0) }
        router.register(service + "AlterPartition") { self.alterPartition($0) }
        router.register(service + "ReportReplicas") { self.reportReplicas($0) }
        router.register(service + "AllocateProducerIds") { self.allocateProducerIDs($0) }
    }

    private func registerBroker(_ call: ServerCall) {
        do throws(RPCError) {
            let wire = try call.decode(WireRegisterBrokerRequest.self)
            let request = try RegistrationRequest(wire)
            controller.submit { state, now throws(ControllerError) in
                try state.registerBroker(request, now: now)
            } completion: { [self] result in
                call.end(result) { reply in
                    watch.heard(request.broker, epoch: reply.epoch, over: call)
                    if reply.lastCandidateOf > 0 { warnOfLastCandidate(request.broker, reply) }
                    var answer = WireRegisterBrokerResponse()
                    answer.brokerEpoch = reply.epoch.rawValue
                    return answer
                }
            }
        } catch {
            call.fail(error)
        }
    }

    private func warnOfLastCandidate(_ broker: NodeID, _ reply: RegistrationReply) {
        logger.warning(
            """
            broker did not stop cleanly, or could not use some logs when it did, and is the last that may \
            lead these partitions; with another flush.policy than commit, records it acknowledged may be \
            lost
            """,
            metadata: ["broker": "\(broker)", "partitions": "\(reply.lastCandidateOf)"])
    }

    private func heartbeat(_ call: ServerCall) {
        do throws(RPCError) {
            let wire = try call.decode(WireHeartbeatRequest.self)
            let request = HeartbeatRequest(
                broker: NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch),
                appliedOffset: Offset(wire.appliedOffset), wantsFence: wire.wantFence,
                wantsShutdown: wire.wantShutdown)
            controller.heartbeat(request) { [self] result in
                call.end(result) { reply in
                    watch.heard(request.broker, epoch: request.epoch, over: call)
                    var answer = WireHeartbeatResponse()
                    answer.isFenced = reply.isFenced
                    answer.isCaughtUp = reply.isCaughtUp
                    answer.shouldShutDown = reply.shouldShutDown
                    return answer
                }
            }
        } catch {
            call.fail(error)
        }
    }

    private func alterPartition(_ call: ServerCall) {
        do throws(RPCError) {
            let request = try AlterPartitionRequest(
                try call.decode(WireAlterPartitionRequest.self))
            controller.submit { state, _ throws(ControllerError) in
                try state.alterPartition(request)
            } completion: { result in
                call.end(result) { outcomes in
                    var answer = WireAlterPartitionResponse()
                    answer.partitions = outcomes.map(
                        WireAlterPartitionResponse.PartitionResult.init)
                    return answer
                }
            }
        } catch {
            call.fail(error)
        }
    }

    private func reportReplicas(_ call: ServerCall) {
        do throws(RPCError) {
            let report = try ReplicaReport(try call.decode(WireReportReplicasRequest.self))
            controller.submit { state, _ throws(ControllerError) in
                try state.reportReplicas(report)
            } completion: { [self] result in
                call.end(result) { reply in
                    log(report, reply)
                    var answer = WireReportReplicasResponse()
                    answer.replicas = zip(report.replicas, reply.errors).map { replica, error in
                        var result = WireReportReplicasResponse.ReplicaResult()
                        result.topicID = Data(replica.id.topic.bytes)
                        result.partition = replica.id.partition
                        result.error = error?.name ?? ""
                        return result
                    }
                    return answer
                }
            }
        } catch {
            call.fail(error)
        }
    }

    /// Says once what a report changed, however often it is repeated.
    private func log(_ report: ReplicaReport, _ reply: ReplicaReportReply) {
        if reply.newlyOffline > 0 {
            logger.warning(
                "broker can't use some of its replicas; others lead where they can",
                metadata: [
                    "broker": "\(report.broker)", "replicas": "\(reply.newlyOffline)",
                    "damaged": "\(reply.damaged)", "leaderless": "\(reply.leaderless)",
                ])
        }
        if reply.newlyOnline > 0 {
            logger.info(
                "broker can use some of its replicas again",
                metadata: ["broker": "\(report.broker)", "replicas": "\(reply.newlyOnline)"])
        }
    }

    private func allocateProducerIDs(_ call: ServerCall) {
        do throws(RPCError) {
            let wire = try call.decode(WireAllocateProducerIdsRequest.self)
            controller.submit { state, _ throws(ControllerError) in
                try state.allocateProducerIDs(
                    broker: NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch))
            } completion: { result in
                call.end(result) { block in
                    var answer = WireAllocateProducerIdsResponse()
                    answer.firstProducerID = block.first
                    answer.count = block.count
                    return answer
                }
            }
        } catch {
            call.fail(error)
        }
    }
}

extension ServerCall {
    /// Answers with what `body` makes of a success, or with the failure.
    func end<Reply>(_ result: Result<Reply, RPCError>, _ body: (Reply) -> some Message) {
        switch result {
        case .success(let reply): respond(body(reply))
        case .failure(let error): fail(error)
        }
    }
}

private func uniqueID(_ data: Data, _ field: String) throws(RPCError) -> UniqueID {
    guard let id = UniqueID(bytes: data) else {
        throw RPCError(.invalidRequest, "\(field) must be 16 bytes, not \(data.count)")
    }
    return id
}

extension RegistrationRequest {
    fileprivate init(_ wire: WireRegisterBrokerRequest) throws(RPCError) {
        func ids(_ list: [Data], _ field: String) throws(RPCError) -> [DirectoryID] {
            var ids: [DirectoryID] = []
            for data in list { ids.append(try uniqueID(data, field)) }
            return ids
        }
        self.init(
            clusterID: wire.clusterID, broker: NodeID(wire.brokerID),
            incarnation: try uniqueID(wire.incarnationID, "incarnation_id"), host: wire.host,
            port: Int(wire.port), rack: wire.rack.isEmpty ? nil : wire.rack,
            directories: try ids(wire.logDirectoryIds, "log_directory_ids"),
            offlineDirectories: try ids(
                wire.offlineLogDirectoryIds, "offline_log_directory_ids"),
            missingDirectories: Int(wire.missingLogDirectories),
            previousEpoch: BrokerEpoch(wire.previousBrokerEpoch),
            maxFeatureLevel: wire.maxFeatureLevel, minFeatureLevel: wire.minFeatureLevel)
    }
}

extension AlterPartitionRequest {
    fileprivate init(_ wire: WireAlterPartitionRequest) throws(RPCError) {
        var changes: [Change] = []
        for partition in wire.partitions {
            changes.append(
                Change(
                    id: TopicPartition(
                        topic: try uniqueID(partition.topicID, "topic_id"),
                        partition: partition.partition),
                    leaderEpoch: LeaderEpoch(partition.leaderEpoch),
                    partitionEpoch: PartitionEpoch(partition.partitionEpoch),
                    isr: partition.isr.map {
                        Member(broker: NodeID($0.brokerID), epoch: BrokerEpoch($0.brokerEpoch))
                    }))
        }
        self.init(
            broker: NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch), changes: changes)
    }
}

extension ReplicaReport {
    fileprivate init(_ wire: WireReportReplicasRequest) throws(RPCError) {
        var replicas: [Replica] = []
        replicas.reserveCapacity(wire.replicas.count)
        for replica in wire.replicas {
            replicas.append(
                Replica(
                    id: TopicPartition(
                        topic: try uniqueID(replica.topicID, "topic_id"),
                        partition: replica.partition),
                    state: State(replica.state)))
        }
        self.init(
            broker: NodeID(wire.brokerID), epoch: BrokerEpoch(wire.brokerEpoch), replicas: replicas)
    }
}

extension ReplicaReport.State {
    fileprivate init?(_ wire: WireReportReplicasRequest.State) {
        switch wire {
        case .offline: self = .offline
        case .damaged: self = .damaged
        case .online: self = .online
        case .unspecified, .UNRECOGNIZED: return nil
        }
    }
}

extension WireAlterPartitionResponse.PartitionResult {
    fileprivate init(_ outcome: AlterPartitionOutcome) {
        self.init()
        topicID = Data(outcome.id.topic.bytes)
        partition = outcome.id.partition
        error = outcome.error?.name ?? ""
        leaderID = outcome.state?.leader?.rawValue ?? -1
        leaderEpoch = outcome.state?.leaderEpoch.rawValue ?? -1
        isr = outcome.state?.isr.map(\.rawValue) ?? []
        partitionEpoch = outcome.state?.partitionEpoch.rawValue ?? -1
    }
}
