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
            broker did not stop cleanly and is the last that may lead some partitions; with another \
            flush.policy than commit, records it acknowledged may be lost
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
        var directories: [DirectoryID] = []
        for data in wire.logDirectoryIds {
            directories.append(try uniqueID(data, "log_directory_ids"))
        }
        self.init(
            clusterID: wire.clusterID, broker: NodeID(wire.brokerID),
            incarnation: try uniqueID(wire.incarnationID, "incarnation_id"), host: wire.host,
            port: Int(wire.port), rack: wire.rack.isEmpty ? nil : wire.rack,
            directories: directories, previousEpoch: BrokerEpoch(wire.previousBrokerEpoch),
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
