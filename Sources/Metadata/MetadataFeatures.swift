internal import Essentials

/// The features whose levels a cluster agrees on, and what this release knows of each (KIP-584).
package enum MetadataFeatures {
    /// The feature that versions the metadata records themselves.
    package static let metadataVersion = "metadata.version"

    /// The levels of `metadata.version` that this release reads and writes.
    ///
    /// - 1: the first.
    /// - 2: blocks of producer ids, the levels that a broker supports in its registration, and the
    ///   request that created a topic.
    /// - 3: replicas that their brokers can't use, and log directories that could not be opened.
    package static let supported: ClosedRange<Int32> = 1...3

    /// From this level on registrations say which levels their broker supports.
    static let registrationLevels: Int32 = 2
    /// From this level on a topic says which request created it.
    static let creationRequests: Int32 = 2
    /// From this level on producer ids are given out.
    static let producerIDs: Int32 = 2
    /// From this level on partitions say which of their replicas can't be used, and registrations which
    /// log directories.
    package static let offlineReplicas: Int32 = 3

    /// Every feature there is.
    static let names = [metadataVersion]

    /// The levels of `name` that this release supports; `nil` for a feature that it doesn't know.
    package static func supportedLevels(of name: String) -> ClosedRange<Int32>? {
        name == metadataVersion ? supported : nil
    }
}

extension ClosedRange<Int32> {
    /// As a person would say it.
    var text: String {
        lowerBound == upperBound ? "level \(lowerBound)" : "levels \(lowerBound) to \(upperBound)"
    }
}
