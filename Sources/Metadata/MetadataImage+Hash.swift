internal import Essentials
internal import HashTreeCollections

extension MetadataImage {
    /// A hash of what the image says, the same in every process; where the log ends is no part of it.
    ///
    /// Images with equal content have equal hashes, so that nodes can be compared by offset. It
    /// costs a walk over the whole image.
    package var contentHash: UInt64 {
        var sum = ContentHasher()
        sum.combine(UInt64(bitPattern: nextProducerID))
        // Sums over the hashes of single things: the order in which a trie gives them is nobody's
        // business.
        sum.combine(
            features.reduce(into: UInt64(0)) { sum, feature in
                sum &+= ContentHasher.hash { hasher in
                    hasher.combine(feature.key)
                    hasher.combine(feature.value)
                }
            })
        sum.combine(brokers.values.reduce(into: UInt64(0)) { $0 &+= $1.contentHash })
        sum.combine(topics.values.reduce(into: UInt64(0)) { $0 &+= $1.contentHash })
        var configSum: UInt64 = 0
        for (resource, values) in configs {
            for (name, value) in values {
                configSum &+= ContentHasher.hash { hasher in
                    hasher.combine(resource)
                    hasher.combine(name)
                    hasher.combine(value)
                }
            }
        }
        sum.combine(configSum)
        return sum.value
    }
}

extension BrokerRegistration {
    fileprivate var contentHash: UInt64 {
        ContentHasher.hash { hasher in
            hasher.combine(id.rawValue)
            hasher.combine(incarnation)
            hasher.combine(UInt64(bitPattern: epoch.rawValue))
            hasher.combine(host)
            hasher.combine(UInt64(bitPattern: Int64(port)))
            hasher.combine(rack ?? "")
            hasher.combine(UInt64(directories.count))
            for directory in directories { hasher.combine(directory) }
            for directory in offlineDirectories { hasher.combine(directory) }
            hasher.combine((fenced ? 1 : 0) + (inControlledShutdown ? 2 : 0) as UInt64)
            hasher.combine(featureLevels?.lowerBound ?? 0)
            hasher.combine(featureLevels?.upperBound ?? 0)
        }
    }
}

extension TopicImage {
    fileprivate var contentHash: UInt64 {
        ContentHasher.hash { hasher in
            hasher.combine(id)
            hasher.combine(request ?? .zero)
            hasher.combine(name)
            hasher.combine(UInt64(partitions.count))
            for state in partitions {
                for brokers in [state.replicas, state.isr, state.eligibleLeaderReplicas] {
                    hasher.combine(UInt64(brokers.count))
                    for broker in brokers { hasher.combine(broker.rawValue) }
                }
                for broker in state.offlineReplicas { hasher.combine(broker.rawValue) }
                hasher.combine(state.leader?.rawValue ?? -1)
                hasher.combine(state.leaderEpoch.rawValue)
                hasher.combine(state.partitionEpoch.rawValue)
            }
        }
    }
}

/// Mixes words into one; unlike `Hasher`, the same way in every process.
///
/// Source: the finalizer of Sebastiano Vigna's splitmix64, applied to each word in turn.
private struct ContentHasher {
    private(set) var value: UInt64 = 0x9e37_79b9_7f4a_7c15

    static func hash(_ body: (inout ContentHasher) -> Void) -> UInt64 {
        var hasher = ContentHasher()
        body(&hasher)
        return hasher.value
    }

    mutating func combine(_ word: UInt64) {
        var mixed = (value ^ word) &+ 0x9e37_79b9_7f4a_7c15
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        value = mixed ^ mixed >> 31
    }

    mutating func combine(_ number: Int32) {
        combine(UInt64(UInt32(bitPattern: number)))
    }

    mutating func combine(_ id: UniqueID) {
        combine(id.high)
        combine(id.low)
    }

    mutating func combine(_ text: String) {
        combine(UInt64(text.utf8.count))
        var word: UInt64 = 0
        for (index, byte) in text.utf8.enumerated() {
            word = word << 8 | UInt64(byte)
            if index % 8 == 7 { combine(word) }
        }
        combine(word)
    }

    mutating func combine(_ resource: ConfigResource) {
        switch resource {
        case .clusterDefault:
            combine(1 as UInt64)
        case .broker(let id):
            combine(2 as UInt64)
            combine(id.rawValue)
        case .topic(let name):
            combine(3 as UInt64)
            combine(name)
        }
    }
}
