internal import Essentials
internal import HashTreeCollections
internal import Metadata
internal import Protocol
internal import RPC

/// Feature levels.
extension AdminServices {
    func describeFeatures(_ call: ServerCall) throws(RPCError) {
        _ = try call.decode(WireDescribeFeaturesRequest.self)
        read(call) { [self] image throws(RPCError) in
            // Who supports what is known by ear, to the active controller only.
            guard let state = controller.leadership?.state else { throw controller.notController() }
            var answer = WireDescribeFeaturesResponse()
            answer.features = state.describeFeatures(heard: quorum.heardLevels).map { feature in
                var feature = feature
                feature.finalizedLevel = image.features[feature.name]
                return WireFeatureDescription(feature)
            }
            return answer
        }
    }

    func updateFeatures(_ call: ServerCall) throws(RPCError) {
        let wire = try call.decode(WireUpdateFeaturesRequest.self)
        guard !wire.updates.isEmpty else {
            throw RPCError(.invalidRequest, "say which features to update: `updates` is empty")
        }
        let updates = wire.updates.map {
            FeatureUpdate(name: $0.name, level: $0.hasLevel ? $0.level : nil)
        }
        let heard = quorum.heardLevels
        controller.submit { state, _ throws(ControllerError) in
            let result = try state.updateFeatures(updates, heard: heard)
            return wire.validateOnly ? state.checkOnly(result) : result
        } completion: { [self] result in
            finish(call, result) { features in
                var answer = WireUpdateFeaturesResponse()
                answer.features = features.map(WireFeatureDescription.init)
                return answer
            }
        }
    }
}

extension WireFeatureDescription {
    fileprivate init(_ feature: FeatureDescription) {
        self.init()
        name = feature.name
        if let level = feature.finalizedLevel { finalizedLevel = level }
        if let levels = feature.supportedLevels {
            minSupportedLevel = levels.lowerBound
            maxSupportedLevel = levels.upperBound
        }
    }
}
