internal import Essentials

/// A config a topic may have, by Kafka's names, with the values it takes.
package enum TopicConfigKey: String, CaseIterable, Sendable {
    case cleanupPolicy = "cleanup.policy"
    case compressionType = "compression.type"
    case flushPolicy = "flush.policy"
    case maxMessageBytes = "max.message.bytes"
    case minInSyncReplicas = "min.insync.replicas"
    case retentionBytes = "retention.bytes"
    case retentionMs = "retention.ms"
    case segmentBytes = "segment.bytes"
    case uncleanLeaderElection = "unclean.leader.election.enable"

    private enum Values {
        case integer(ClosedRange<Int64>)
        case oneOf([String])
        /// One or more of these, separated by commas.
        case listOf([String])
    }

    private var values: Values {
        switch self {
        case .cleanupPolicy: .listOf(["delete", "compact"])
        case .compressionType:
            .oneOf(["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])
        case .flushPolicy: .oneOf(TopicFlushPolicy.allCases.map(\.rawValue))
        case .maxMessageBytes: .integer(0...Int64(Int32.max))
        case .minInSyncReplicas: .integer(1...Int64(Int32.max))
        case .retentionBytes, .retentionMs: .integer(-1...Int64.max)
        case .segmentBytes: .integer(1024...Int64(Int32.max))
        case .uncleanLeaderElection: .oneOf(["true", "false"])
        }
    }

    /// What is wrong with `value`, in words for whoever wrote it; `nil` when nothing is.
    package func problem(with value: String) -> String? {
        switch values {
        case .integer(let range):
            if let number = Int64(value), range.contains(number) { return nil }
            let bounds =
                range.upperBound == .max
                ? "\(range.lowerBound) or more" : "\(range.lowerBound) to \(range.upperBound)"
            return "\(rawValue) takes a whole number, \(bounds), not '\(value)'"
        case .oneOf(let allowed):
            if allowed.contains(value) { return nil }
            return "\(rawValue) takes \(allowed.joined(separator: ", ")), not '\(value)'"
        case .listOf(let allowed):
            let items = Self.items(of: value)
            if !items.isEmpty, items.allSatisfy(allowed.contains) { return nil }
            return "\(rawValue) takes a list of \(allowed.joined(separator: ", ")), not '\(value)'"
        }
    }

    /// Checks configs as a user gave them.
    ///
    /// - Throws: INVALID_CONFIG with the first problem by name; an unknown name comes with the
    ///   known one that it most resembles.
    package static func validate(_ configs: [String: String]) throws(ControllerError) {
        for (name, value) in configs.sorted(by: { $0.key < $1.key }) {
            guard let key = TopicConfigKey(rawValue: name) else {
                let nearest = nearest(to: name, among: allCases.map(\.rawValue)) ?? ""
                throw ControllerError(
                    .invalidConfig,
                    "there is no topic config '\(name)'; did you mean '\(nearest)'?")
            }
            if let problem = key.problem(with: value) {
                throw ControllerError(.invalidConfig, problem)
            }
        }
    }

    static func items(of list: String) -> [String] {
        list.split(separator: ",", omittingEmptySubsequences: false).map { item in
            String(item.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
        }
    }
}

/// When appended records must be on stable storage.
package enum TopicFlushPolicy: String, CaseIterable, Sendable {
    /// Before they are acknowledged: group commit.
    case commit
    /// Every so often.
    case interval
    /// Whenever the operating system likes, as Kafka does by default.
    case os
}
