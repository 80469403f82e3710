internal import Essentials
internal import Protocol

/// Configs that change while the cluster runs, and the levels of its features.
extension Admin {
    /// The configs in force, by name, and where each comes from.
    ///
    /// - Parameter names: all that there are if empty.
    /// - Throws: `UNKNOWN_TOPIC_OR_PARTITION`, `BROKER_ID_NOT_REGISTERED`, `INVALID_CONFIG` for a name
    ///   that does not exist.
    public func describeConfigs(
        of resource: ConfigResource, names: [String] = []
    ) async throws(MillraceError) -> [ConfigEntry] {
        var request = WireDescribeConfigsRequest()
        (request.resourceType, request.resourceName) = resource.wire
        request.names = names
        let answer: WireDescribeConfigsResponse = try await core.callAny(
            Self.service + "DescribeConfigs", request)
        return answer.entries.map(ConfigEntry.init).sorted { $0.name < $1.name }
    }

    /// Changes some configs, all or none, and leaves the others as they are.
    ///
    /// They are in force at once, without a restart.
    /// - Throws: `INVALID_CONFIG` for a name or a value that is not accepted.
    public func alterConfigs(
        of resource: ConfigResource, _ changes: [ConfigAlteration], validateOnly: Bool = false
    ) async throws(MillraceError) {
        var request = WireAlterConfigsRequest()
        (request.resourceType, request.resourceName) = resource.wire
        request.changes = changes.map(\.wire)
        request.validateOnly = validateOnly
        let _: WireAlterConfigsResponse = try await core.callAny(
            Self.service + "AlterConfigs", request)
    }

    // MARK: Features

    /// Every feature, its level in use, and what all nodes support.
    public func describeFeatures() async throws(MillraceError) -> [FeatureDescription] {
        let answer: WireDescribeFeaturesResponse = try await core.callAny(
            Self.service + "DescribeFeatures", WireDescribeFeaturesRequest())
        return answer.features.map(FeatureDescription.init).sorted { $0.name < $1.name }
    }

    /// Finalises the level of a feature: from then on nodes that don't understand it can't join.
    ///
    /// - Parameter level: the highest that every node supports if `nil`.
    /// - Returns: every feature from then on.
    /// - Throws: `FEATURE_UPDATE_FAILED` while some node does not support the level, or was not heard
    ///   from; `INVALID_UPDATE_VERSION` for a level that can't be gone back to.
    public func updateFeature(
        _ name: String, to level: Int32? = nil, validateOnly: Bool = false
    ) async throws(MillraceError) -> [FeatureDescription] {
        var update = WireFeatureUpdate()
        update.name = name
        if let level { update.level = level }
        var request = WireUpdateFeaturesRequest()
        request.updates = [update]
        request.validateOnly = validateOnly
        let answer: WireUpdateFeaturesResponse = try await core.callAny(
            Self.service + "UpdateFeatures", request)
        return answer.features.map(FeatureDescription.init).sorted { $0.name < $1.name }
    }
}

// MARK: To and from the wire

extension ConfigResource {
    var wire: (WireConfigResourceType, String) {
        switch self {
        case .topic(let name): (.topic, name)
        case .broker(let id): (.broker, String(id))
        case .cluster: (.cluster, "")
        }
    }
}

extension ConfigAlteration {
    var wire: WireConfigAlteration {
        var change = WireConfigAlteration()
        change.name = name
        switch operation {
        case .set(let value):
            change.operation = .set
            change.value = value
        case .delete:
            change.operation = .delete
        case .append(let item):
            change.operation = .append
            change.value = item
        case .subtract(let item):
            change.operation = .subtract
            change.value = item
        }
        return change
    }
}

extension ConfigEntry {
    init(_ entry: WireConfigEntry) {
        self.init(
            name: entry.name, value: entry.value,
            source: Source(rawValue: entry.source) ?? .default,
            defaultValue: entry.defaultValue, documentation: entry.documentation)
    }
}

extension FeatureDescription {
    init(_ feature: WireFeatureDescription) {
        let (low, high) = (feature.minSupportedLevel, feature.maxSupportedLevel)
        let isKnown = feature.hasMinSupportedLevel && feature.hasMaxSupportedLevel && low <= high
        self.init(
            name: feature.name,
            finalizedLevel: feature.hasFinalizedLevel ? feature.finalizedLevel : nil,
            supportedLevels: isKnown ? low...high : nil)
    }
}
