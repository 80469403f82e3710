package import Essentials
internal import HashTreeCollections

/// The levels of `metadata.version` that nodes said they support, as far as they were heard from.
package struct HeardLevels: Equatable, Sendable {
    /// Every voter of the quorum; `nil` for one that has not been heard from.
    package var voters: [NodeID: ClosedRange<Int32>?]
    /// Whoever else was heard from, brokers above all.
    package var observers: [NodeID: ClosedRange<Int32>]

    package init(
        voters: [NodeID: ClosedRange<Int32>?] = [:], observers: [NodeID: ClosedRange<Int32>] = [:]
    ) {
        self.voters = voters
        self.observers = observers
    }
}

package struct FeatureUpdate: Equatable, Sendable {
    package var name: String
    /// `nil` for the highest that every node supports.
    package var level: Int32?

    package init(name: String, level: Int32? = nil) {
        self.name = name
        self.level = level
    }
}

package struct FeatureDescription: Equatable, Sendable {
    package var name: String
    /// `nil` before the first is set.
    package var finalizedLevel: Int32?
    /// The levels that every node heard from supports; `nil` when they have none in common.
    package var supportedLevels: ClosedRange<Int32>?

    package init(
        name: String, finalizedLevel: Int32?, supportedLevels: ClosedRange<Int32>?
    ) {
        self.name = name
        self.finalizedLevel = finalizedLevel
        self.supportedLevels = supportedLevels
    }
}

extension ControllerState {
    /// Raises feature levels, once every node that must read the new records can (KIP-584).
    package func updateFeatures(
        _ updates: [FeatureUpdate], heard: HeardLevels
    ) throws(ControllerError) -> ControllerResult<[FeatureDescription]> {
        guard Set(updates.map(\.name)).count == updates.count else {
            throw ControllerError(.invalidRequest, "a feature is listed twice; list it once")
        }
        var draft = MetadataDraft(image: image, options: options)
        for update in updates {
            let level = try checked(update, heard)
            if level != image.features[update.name] {
                draft.append(.featureLevel(name: update.name, level: level))
            }
        }
        return draft.result(Self.describe(draft.image, nodeLevels(heard)))
    }

    /// Every feature with its level, in the speculative image.
    package func describeFeatures(heard: HeardLevels) -> [FeatureDescription] {
        Self.describe(image, nodeLevels(heard))
    }

    private static func describe(
        _ image: MetadataImage, _ nodes: [NodeLevels]
    ) -> [FeatureDescription] {
        MetadataFeatures.names.map { name in
            let all =
                nodes.compactMap(\.levels) + [MetadataFeatures.supportedLevels(of: name) ?? 0...0]
            let lowest = all.map(\.lowerBound).max() ?? 0
            let highest = all.map(\.upperBound).min() ?? 0
            return FeatureDescription(
                name: name, finalizedLevel: image.features[name],
                supportedLevels: lowest <= highest ? lowest...highest : nil)
        }
    }

    private func checked(
        _ update: FeatureUpdate, _ heard: HeardLevels
    ) throws(ControllerError) -> Int32 {
        func fail(_ reason: String) -> ControllerError {
            ControllerError(.featureUpdateFailed, reason)
        }
        let name = update.name
        guard let own = MetadataFeatures.supportedLevels(of: name) else {
            let known = nearest(to: name, among: MetadataFeatures.names) ?? ""
            throw fail("there is no feature '\(name)'; did you mean '\(known)'?")
        }
        let nodes = nodeLevels(heard)
        let current = image.features[name] ?? 0
        let level: Int32
        if let wanted = update.level {
            level = wanted
        } else {
            level = nodes.reduce(own.upperBound) { min($0, $1.levels?.upperBound ?? $0) }
        }
        guard level >= current else {
            throw fail(
                "\(name) is at level \(current), and never goes back: records of that level may be "
                    + "written already")
        }
        if level == current { return level }
        guard own.contains(level) else {
            throw fail(
                "\(name) \(level) is beyond this release, which supports \(own.text); "
                    + "upgrade every node first")
        }
        for node in nodes {
            guard let levels = node.levels else {
                throw fail(
                    "\(node.what) has not said which levels of \(name) it supports; "
                        + "\(node.remedy)")
            }
            guard levels.contains(level) else {
                throw fail(
                    "\(node.what) supports \(name) \(levels.text) and not \(level); upgrade it"
                        + (node.isBroker ? ", or unregister it" : ", or remove it from the voters"))
            }
        }
        return level
    }

    /// A node that must understand what is written, and what it supports as far as that is known.
    private struct NodeLevels {
        var id: NodeID
        var isBroker: Bool
        var levels: ClosedRange<Int32>?

        var what: String { isBroker ? "broker \(id)" : "controller \(id)" }
        var remedy: String {
            isBroker ? "start it, or unregister it" : "start it, or remove it from the voters"
        }
    }

    private func nodeLevels(_ heard: HeardLevels) -> [NodeLevels] {
        let voters = heard.voters.sorted { $0.key < $1.key }.map { id, levels in
            NodeLevels(id: id, isBroker: false, levels: levels)
        }
        let brokers = image.brokers.values.sorted { $0.id < $1.id }.map { broker in
            let session = sessions[broker.id].flatMap { $0.epoch == broker.epoch ? $0 : nil }
            return NodeLevels(
                id: broker.id, isBroker: true,
                levels: broker.featureLevels ?? session?.featureLevels
                    ?? heard.observers[broker.id])
        }
        return voters + brokers
    }
}
