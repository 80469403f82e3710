internal import Essentials
internal import Metadata
internal import Protocol
internal import RPC

/// Configs that change while the cluster runs.
extension AdminServices {
    func alterConfigs(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireAlterConfigsRequest.self)
        let resource = try ConfigResource(wire.resourceType, wire.resourceName)
        var alterations: [ConfigAlteration] = []
        for change in wire.changes { alterations.append(try ConfigAlteration(change)) }
        guard !alterations.isEmpty else {
            throw RPCError(.invalidRequest, "say what to change: `changes` is empty")
        }
        controller.submit { [alterations] state, _ throws(ControllerError) in
            let result = try state.alterConfigs(of: resource, alterations)
            return wire.validateOnly ? state.checkOnly(result) : result
        } completion: { [self] result in
            finish(call, result) { WireAlterConfigsResponse() }
        }
    }

    func describeConfigs(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireDescribeConfigsRequest.self)
        let resource = try ConfigResource(wire.resourceType, wire.resourceName)
        read(call) { [self] image throws(RPCError) in
            do throws(ControllerError) {
                let entries = try image.describeConfigs(
                    of: resource, names: wire.names, options: controller.options)
                var answer = WireDescribeConfigsResponse()
                answer.entries = entries.map(WireConfigEntry.init)
                return answer
            } catch {
                throw RPCError(error.code, error.message)
            }
        }
    }
}

extension ConfigResource {
    fileprivate init(_ type: WireConfigResourceType, _ name: String) throws(RPCError) {
        switch type {
        case .topic:
            self = .topic(name)
        case .broker:
            guard let id = Int32(name) else {
                throw RPCError(
                    .invalidRequest,
                    "'\(name)' is no broker id; for what all brokers do, use the cluster's configs")
            }
            self = .broker(NodeID(id))
        case .cluster:
            guard name.isEmpty else {
                throw RPCError(
                    .invalidRequest, "the cluster has no name here, but '\(name)' was given")
            }
            self = .clusterDefault
        case .unspecified, .UNRECOGNIZED:
            throw RPCError(
                .invalidRequest, "`resource_type` must be a topic, a broker or the cluster")
        }
    }
}

extension ConfigAlteration {
    fileprivate init(_ wire: WireConfigAlteration) throws(RPCError) {
        let operation: Operation =
            switch wire.operation {
            case .set: .set(wire.value)
            case .delete: .delete
            case .append: .append(wire.value)
            case .subtract: .subtract(wire.value)
            case .UNRECOGNIZED(let number):
                throw RPCError(
                    .invalidRequest,
                    "there is no operation \(number) on configs; this release is older than the caller"
                )
            }
        self.init(name: wire.name, operation: operation)
    }
}

extension WireConfigEntry {
    fileprivate init(_ entry: ConfigEntry) {
        self.init()
        name = entry.name
        value = entry.value
        source = entry.source.rawValue
        defaultValue = entry.defaultValue
        documentation = entry.documentation
    }
}
